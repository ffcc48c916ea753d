#!/usr/bin/env bash
# Merges two of the committed families (see README.md in examples/families/vision and examples/families/text) and prints
# the results.
#
#     bash examples/demo.sh [BUILD_DIRECTORY]      (default: build/ inside the checkout)
#
# Installs missing packages, builds the program, then compares the methods on both families (`catmerge experiment`).
# Eight minutes on two processors.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
build="${1:-$root/build}"
. "$root/cmake/setup.sh"
catmerge_install build
tests=()
[ -f "$build/CMakeCache.txt" ] || tests=(-DCATMERGE_TESTS=OFF)
catmerge_configure "$build" --log-level=WARNING -DCMAKE_BUILD_TYPE=Release "${tests[@]}"
echo "Building the program ..."
cmake --build "$build" --parallel "$(catmerge_jobs)" --target catmerge_cli > "$build/demo-build.log" || {
  cat "$build/demo-build.log" >&2
  exit 1
}

catmerge="$build/examples/harness/catmerge"
echo
echo "# Seven vision transformers: top-1 accuracy in percent on the test split"
echo
"$catmerge" experiment "$root/examples/families/vision/family" --studies comparison
echo
echo "# Five RoBERTas: in percent, by the measure in the table's head, else accuracy; one draw of samples"
echo
"$catmerge" experiment "$root/examples/families/text/family" --studies comparison --seeds 1 \
  --drop 'lm_head.*' --task-heads 'classifier.*'
echo
echo "All studies, on four families: examples/experiments. One merge, with a page to look at:"
echo "  $catmerge merge --base $root/examples/families/vision/family/base \\"
for task in digits fashion; do
  echo "    --expert $task=$root/examples/families/vision/family/experts/$task.safetensors \\"
  echo "    --samples $task=$root/examples/families/vision/family/samples/$task.safetensors \\"
done
echo "    --sample-count 3 --output merged.safetensors --report report.html"
