// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <harness/networks/activations.hpp>
#include <optional>

namespace catmerge::harness {

/// How the tokens of a decoder attend to earlier ones.
struct causal_shape {
  index_t heads = 0, key_heads = 0;  ///< key_heads divides heads: queries of a group share a key
  float scale = 1;                   ///< of the products of queries and keys
  std::optional<float> cap;          ///< scores become cap tanh(score / cap)
  std::optional<index_t> window;     ///< a token attends to so many tokens, itself the last
};

/// Attention of each token of a sample to itself and to earlier tokens: per head
///   softmax(scale q k^T) v.
/// q: rows x (heads head_width), k and v: rows x (key_heads head_width), the rows of the chunk,
/// heads side by side in the columns; the result has the shape of q.
inline matrix attend_causally(const matrix& q, const matrix& k, const matrix& v,
                              const chunk& samples, const causal_shape& s) {
  const index_t head_width = q.cols() / s.heads;
  const index_t group = s.heads / s.key_heads;
  matrix result(q.rows(), q.cols());
  matrix scores;
  for (std::size_t sample = 0; sample + 1 < samples.offsets.size(); ++sample) {
    const index_t row = samples.offsets[sample] - samples.row();
    const index_t tokens = samples.offsets[sample + 1] - samples.offsets[sample];
    for (index_t head = 0; head < s.heads; ++head) {
      const auto part = [&](const matrix& x, index_t at) {
        return x.block(row, at * head_width, tokens, head_width);
      };
      scores.noalias() = part(q, head) * part(k, head / group).transpose();
      scores *= s.scale;
      if (s.cap) scores = (scores.array() / *s.cap).tanh() * *s.cap;
      for (index_t i = 0; i < tokens; ++i) {
        const index_t first = s.window ? std::max<index_t>(0, i + 1 - *s.window) : 0;
        auto seen = scores.row(i).segment(first, i + 1 - first);
        seen = (seen.array() - seen.maxCoeff()).exp();
        seen /= seen.sum();
        scores.row(i).head(first).setZero();
        scores.row(i).tail(tokens - i - 1).setZero();
      }
      result.block(row, head * head_width, tokens, head_width).noalias() =
          scores * part(v, head / group);
    }
  }
  return result;
}

}  // namespace catmerge::harness
