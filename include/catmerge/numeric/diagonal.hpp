// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/tensor/context.hpp>
#include <vector>

namespace catmerge::detail {

/// y += diag(entries), y square and double. In blocks, so that transfers to the device are small.
template <class Context>
void add_to_diagonal(Context& c, const std::vector<double>& entries,
                     const typename Context::view& y) {
  constexpr index_t width = 128;
  const index_t size = std::ssize(entries);
  for (index_t j = 0; j < size; j += width) {
    const index_t n = (std::min)(width, size - j);
    small_matrix block = small_matrix::Zero(n, n);
    for (index_t i = 0; i < n; ++i) block(i, i) = entries[static_cast<std::size_t>(j + i)];
    auto added = c.make(scalar_type::f64, n, n);
    c.from_host(block, added);
    c.axpy(1, added, c.slice(y, j, n, j, n));
  }
}

}  // namespace catmerge::detail
