#!/usr/bin/env bash
# Compiles every public header alone, under strict warnings, and links the lot.
#
#     bash cmake/headers_alone.sh COMPILER BUILD_DIRECTORY
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/setup.sh"
cmake -S "$here/headers_alone" -B "$2" -G Ninja -DCMAKE_CXX_COMPILER="$1" --log-level=WARNING
cmake --build "$2" --parallel "$(catmerge_jobs)"
