// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <numeric>
#include <vector>

namespace catmerge::harness {

/// The mean of some values, over samples or tasks.
inline double average_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace catmerge::harness
