// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/networks/network.hpp>
#include <vector>

/// Batches of samples before the first block.
namespace catmerge::harness {

/// Appends the texts of further samples.
inline void append(const sample_texts& more, sample_texts& to) {
  const index_t before = to.offsets.back();
  to.tokens.insert(to.tokens.end(), more.tokens.begin(), more.tokens.end());
  for (std::size_t i = 1; i < more.offsets.size(); ++i)
    to.offsets.push_back(before + more.offsets[i]);
}

/// The samples of several states, one after the other, before the first block.
inline activations joined(const std::vector<activations>& parts) {
  activations all;
  if (!parts.empty()) all.waiting.resize(parts.front().waiting.size());
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
    const index_t answers = all.waiting.empty() ? before : all.waiting.back().offsets.back();
    for (const index_t at : part.asked) all.asked.push_back(answers + at);
    for (std::size_t i = 1; i < part.offsets.size(); ++i)
      all.offsets.push_back(before + part.offsets[i]);
    all.text.insert(all.text.end(), part.text.begin(), part.text.end());
    for (std::size_t i = 0; i < all.waiting.size(); ++i) append(part.waiting[i], all.waiting[i]);
  }
  return all;
}

}  // namespace catmerge::harness
