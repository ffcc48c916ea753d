// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/networks/network.hpp>
#include <vector>

/// Batches of samples before the first block.
namespace catmerge::harness {

/// The samples of several states, one after the other, before the first block.
inline activations joined(const std::vector<activations>& parts) {
  activations all;
  index_t rows = 0, columns = 0;
  for (const auto& part : parts) {
    rows += part.hidden.rows();
    columns = part.hidden.cols();
  }
  all.hidden.resize(rows, columns);
  index_t row = 0;
  for (const auto& part : parts) {
    rows_of(all.hidden, row, part.hidden.rows()) = part.hidden;
    row += part.hidden.rows();
    const index_t before = all.offsets.back();
    for (const index_t at : part.asked) all.asked.push_back(before + at);
    for (std::size_t i = 1; i < part.offsets.size(); ++i)
      all.offsets.push_back(before + part.offsets[i]);
    all.text.insert(all.text.end(), part.text.begin(), part.text.end());
  }
  return all;
}

}  // namespace catmerge::harness
