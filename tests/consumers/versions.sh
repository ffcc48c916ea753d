#!/usr/bin/env bash
# Tries versions that Debian does not have: CMake, Eigen and PyTorch's libtorch of PyPI, and MinGW's Windows where that is
# installed. Prints a line for each, with its version, and what failed at the end.
#
#     bash tests/consumers/versions.sh [--torch] [COMPILER]      (default: g++; some ten minutes)
#
# By hand, and not in CI: it installs what it tries, into a directory of its own that is removed at the end. --torch: the
# newest PyTorch and the last that was built with the old std::string, two times three gigabytes.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
torch=''
if [ "${1:-}" = --torch ]; then
  torch=yes
  shift
fi
compiler="$(command -v "${1:-g++}")"
compiler_id=GNU
"$compiler" --version | grep -q clang && compiler_id=Clang
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
failed=0

python3 -m venv "$work/python"
# take NAME PACKAGE...: installs wheels into $work/NAME, which holds nothing else.
take() {
  local name="$1"
  shift
  "$work/python/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$work/$name" "$@"
}

# consumer CMAKE HINTS INCLUDES CASE: one project of this directory.
consumer() {
  "$1" "-DCASE=$4" "-DCHECKOUT=$root" "-DVERSION=$version" -DGENERATOR=Ninja "-DCOMPILER=$compiler" \
    "-DCOMPILER_ID=$compiler_id" "-DHINTS=$2" "-DSYSTEM_INCLUDES=$3" "-DPKG_CONFIG=$(command -v pkg-config || true)" \
    -P "$root/tests/consumers/run.cmake"
}

# line WHAT COMMAND...: "WHAT: ok", or its output and "WHAT: FAILED".
line() {
  local what="$1" status
  shift
  # (Not "if": set -e would then be without effect in the command.)
  set +e
  (set -e; "$@") > "$work/log" 2>&1
  status=$?
  set -e
  if [ "$status" = 0 ]; then
    echo "$what: ok"
  else
    cat "$work/log"
    echo "$what: FAILED"
    failed=1
  fi
}

version="$(sed -n 's/^#define CATMERGE_VERSION_[MP][A-Z]* \([0-9]*\)/\1/p' "$root/include/catmerge/version.hpp" | paste -sd.)"
"$compiler" --version | head -1
debian_eigen=/usr/include/eigen3

with_cmake() {
  local cmake="$1" case
  "$cmake" -S "$root" -B "$work/whole" -G Ninja "-DCMAKE_CXX_COMPILER=$compiler" -DCATMERGE_XTENSOR=ON \
    -DCATMERGE_ARMADILLO=ON
  rm -rf "$work/whole"
  for case in find_package find_package_io add_subdirectory fetch_content two_parts installs_itself own_eigen \
    eigen_versions amalgamated; do
    consumer "$cmake" '' "$debian_eigen" "$case"
  done
}
# The oldest that will do, some between, and the newest.
for wanted in '==3.16.*' '==3.18.*' '==3.22.*' '==3.28.*' '==3.31.*' '==4.0.*' ''; do
  rm -rf "$work/cmake"
  take cmake "cmake$wanted"
  cmake="$work/cmake/cmake/data/bin/cmake"
  line "$("$cmake" --version | head -1)" with_cmake "$cmake"
done

# A package of Eigen as it is installed, and the headers alone that another wheel has.
with_eigen_headers() {
  "$compiler" -std=c++20 -O1 -I "$root/include" -isystem "$1" "$root/tests/consumers/find_package/main.cpp" -o "$work/cat"
  "$work/cat"
  consumer cmake '' "$1" strict
}
with_eigen_package() {
  consumer cmake "-DEigen3_DIR=$1/share/eigen3/cmake" "$1/include/eigen3" find_package
  with_eigen_headers "$1/include/eigen3"
}
eigen_version() {
  "$compiler" -isystem "$1" -E -P -x c++ - << END | tail -1 | tr ' ' .
#include <Eigen/Core>
#if EIGEN_MAJOR_VERSION < 5
EIGEN_WORLD_VERSION EIGEN_MAJOR_VERSION EIGEN_MINOR_VERSION
#else
EIGEN_MAJOR_VERSION EIGEN_MINOR_VERSION EIGEN_PATCH_VERSION
#endif
END
}
take eigen cmeel-eigen
line "Eigen $(eigen_version "$work/eigen/cmeel.prefix/include/eigen3")" with_eigen_package "$work/eigen/cmeel.prefix"
take eigency eigency
line "Eigen $(eigen_version "$work/eigency/eigency/eigen") (headers)" with_eigen_headers "$work/eigency/eigency/eigen"

# The Windows headers, with all their macros, before the library's. (Not MSVC.)
with_mingw() {
  printf '#include <windows.h>\n#include <catmerge/catmerge.hpp>\n#include <catmerge/methods.hpp>\n' > "$work/windows.cpp"
  sed '/#include/d' "$root/tests/consumers/find_package/main.cpp" >> "$work/windows.cpp"
  "$1" -std=c++20 -O1 -Wall -Wextra -Wconversion -Werror -I "$root/include" -isystem "$debian_eigen" "$work/windows.cpp" \
    -o "$work/windows.exe"
}
if mingw="$(command -v x86_64-w64-mingw32-g++-posix)"; then
  line "$("$mingw" --version | head -1), compiled and linked" with_mingw "$mingw"
else
  echo "MinGW: not installed (Debian's g++-mingw-w64-x86-64-posix), not tried"
fi

# libtorch, by PyTorch's own prefix. Its libraries need two of CUDA's, which are wheels of their own.
with_torch() {
  cmake -S "$root" -B "$work/build" -G Ninja "-DCMAKE_CXX_COMPILER=$compiler" -DCATMERGE_TORCH=ON -DCATMERGE_NATIVE=OFF \
    -DCMAKE_BUILD_TYPE=Release "-DCMAKE_PREFIX_PATH=$work/torch/torch/share/cmake"
  cmake --build "$work/build" --target test_backend_torch catmerge_libtorch_model
  ctest --test-dir "$work/build" --output-on-failure -R '^(backend_torch|example_libtorch_model)$'
  rm -rf "$work/build"
}
if [ -n "$torch" ]; then
  for wanted in '==2.6.*' ''; do
    rm -rf "$work/torch"
    take torch "torch$wanted"
    metadata="$(echo "$work"/torch/torch-*.dist-info/METADATA)"
    mapfile -t cuda < <(sed -nE -e 's/^Requires-Dist: (nvidia-cuda-(runtime|cupti)-cu[0-9]+) *\(?(==[0-9.]+).*/\1\3/p' \
      -e 's/^Requires-Dist: cuda-toolkit\[.*\](==[0-9.]+).*/cuda-toolkit[cudart,cupti]\1/p' "$metadata")
    "$work/python/bin/pip" install --quiet --disable-pip-version-check --target "$work/torch" "${cuda[@]}"
    line "libtorch $(sed -n 's/^Version: //p' "$metadata")" with_torch
  done
fi
exit "$failed"
