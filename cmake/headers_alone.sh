#!/usr/bin/env bash
# Compiles every public header alone, as an -I include of a user, with strict warnings.
#
#     bash cmake/headers_alone.sh COMPILER [--torch] [--link] [--together]
#
# --torch: also compiles libtorch's adapter. --link: also links all of them into one program, which fails if a header
# defines something twice. --together: compiles all in one source only, for the warnings of a second compiler.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/setup.sh"
compiler="$1" torch='' link='' together=''
shift
for option in "$@"; do
  case "$option" in
    --torch) torch=yes ;;
    --link) link=yes ;;
    --together) together=yes ;;
    *) echo "unknown option $option" >&2; exit 2 ;;
  esac
done
include="$(cd "$here/../include" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

cd "$include"
find catmerge -name '*.hpp' | sort > "$work/headers"
if [ -z "$torch" ]; then
  grep -vE '^catmerge/adapt/(detail/)?torch' "$work/headers" > "$work/chosen"
  mv "$work/chosen" "$work/headers"
fi
flags=(-std=c++20 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -I "$include" -isystem /usr/include/eigen3)
export compiler work link
# Compiles one header in its own source without any other include.
alone() {
  local header="$1" name
  shift
  name="${header//\//_}"
  printf '#include <%s>\n' "$header" > "$work/$name.cpp"
  if [ -n "$link" ]; then
    "$compiler" "$@" -O0 -c "$work/$name.cpp" -o "$work/$name.o"
  else
    "$compiler" "$@" -fsyntax-only "$work/$name.cpp"
  fi
}
export -f alone
sed 's/.*/#include <&>/' "$work/headers" > "$work/all_headers"
if [ -n "$together" ]; then
  "$compiler" "${flags[@]}" -fsyntax-only -x c++ "$work/all_headers"
  echo "$(wc -l < "$work/headers") headers together, by $compiler: no warning"
  exit
fi
xargs -a "$work/headers" -I{} -P "$(catmerge_jobs)" bash -c 'alone "$@"' alone {} "${flags[@]}"
# All of them at once with the standard library's checks, which make other types of its containers.
"$compiler" "${flags[@]}" -D_GLIBCXX_DEBUG -fsyntax-only -x c++ "$work/all_headers"
if [ -n "$link" ]; then
  echo 'int main() {}' > "$work/main.cpp"
  libraries=()
  [ -z "$torch" ] || libraries=(-ltorch_cpu -lc10)
  "$compiler" "$work"/*.o "$work/main.cpp" -o "$work/all" "${libraries[@]}"
fi
echo "$(wc -l < "$work/headers") headers, each compiled alone by $compiler: no warning"
