#!/usr/bin/env bash
# The compile time of a program with the library, beside a program that uses Eigen alone.
#
#     bash benchmarks/compile_time/run.sh [COMPILER [EIGEN_INCLUDE [REPETITIONS]]]
#
# Every program is compiled in turn, REPETITIONS times; the figures are the smallest processor seconds of each, at -O2,
# and their ratio to the reference. Exits with 1 if one call of CAT costs more than 1.5 times the reference.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
compiler="${1:-c++}" eigen="${2:-/usr/include/eigen3}" repetitions="${3:-3}"
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
TIMEFORMAT='%U'
for _ in $(seq "$repetitions"); do
  for program in reference include cat; do
    seconds="$({ time "$compiler" -std=c++20 -O2 -I "$here/../../include" -isystem "$eigen" -c "$here/$program.cpp" \
      -o "$out/$program.o"; } 2>&1)" || { echo "$seconds" >&2; exit 1; }
    echo "$program $seconds" >> "$out/times"
  done
done
"$compiler" --version | head -1
awk '{ if (!($1 in least) || $2 < least[$1]) least[$1] = $2 }
     END {
       reference = least["reference"]
       printf "Eigen: solver and product   %6.2f s\n", reference
       printf "catmerge, included only     %6.2f s  %.2f of it\n", least["include"], least["include"] / reference
       printf "catmerge, one call of CAT   %6.2f s  %.2f of it (at most 1.5)\n", least["cat"], least["cat"] / reference
       exit least["cat"] > 1.5 * reference
     }' "$out/times"
