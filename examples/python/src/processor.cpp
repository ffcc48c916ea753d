// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <nanobind/nanobind.h>

// Compiled for any processor, so that it can be asked before a part that needs more is loaded.
NB_MODULE(_processor, m) {
  m.def("runs_avx2", [] {
#if defined(__x86_64__) && defined(__GNUC__)
    return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
#else
    return false;
#endif
  });
}
