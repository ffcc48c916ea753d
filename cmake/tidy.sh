#!/usr/bin/env bash
# Runs clang-tidy (.clang-tidy has the checks) over the library's headers and the program's sources, libtorch's and
# xtensor's adapters excepted.
#
#     bash cmake/tidy.sh
#
# The library is one source here, and the program another: a template that all of them include is looked at once, not
# 35 times. (So names in the anonymous namespaces of the program's sources differ.)
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# tidied NAME FILTER: clang-tidy on a source that includes the files listed in NAME.files; warnings where FILTER matches.
tidied() {
  sed 's/.*/#include <&>/' "$work/$1.files" > "$work/$1.cpp"
  clang-tidy --quiet --config-file="$root/.clang-tidy" --header-filter="$2" "$work/$1.cpp" -- -std=c++20 \
    -I "$root/include" -I "$root/examples" -isystem /usr/include/eigen3 > "$work/$1.log" 2>&1
}
cd "$root/include"
find catmerge -name '*.hpp' ! -path 'catmerge/adapt/*torch*' ! -name 'xtensor.hpp' | sort > "$work/library.files"
cd "$root/examples"
{ find harness -name '*.hpp' | sort; find harness -name '*.cpp' | sort; } > "$work/program.files"
status=0
tidied library 'include/catmerge/' &
library=$!
tidied program 'examples/harness/' || status=1
wait "$library" || status=1
[ "$status" = 0 ] || cat "$work"/*.log >&2
[ "$status" = 0 ]
echo "$(cat "$work"/*.files | wc -l) files, read by clang-tidy $(clang-tidy --version | grep -o '[0-9.]*' | head -1): no warning"
