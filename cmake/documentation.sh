#!/usr/bin/env bash
# Makes the API documentation. A public name without documentation, or a mistake in it, is an error.
#
#     bash cmake/documentation.sh [DIRECTORY]      (default: build/doc of the checkout; writes DIRECTORY/index.html)
#
# DIRECTORY/catmerge.tag lets the pages of other projects' Doxygen link to these.
set -euo pipefail
output=$(realpath --canonicalize-missing -- "${1:-$(dirname "$0")/../build/doc}")
cd "$(dirname "$0")/.."
command -v doxygen > /dev/null || { echo "documentation: doxygen is not installed" >&2; exit 1; }

if [ -e "$output/doxygen.css" ]; then rm -rf "$output"; fi  # an earlier run's, with pages that may be stale
mkdir -p "$output"
if ! doxygen - << END
$(cat cmake/Doxyfile)
OUTPUT_DIRECTORY = "$(dirname "$output")"
HTML_OUTPUT = "$(basename "$output")"
GENERATE_TAGFILE = "$output/catmerge.tag"
END
then
  echo "documentation: see the messages above" >&2
  exit 1
fi
names=$(grep -oE '<compound kind="(class|struct|concept)"|<anchor>[^<]+' "$output/catmerge.tag" |
  awk '/compound/ || !seen[$0]++ { ++names } END { print names }')
echo "documentation: $names public names in $output/index.html"
