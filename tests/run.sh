#!/usr/bin/env bash
# Installs missing packages, builds everything and runs the tests.
#
#     bash tests/run.sh [--torch] [BUILD_DIRECTORY]      (default: build/ inside the checkout)
#
# --torch: also libtorch's adapter (installs libtorch, half a gigabyte with its dependencies).
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
