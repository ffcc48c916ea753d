// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <harness/networks/activations.hpp>
#include <harness/networks/layers.hpp>
#include <harness/networks/weights.hpp>
#include <numeric>
#include <optional>
#include <vector>

namespace catmerge::harness {

/// The last layer of language models: logits x T^T + bias, then cap tanh(logits / cap).
struct token_output {
  parameter table;               ///< T: words x d
  std::optional<weight> bias{};  ///< words
  std::optional<float> cap{};
};

/// x: rows x d, those of sample i from offsets[i] on. The table is read in parts, so that a large
/// one need not be in memory as a whole. Returns rows x words.
inline matrix token_logits(const matrix& x, const std::vector<index_t>& offsets,
                           const token_output& layer, const weight_source& weights,
                           const executor& threads) {
  constexpr index_t most_rows = 16384;
  const index_t words = layer.table.shape.front();
  matrix logits(x.rows(), words);
  for (index_t first = 0; first < words; first += most_rows) {
    std::vector<index_t> part(static_cast<std::size_t>(std::min(most_rows, words - first)));
    std::iota(part.begin(), part.end(), first);
    linear table{weights.rows(layer.table, part), {}};
    if (layer.bias) table.bias = layer.bias->window(first, std::ssize(part));
    for_chunks(offsets, threads, [&](const chunk& samples) {
      matrix y = table(rows_of(x, samples.row(), samples.rows()));
      if (layer.cap) y = (y.array() / *layer.cap).tanh() * *layer.cap;
      logits.block(samples.row(), first, y.rows(), y.cols()) = y;
    });
  }
  return logits;
}

}  // namespace catmerge::harness
