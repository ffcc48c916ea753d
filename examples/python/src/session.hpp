// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <nanobind/nanobind.h>

#include <catmerge/tensor/host/host.hpp>
#include <chrono>
#include <functional>
#include <harness/system/pool.hpp>

namespace catmerge::python {

namespace nb = nanobind;

/// Throws the exception of a signal's handler, KeyboardInterrupt for Ctrl-C, if a signal came.
/// Looks at most ten times a second. Python runs handlers in its main thread only, so elsewhere
/// this does nothing. Takes the interpreter's lock.
class interrupts {
 public:
  void check() {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < std::chrono::milliseconds(100)) return;
    last_ = now;
    const nb::gil_scoped_acquire lock;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

/// The threads and the context of one call. Work ends with an exception soon after Ctrl-C.
class session {
 public:
  /// threads: 0 for as many as the machine runs at once.
  explicit session(unsigned threads)
      : pool_(threads == 0 ? harness::default_threads() : threads),
        run_(pool_.runner()),
        context_([this](index_t count, const std::function<void(index_t)>& task) {
          if (std::this_thread::get_id() == caller_) interrupts_.check();
          run_(count, task);
        }) {}
  session(const session&) = delete;
  session& operator=(const session&) = delete;

  context<host>& c() { return context_; }

 private:
  harness::pool pool_;
  executor run_;
  std::thread::id caller_ = std::this_thread::get_id();
  interrupts interrupts_;
  context<host> context_;
};

}  // namespace catmerge::python
