#!/usr/bin/env bash
# Checks the plan of include/catmerge (include/catmerge/README.md) by its includes, and prints the counts.
#
#     bash cmake/house.sh
#
# - The root holds catmerge.hpp, methods.hpp, error.hpp and version.hpp, and nothing else.
# - A folder includes itself and the folders in its line of the list below.
# - Nothing outside a folder includes its detail/. (Tests may.)
# - No header includes itself, directly or by others; the longest chain of includes has at most 15 headers.
# - Four headers stay light: each has a limit on the lines of own headers under it.
# - In examples/harness only main.cpp and commands/ include CLI11.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# INCLUDER INCLUDED, both relative to include/catmerge.
(cd include/catmerge && grep -rHo --include='*.hpp' '^#include <catmerge/[^>]*' . |
  sed 's|^\./||; s|:#include <catmerge/| |') | sort > "$work/includes"
(cd include/catmerge && find . -name '*.hpp' -exec wc -l {} + | sed 's|\./||; /total$/d') > "$work/lines"
grep -rHo --include='*.[hc]pp' '^#include <catmerge/[^>]*detail/[^>]*' examples benchmarks |
  sed 's|:#include <catmerge/| |' > "$work/outside" || true
grep -rl --include='*.[hc]pp' '^#include <CLI/' examples/harness > "$work/command_line" || true

awk '
  function wrong(text) { print "house: " text; failed = 1 }
  function folder(header) { return header ~ /\// ? substr(header, 1, index(header, "/") - 1) : "root" }

  # Marks all headers under a header, and returns the sum of their lines.
  function collect(header, seen,    list, n, i, sum) {
    if (header in seen) return 0
    seen[header]
    sum = lines[header]
    n = split(under[header], list, " ")
    for (i = 1; i <= n; ++i) sum += collect(list[i], seen)
    return sum
  }
  # Returns the length of the longest chain of includes from a header.
  function depth(header,    list, n, i, d, most) {
    if (header in known) return known[header]
    if (header in open) { wrong(header " includes itself, by way of others"); return 0 }
    open[header]
    n = split(under[header], list, " ")
    for (i = 1; i <= n; ++i) {
      d = depth(list[i])
      if (d > most) { most = d; next_in_chain[header] = list[i] }
    }
    delete open[header]
    return known[header] = most + 1
  }
  function at_most(what, header, limit,    seen, sum) {
    sum = collect(header, seen)
    printf "%-18s %5d lines of own headers (at most %d)\n", what, sum, limit
    if (!(header in lines)) wrong(header " is not there")
    if (sum > limit) wrong("<catmerge/" header "> includes more than " limit " lines")
  }

  BEGIN {
    may["root"] = ""
    may["tensor"] = "root"
    may["adapt"] = "root tensor"
    may["numeric"] = "root tensor"
    may["features"] = "root tensor"
    may["merge"] = "root tensor features"
    may["cat"] = "root tensor numeric features merge"
    may["methods"] = "root tensor numeric features merge cat"
    may["factors"] = "root tensor numeric features merge cat methods"
    may["io"] = "root tensor features"
    may["model"] = "root tensor features io"
  }
  FILENAME ~ /lines$/ { lines[$2] = $1; next }
  FILENAME ~ /includes$/ {
    under[$1] = under[$1] " " $2
    from = folder($1); to = folder($2)
    if (!($2 in lines)) wrong($1 " includes <catmerge/" $2 ">, which is not there")
    if ($1 == "catmerge.hpp" || $1 == "methods.hpp") next
    if (from != to && index(" " may[from] " ", " " to " ") == 0)
      wrong($1 " includes <catmerge/" $2 ">: " from "/ may include " (may[from] == "" ? "nothing" : may[from]))
    if (from != to && $2 ~ /\/detail\//) wrong($1 " includes <catmerge/" $2 ">, which is for " to "/ alone")
    next
  }
  FILENAME ~ /outside$/ { wrong($1 " includes <catmerge/" $2 ">, which is for its folder alone"); next }
  FILENAME ~ /command_line$/ && $1 !~ /harness\/(main\.cpp|commands\/)/ { wrong($1 " includes CLI11") }
  END {
    for (header in lines) {
      if (folder(header) == "root" && header !~ /^(catmerge|methods|error|version)\.hpp$/)
        wrong(header " lies at the root of include/catmerge: put it into a folder")
      if (!(folder(header) in may)) wrong(header ": the folder " folder(header) "/ has no place in cmake/house.sh")
      if (depth(header) > longest) { longest = depth(header); first = header }
    }
    at_most("Task Arithmetic", "methods/task_arithmetic.hpp", 1900)
    at_most("TIES", "methods/ties.hpp", 2300)
    at_most("merge_stream", "merge/stream.hpp", 2100)
    at_most("options of CAT", "cat/options.hpp", 1500)
    printf "%-18s %5d headers (at most 15):", "longest chain", longest
    for (header = first; header != ""; header = next_in_chain[header]) printf " %s", header
    print ""
    if (longest > 15) wrong("the longest chain of includes has more than 15 headers")
    exit failed
  }' "$work/lines" "$work/includes" "$work/outside" "$work/command_line"
echo "include/catmerge is as planned"
