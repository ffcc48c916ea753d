#!/usr/bin/env bash
# Merges the committed networks (examples/vision/README.md and examples/text/README.md say what they are) and prints
# what comes out.
#
#     bash examples/demo.sh [BUILD_DIRECTORY]      (default: build/ inside the checkout)
#
# Installs what is missing, builds the program, then compares the methods on both families (examples/compare.sh).
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

echo
echo "Seven vision transformers: top-1 accuracy in percent on the test split, 3 unlabeled samples per task for CAT:"
echo
bash "$root/examples/compare.sh" "$root/examples/vision/family" "$build"
echo
echo "Five RoBERTas, 3 unlabeled samples per task for CAT:"
echo
bash "$root/examples/compare.sh" "$root/examples/text/family" "$build" --drop 'lm_head.*' --task-heads 'classifier.*'
