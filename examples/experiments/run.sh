#!/usr/bin/env bash
# Runs all experiments on the committed families and puts their tables into the README.md beside this script.
#
#     bash examples/experiments/run.sh [BUILD_DIRECTORY [FAMILY...]]      (default: build/, all six families)
#
# Installs missing packages and builds the program first. Two hours on two processors. Writes
# results.csv and the page index.html to results/FAMILY; results.json, with the same numbers, stays in BUILD_DIRECTORY.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
here="$root/examples/experiments"
build="${1:-$root/build}"
[ $# -eq 0 ] || shift
families=("$@")
[ $# -gt 0 ] || families=(vision text conflict convnet blip decoder)

. "$root/cmake/setup.sh"
catmerge_install build
tests=()
[ -f "$build/CMakeCache.txt" ] || tests=(-DCATMERGE_TESTS=OFF)
catmerge_configure "$build" --log-level=WARNING -DCMAKE_BUILD_TYPE=Release "${tests[@]}"
cmake --build "$build" --parallel "$(catmerge_jobs)" --target catmerge_cli > "$build/experiments-build.log" || {
  cat "$build/experiments-build.log" >&2
  exit 1
}

for family in "${families[@]}"; do
  options=()
  [ "$family" != text ] || options=(--drop 'lm_head.*' --task-heads 'classifier.*')
  out="$build/experiments/$family"
  mkdir -p "$build/experiments"
  echo
  echo "## $family"
  "$build/examples/harness/catmerge" experiment "$root/examples/families/$family/family" --output "$out" --overwrite \
    --verbose "${options[@]}"
  mkdir -p "$here/results/$family"
  cp "$out/results.csv" "$out/index.html" "$here/results/$family/"

  # The lines between the family's two markers are the tables.
  awk -v first="<!-- tables of $family -->" -v last="<!-- end of $family -->" -v tables="$out/tables.md" '
    $0 == last { skipping = 0 }
    !skipping { print }
    $0 == first {
      while ((getline line < tables) > 0) print line
      skipping = 1
    }
  ' "$here/README.md" > "$here/README.md.new"
  mv "$here/README.md.new" "$here/README.md"
done
