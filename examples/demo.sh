#!/usr/bin/env bash
# Merges the seven vision transformers of examples/families/vision without a setting and without labels, and prints how
# well the merged network does beside those of other methods, whose settings are chosen on labels.
#
#     bash examples/demo.sh [--all] [BUILD_DIRECTORY]      (default: build/ inside the checkout)
#
# Installs missing packages and builds the program. After that it takes a minute on two processors. Writes demo/ in the
# build directory: the merged network and a page about it.
# --all: all methods, on this family and on the five RoBERTas of examples/families/text; eight minutes.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
all=no
if [ "${1:-}" = --all ]; then
  all=yes
  shift
fi
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
vision="$root/examples/families/vision/family"
text="$root/examples/families/text/family"
demo="$build/demo"
mkdir -p "$demo"

echo
echo "# One network from seven, without a setting: 8 unlabeled samples per task"
echo
inputs=(--base "$vision/base")
for expert in "$vision"/experts/*.safetensors; do
  task="$(basename "$expert" .safetensors)"
  inputs+=(--expert "$task=$expert" --samples "$task=$vision/samples/$task.safetensors"
    --head "$task=$vision/heads/$task.safetensors")
done
"$catmerge" merge "${inputs[@]}" --sample-count 8 --output "$demo/merged.safetensors" --report "$demo/report.html" \
  --overwrite

echo
echo "# Beside other methods: top-1 accuracy in percent on the test split"
echo
if [ "$all" = no ]; then
  "$catmerge" experiment "$vision" --studies comparison --seeds 1 --samples 8 \
    --methods auto,average,task-arithmetic,ties,cat,tsv-m,iso-c
else
  "$catmerge" experiment "$vision" --studies comparison
  echo
  echo "# Five RoBERTas: in percent, by the measure in the table's head, else accuracy; one draw of samples"
  echo
  "$catmerge" experiment "$text" --studies comparison --seeds 1 --drop 'lm_head.*' --task-heads 'classifier.*'
fi

echo
echo "The merged network: $demo/merged.safetensors"
echo "The page about it:  $demo/report.html"
[ "$all" = yes ] || echo "All methods, on two families: bash examples/demo.sh --all"
echo "All studies, on six families: examples/experiments"
