# Installs the programs and libraries of this project's scripts from Debian's own packages. To be sourced:
#
#     . cmake/setup.sh
#     catmerge_install build test      # any of: build test torch python clang browser ci
#
# Names the missing packages, then installs them, as root or through sudo. Prints nothing if all are there.

# The libraries' headers, and a compiler for the programs.
catmerge_packages_build="g++ cmake ninja-build libeigen3-dev nlohmann-json3-dev libcli11-dev"
# Headers for the tests alone: doctest, Spectra, and the small header-only tensor libraries. pkg-config, which finds the
# library.
catmerge_packages_test="doctest-dev libspectra-dev libxtensor-dev libarmadillo-dev pkgconf"
# libtorch, half a gigabyte with its dependencies: its adapter's tests and example.
catmerge_packages_torch="libtorch-dev"
# The formatter and the linter, the benchmarks' library, the documentation's generator; Python for tests of the scripts in examples/.
catmerge_packages_ci="clang-format clang-tidy libbenchmark-dev doxygen python3"

# A browser, to look at the pages of reports, and the font that their text is measured for.
catmerge_packages_browser="chromium fonts-dejavu-core"

# The Python module of examples/: a compiler for it is in "build".
catmerge_packages_python="python3-venv python3-dev"

# The other compiler, with its sanitizers and libFuzzer.
catmerge_packages_clang="clang libclang-rt-14-dev"

# catmerge_install PURPOSE...
catmerge_install() {
  local purpose list package missing=""
  for purpose in "$@"; do
    list="catmerge_packages_$purpose"
    if [ -z "${!list:-}" ]; then
      echo "catmerge_install: unknown purpose '$purpose' (build, test, torch, python, clang, browser or ci)" >&2
      return 2
    fi
    for package in ${!list}; do
      catmerge_installed "$package" || missing="$missing $package"
    done
  done
  [ -n "$missing" ] || return 0

  local as_root="" apt="env DEBIAN_FRONTEND=noninteractive apt-get"
  if ! command -v apt-get > /dev/null; then
    echo "error: this set-up knows Debian's packages only, and there is no apt-get here. Install by other means what" \
         "provides:$missing, and make CATMERGE_SKIP_SETUP=1 part of the environment." >&2
    return 1
  fi
  if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo > /dev/null; then
      echo "error: these packages are missing and only root can install them (there is no sudo):$missing" >&2
      return 1
    fi
    as_root=sudo
  fi
  echo "Installing from Debian:$missing"
  # Quiet unless the installation fails.
  local log status=0
  log="$(mktemp)"
  # (A failed update is no error: the old lists may be enough for the installation.)
  { $as_root $apt update || true; $as_root $apt install -y --no-install-recommends $missing; } > "$log" 2>&1 || status=$?
  if [ "$status" != 0 ]; then
    cat "$log" >&2
    echo "error: the packages could not be installed (apt-get's messages stand above)" >&2
  fi
  rm -f "$log"
  return "$status"
}

# Succeeds if a Debian package is installed, or if the user vouches for it.
catmerge_installed() {
  [ -z "${CATMERGE_SKIP_SETUP:-}" ] || return 0
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2> /dev/null)" = installed ]
}

# The number of jobs to compile with: one per processor, at most one per 2 GB of free memory (the largest of this
# project's files take that to compile).
catmerge_jobs() {
  local processors memory
  processors="$(nproc)"
  memory="$(awk '/^MemAvailable:/ { print int($2 / 2000000) }' /proc/meminfo 2> /dev/null || true)"
  [ -n "$memory" ] || memory=1
  [ "$memory" -ge 1 ] || memory=1
  echo "$((processors < memory ? processors : memory))"
}

# catmerge_configure BUILD [ARGUMENT...]: runs CMake on this checkout, by Ninja in a new build directory, by its own
# generator in an old one.
catmerge_configure() {
  local build="$1" root generator=()
  shift
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  [ -f "$build/CMakeCache.txt" ] || generator=(-G Ninja)
  cmake -S "$root" -B "$build" "${generator[@]}" "$@"
}
