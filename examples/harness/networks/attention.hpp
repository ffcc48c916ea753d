// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <harness/networks/activations.hpp>

namespace catmerge::harness {

/// Each row becomes exp(row) / sum exp(row). The row's maximum is subtracted first, so nothing
/// overflows.
inline void softmax_rows(matrix& x) {
  for (index_t i = 0; i < x.rows(); ++i) {
    x.row(i) = (x.row(i).array() - x.row(i).maxCoeff()).exp();
    x.row(i) /= x.row(i).sum();
  }
}

/// Multi-head attention between the tokens of each sample of a chunk: per head
///   softmax(q k^T / sqrt(head width)) v.
/// q, k, v: rows x width, the rows of the chunk, heads side by side in the columns; the result has
/// the same shape. q is overwritten (scaled). Precondition: heads divides width, every sample has a
/// row.
inline matrix attend(matrix& q, const matrix& k, const matrix& v, const chunk& samples,
                     index_t heads) {
  const index_t head_width = q.cols() / heads;
  q *= 1.0F / std::sqrt(static_cast<float>(head_width));
  matrix result(q.rows(), q.cols());
  matrix scores;
  for (std::size_t i = 0; i + 1 < samples.offsets.size(); ++i) {
    const index_t row = samples.offsets[i] - samples.row();
    const index_t tokens = samples.offsets[i + 1] - samples.offsets[i];
    for (index_t column = 0; column < q.cols(); column += head_width) {
      const auto part = [&](const matrix& x) { return x.block(row, column, tokens, head_width); };
      scores.noalias() = part(q) * part(k).transpose();
      softmax_rows(scores);
      result.block(row, column, tokens, head_width).noalias() = scores * part(v);
    }
  }
  return result;
}

}  // namespace catmerge::harness
