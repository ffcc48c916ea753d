#!/usr/bin/env bash
# Installs what is missing, builds everything and runs the tests.
#
#     bash tests/run.sh [--torch] [BUILD_DIRECTORY]      (default: build/ inside the checkout)
#
# --torch: libtorch's adapter as well (installs libtorch, half a gigabyte with what it needs).
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
torch=OFF
if [ "${1:-}" = --torch ]; then
  torch=ON
  shift
fi
build="${1:-$root/build}"
. "$root/cmake/setup.sh"
. "$root/cmake/ctest.sh"

catmerge_install build test
[ "$torch" = OFF ] || catmerge_install torch
catmerge_configure "$build" -DCMAKE_BUILD_TYPE=Release -DCATMERGE_TESTS=ON -DCATMERGE_EXAMPLES=ON \
  -DCATMERGE_XTENSOR=ON -DCATMERGE_ARMADILLO=ON "-DCATMERGE_TORCH=$torch"
cmake --build "$build" --parallel "$(catmerge_jobs)"
catmerge_ctest "$build"
