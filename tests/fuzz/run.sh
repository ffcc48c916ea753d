#!/usr/bin/env bash
# Builds the fuzz targets with Clang and runs each for some time, two at once, from the kept corpus.
#
#     bash tests/fuzz/run.sh [SECONDS [BUILD_DIRECTORY]]      (default: 60, build-fuzz/ inside the checkout)
#
# New inputs stay in BUILD_DIRECTORY/found: an input that fails is TARGET/crash-..., and the log says why. To keep those
# that cover more than the corpus does:  BUILD_DIRECTORY/tests/fuzz_TARGET -merge=1 tests/fuzz/corpus/TARGET FOUND
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
seconds="${1:-60}"
build="${2:-$root/build-fuzz}"
. "$root/cmake/setup.sh"
targets="adapter safetensors index config npy statistics"

catmerge_install build test clang
catmerge_configure "$build" --log-level=WARNING -DCMAKE_BUILD_TYPE=Debug '-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1' \
  -DCMAKE_CXX_COMPILER=clang++ -DCATMERGE_FUZZ=ON -DCATMERGE_EXAMPLES=OFF
# shellcheck disable=SC2086
cmake --build "$build" --parallel "$(catmerge_jobs)" --target $(printf 'fuzz_%s ' $targets)

# fuzz TARGET: its log, and whether it found nothing
fuzz() {
  local found="$build/found/$1"
  rm -f "$found"/{crash,leak,oom,timeout}-*
  mkdir -p "$found/inputs"
  "$build/tests/fuzz_$1" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=4096 -print_final_stats=1 \
    -artifact_prefix="$found/" "$found/inputs" "$root/tests/fuzz/corpus/$1" > "$found/log" 2>&1
}
export -f fuzz
export build seconds root
status=0
printf '%s\n' $targets | xargs -P 2 -I{} bash -c 'fuzz {} || { echo "fuzz_{} FAILED"; exit 1; }' || status=1
failed=0 passed=0
for target in $targets; do
  log="$build/found/$target/log"
  echo "fuzz_$target: $(awk '/number_of_executed_units/ { print $2 }' "$log") inputs in $seconds s"
  if grep -q 'number_of_executed_units' "$log" && ! grep -q 'ERROR' "$log"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    tail -n 40 "$log"
  fi
done
echo "$passed passed, $failed failed"
exit "$status"
