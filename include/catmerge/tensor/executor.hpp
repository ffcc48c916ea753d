// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/scalar.hpp>
#include <functional>

namespace catmerge {

/// Runs task(0) ... task(count - 1), in any order and on any threads, and returns when all are
/// done. Rethrows the first exception of a task. May be called from inside a task. The library
/// starts no threads itself: hand a context your own pool in this form. A task is some microseconds
/// of work, and an operation on a large weight has thousands: give a thread many at a time.
using executor = std::function<void(index_t count, const std::function<void(index_t)>& task)>;

}  // namespace catmerge
