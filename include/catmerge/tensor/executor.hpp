// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <catmerge/error.hpp>
#include <catmerge/tensor/scalar.hpp>
#include <functional>
#include <memory>
#include <string>

namespace catmerge {

/// Runs task(0) ... task(count - 1), each once, in any order and on any threads, and returns when
/// all are done. Rethrows the first exception of a task. May be called from inside a task. The
/// library starts no threads itself: hand a context your own pool in this form. A task takes some
/// microseconds, and an operation on a large weight has thousands: give a thread many at a time. A
/// task needs at most 64 KiB of stack on every processor.
///
/// If tasks are left out (by a pool that was shut down), run twice or lose their exception, the
/// operation throws catmerge::error.
using executor = std::function<void(index_t count, const std::function<void(index_t)>& task)>;

namespace detail {

/// Runs the tasks. Throws error unless each ran once and to its end: the caller reads their
/// results.
inline void run_all(const executor& run, index_t count, const std::function<void(index_t)>& task) {
  const auto begun = std::make_unique<std::atomic<bool>[]>(static_cast<std::size_t>(count));
  std::atomic<index_t> done{0};
  run(count, [&](index_t i) {
    if (i < 0 || i >= count || begun[static_cast<std::size_t>(i)].exchange(true))
      throw error("the executor ran task " + std::to_string(i) + " of " + std::to_string(count) +
                  (i < 0 || i >= count ? ", which there is not" : " twice") +
                  ": it has to run each of 0 to count - 1 once");
    task(i);
    ++done;
  });
  if (done != count)
    throw error("the executor came back after " + std::to_string(done) + " of " +
                std::to_string(count) +
                " tasks: it has to run all, wait for them, and pass on what they throw");
}

}  // namespace detail
}  // namespace catmerge
