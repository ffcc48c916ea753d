// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <harness/networks/affine.hpp>
#include <harness/networks/attention.hpp>
#include <harness/networks/encoder_layer.hpp>
#include <harness/networks/network.hpp>
#include <memory>
#include <utility>
#include <vector>

/// A layer of BLIP's text parts: BERT's, with a cross attention between its two halves, to the rows
/// of an image or of a question (activations::memory):
///
///     x = norm(x + attention(x)), x = norm(x + cross attention(x, memory)), x = norm(x + mlp(x))
namespace catmerge::harness {

/// The names of a text layer's parameters.
struct text_layer_names {
  encoder_names self;                   ///< the attention within the text, and the MLP
  affine_names query, key, value, out;  ///< of the cross attention
  affine_names norm;                    ///< after it
};

/// The parameters of a layer, in the order in which its inputs enter. memory_width: columns of the
/// memory.
inline std::vector<parameter> text_layer_parameters(const text_layer_names& n,
                                                    const encoder_shape& s, index_t memory_width) {
  std::vector<parameter> list = encoder_parameters(n.self, s);
  add_linear(list, n.query, s.width, s.width);
  add_linear(list, n.key, s.width, memory_width);
  add_linear(list, n.value, s.width, memory_width);
  add_linear(list, n.out, s.width, s.width);
  add_norm(list, n.norm, s.width);
  return list;
}

/// Multi-head attention of rows `q` to the rows of one sample of a memory: softmax(q k^T /
/// sqrt(head width)) v per head. q: rows x d, overwritten (scaled); k, v: those of the sample.
inline matrix attend_to(matrix& q, const matrix_view& k, const matrix_view& v, index_t heads) {
  const index_t head_width = q.cols() / heads;
  q *= 1.0F / std::sqrt(static_cast<float>(head_width));
  matrix result(q.rows(), q.cols()), scores;
  for (index_t column = 0; column < q.cols(); column += head_width) {
    scores.noalias() =
        q.middleCols(column, head_width) * k.middleCols(column, head_width).transpose();
    softmax_rows(scores);
    result.middleCols(column, head_width).noalias() = scores * v.middleCols(column, head_width);
  }
  return result;
}

/// key(memory) and value(memory); those of an earlier run if the state keeps them.
inline std::shared_ptr<const keys_and_values> read_memory(const text_layer_names& n,
                                                          const encoder_shape& s,
                                                          const weight_source& from,
                                                          const activations& state,
                                                          const executor& threads) {
  if (state.keys && state.keys->contains(n.key.weight)) return state.keys->at(n.key.weight);
  const linear key = load_linear(from, n.key, s.width, state.memory.cols());
  const linear value = load_linear(from, n.value, s.width, state.memory.cols());
  keys_and_values read{matrix(state.memory.rows(), s.width), matrix(state.memory.rows(), s.width)};
  for_chunks(state.memory_offsets, threads, [&](const chunk& samples) {
    const matrix_view x = rows_of(state.memory, samples.row(), samples.rows());
    rows_of(read.keys, samples.row(), samples.rows()) = key(x);
    rows_of(read.values, samples.row(), samples.rows()) = value(x);
  });
  auto result = std::make_shared<const keys_and_values>(std::move(read));
  if (state.keys) state.keys->emplace(n.key.weight, result);
  return result;
}

/// x = norm(x + out(attention(query(x), key(memory), value(memory)))), in place. Of several texts
/// of a sample (encoder_shape::texts) the first alone does so. Recorded: the rows of those texts as
/// the input of `query`, the memory as that of `key` and `value`, the input of `out`, and that of
/// the norm.
inline void run_cross_attention(const text_layer_names& n, const encoder_shape& s,
                                const weight_source& from, activations& state, tape& recorded,
                                const executor& threads) {
  const index_t rows = state.hidden.rows() / s.texts, memory_width = state.memory.cols();
  const linear query = load_linear(from, n.query, s.width, s.width);
  const linear out = load_linear(from, n.out, s.width, s.width);
  const std::size_t query_in = recorded.expect({n.query.weight}, rows, s.width);
  const std::size_t memory_in =
      recorded.expect({n.key.weight, n.value.weight}, state.memory.rows(), memory_width);
  const std::size_t out_in = recorded.expect({n.out.weight}, rows, s.width);
  const recorded_norm norm(from, n.norm, s.width, s.epsilon, rows, recorded);

  recorded.put(memory_in, 0, view(state.memory));
  const auto read = read_memory(n, s, from, state, threads);
  for_chunks(state.offsets, threads, [&](const chunk& samples) {
    for (index_t i = 0; i < samples.count(); ++i) {
      const index_t begin = samples.offsets[static_cast<std::size_t>(i)];
      const index_t count = (samples.offsets[static_cast<std::size_t>(i) + 1] - begin) / s.texts;
      const index_t first = begin / s.texts;  // among the rows that attend
      mutable_view x = rows_of(state.hidden, begin, count);
      recorded.put(query_in, first, as_const(x));
      if (recorded.stops_at(query_in)) continue;
      matrix q = query(as_const(x));
      const index_t sample = samples.first + i;
      const auto m = static_cast<std::size_t>(
          state.memory_of.empty() ? sample : state.memory_of[static_cast<std::size_t>(sample)]);
      const index_t at = state.memory_offsets[m], height = state.memory_offsets[m + 1] - at;
      const matrix mixed =
          attend_to(q, rows_of(read->keys, at, height), rows_of(read->values, at, height), s.heads);
      recorded.put(out_in, first, view(mixed));
      if (recorded.stops_at(out_in)) continue;
      x += out(view(mixed));
      x = norm(as_const(x), first);
    }
  });
}

/// Advances all rows of `state` by one layer, in place.
inline void run_text_layer(const text_layer_names& n, const encoder_shape& s,
                           const weight_source& from, activations& state, tape& recorded,
                           const executor& threads) {
  run_residual<self_attention>(n.self.norm1, n.self, s, from, state, recorded, threads);
  if (recorded.stops()) return;
  run_cross_attention(n, s, from, state, recorded, threads);
  if (recorded.stops()) return;
  run_residual<mlp>(n.self.norm2, n.self, s, from, state, recorded, threads);
}

}  // namespace catmerge::harness
