// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <nanobind/nanobind.h>

#include <harness/system/progress.hpp>
#include <string>

namespace catmerge::python {

namespace nb = nanobind;

/// While it lives, the progress of this thread's merge goes to a function of Python, called with
/// the phase, the steps done and their number; and Ctrl-C ends the merge. What the function raises
/// ends it, too. To be made and destroyed with the interpreter's lock.
class observed {
 public:
  /// callback: a function or None; it must outlive this object.
  explicit observed(nb::handle callback) {
    harness::observed_by = [callback](const std::string& phase, std::ptrdiff_t done,
                                      std::ptrdiff_t total) {
      const nb::gil_scoped_acquire lock;
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
      if (!callback.is_none()) callback(phase, done, total);
    };
  }
  observed(const observed&) = delete;
  observed& operator=(const observed&) = delete;
  ~observed() { harness::observed_by = nullptr; }
};

}  // namespace catmerge::python
