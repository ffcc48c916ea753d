# To be sourced. catmerge_ctest BUILD [ARGUMENT...]: runs ctest with the arguments and ends with a line
#
#     N passed, N failed
#
# that counts test cases: those of each doctest program, and one for every other test. Fails if ctest fails.
catmerge_ctest() {
  local build="$1" status=0
  shift
  ctest --test-dir "$build" --output-on-failure --no-tests=error --parallel "$(nproc)" "$@" || status=$?
  awk '
    # A program that failed without a summary (or with a good one) is one failure.
    /^[0-9]+\/[0-9]+ Test: / { passed = 0; failed = 0; ok = 0 }
    /^\[doctest\] test cases:/ {
      gsub(/\033\[[0-9;]*m/, "")
      for (i = 2; i <= NF; ++i) {
        if ($i == "passed") passed = $(i - 1)
        if ($i == "failed") failed = $(i - 1)
      }
    }
    # (The second line is that of a test that passes by its output.)
    /^Test Passed\.$/ || /^Test Pass Reason:$/ { ok = 1 }
    /^".*" end time: / {
      all_passed += ok && !passed ? 1 : passed
      all_failed += !ok && !failed ? 1 : failed
    }
    END { printf "%d passed, %d failed\n", all_passed, all_failed }
  ' "$build/Testing/Temporary/LastTest.log"
  return "$status"
}
