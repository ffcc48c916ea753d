#!/usr/bin/env bash
# Installs what is missing, builds everything and runs the tests.
#
#     bash tests/run.sh [BUILD_DIRECTORY]      (default: build/ inside the checkout)
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
build="${1:-$root/build}"
. "$root/cmake/setup.sh"
. "$root/cmake/ctest.sh"

catmerge_install build test
catmerge_configure "$build" -DCMAKE_BUILD_TYPE=Release -DCATMERGE_TESTS=ON -DCATMERGE_EXAMPLES=ON
cmake --build "$build" --parallel "$(catmerge_jobs)"
catmerge_ctest "$build"
