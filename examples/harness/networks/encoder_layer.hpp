// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <harness/networks/affine.hpp>
#include <harness/networks/attention.hpp>
#include <harness/networks/causal_attention.hpp>
#include <harness/networks/layers.hpp>
#include <harness/networks/network.hpp>
#include <optional>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The place of a layer's two norms.
enum class norm_place : unsigned char {
  before,  ///< x += attention(norm(x)), x += mlp(norm(x)): CLIP
  after    ///< x = norm(x + attention(x)), x = norm(x + mlp(x)): BERT
};

/// The names of an encoder layer's parameters.
struct encoder_names {
  affine_names norm1;             ///< of the attention
  std::vector<affine_names> qkv;  ///< q, k and v; or one with the rows of q, then k, then v
  affine_names out;               ///< the attention's output projection
  affine_names norm2;             ///< of the MLP
  affine_names fc1, fc2;          ///< the MLP's two linears
};

/// The shape common to all encoder layers of a network.
struct encoder_shape {
  index_t width = 0;      ///< d
  index_t mlp_width = 0;  ///< columns between fc1 and fc2
  index_t heads = 0;      ///< divides width
  activation mlp_activation = activation::gelu;
  float epsilon = 0;  ///< of the norms
  norm_place norms = norm_place::before;
  bool is_causal = false;  ///< a token attends to itself and to earlier ones
  /// The rows of a sample are so many texts of the same length, one after the other; a token
  /// attends to its own text.
  index_t texts = 1;
};

/// The texts of the samples of a chunk.
inline std::vector<index_t> text_offsets(const chunk& samples, const encoder_shape& s) {
  std::vector<index_t> offsets = {samples.row()};
  for (std::size_t i = 0; i + 1 < samples.offsets.size(); ++i) {
    const index_t tokens = (samples.offsets[i + 1] - samples.offsets[i]) / s.texts;
    for (index_t text = 0; text < s.texts; ++text) offsets.push_back(offsets.back() + tokens);
  }
  return offsets;
}

/// out(attention(q(x), k(x), v(x))). Recorded: the input of q, k and v, once under all their names,
/// and the input of `out`. An empty matrix if the recorder stops at one of them.
class self_attention {
 public:
  self_attention(const weight_source& from, const encoder_names& n, const encoder_shape& s,
                 index_t rows, tape& recorded)
      : shape_(s), recorded_(recorded) {
    std::vector<std::string> names;
    for (const affine_names& each : n.qkv) {
      names.push_back(each.weight);
      const index_t parts = 3 / std::ssize(n.qkv);
      const linear whole = load_linear(from, each, parts * s.width, s.width);
      for (index_t i = 0; i < parts; ++i) {
        qkv_.push_back({whole.kernel.part(i, parts), whole.bias->part(i, parts)});
      }
    }
    out_ = load_linear(from, n.out, s.width, s.width);
    qkv_in_ = recorded.expect(names, rows, s.width);
    out_in_ = recorded.expect({n.out.weight}, rows, s.width);
  }

  matrix operator()(const matrix_view& x, const chunk& samples) const {
    recorded_.put(qkv_in_, samples.row(), x);
    if (recorded_.stops_at(qkv_in_)) return {};
    matrix q = qkv_[0](x);
    const auto offsets = text_offsets(samples, shape_);
    const chunk texts{samples.first * shape_.texts, offsets};
    const matrix mixed = shape_.is_causal
                             ? attend_causally(q, qkv_[1](x), qkv_[2](x), texts, causal())
                             : attend(q, qkv_[1](x), qkv_[2](x), texts, shape_.heads);
    recorded_.put(out_in_, samples.row(), view(mixed));
    if (recorded_.stops_at(out_in_)) return {};
    return out_(view(mixed));
  }

 private:
  causal_shape causal() const {
    const index_t head_width = shape_.width / shape_.heads;
    return {shape_.heads, shape_.heads, 1.0F / std::sqrt(static_cast<float>(head_width)), {}, {}};
  }

  const encoder_shape& shape_;
  std::vector<linear> qkv_;
  linear out_;
  tape& recorded_;
  std::size_t qkv_in_, out_in_;
};

/// fc2(activation(fc1(x))). Recorded: the inputs of both. An empty matrix if the recorder stops at
/// one of them.
class mlp {
 public:
  mlp(const weight_source& from, const encoder_names& n, const encoder_shape& s, index_t rows,
      tape& recorded)
      : fc1_(load_linear(from, n.fc1, s.mlp_width, s.width)),
        fc2_(load_linear(from, n.fc2, s.width, s.mlp_width)),
        activation_(s.mlp_activation),
        recorded_(recorded),
        fc1_in_(recorded.expect({n.fc1.weight}, rows, s.width)),
        fc2_in_(recorded.expect({n.fc2.weight}, rows, s.mlp_width)) {}

  matrix operator()(const matrix_view& x, const chunk& samples) const {
    recorded_.put(fc1_in_, samples.row(), x);
    if (recorded_.stops_at(fc1_in_)) return {};
    matrix inner = fc1_(x);
    activate(activation_, inner);
    recorded_.put(fc2_in_, samples.row(), view(inner));
    if (recorded_.stops_at(fc2_in_)) return {};
    return fc2_(view(inner));
  }

 private:
  linear fc1_, fc2_;
  activation activation_;
  tape& recorded_;
  std::size_t fc1_in_, fc2_in_;
};

/// The parameters of an encoder layer.
inline std::vector<parameter> encoder_parameters(const encoder_names& n, const encoder_shape& s) {
  std::vector<parameter> list;
  add_norm(list, n.norm1, s.width);
  for (const affine_names& each : n.qkv) {
    add_linear(list, each, 3 / std::ssize(n.qkv) * s.width, s.width);
  }
  add_linear(list, n.out, s.width, s.width);
  add_norm(list, n.norm2, s.width);
  add_linear(list, n.fc1, s.mlp_width, s.width);
  add_linear(list, n.fc2, s.width, s.mlp_width);
  return list;
}

/// True for a linear weight of the layer whose result for a token enters later results for that
/// token only: all but those of keys and values, which every token of the sample attends to.
inline bool acts_within_tokens(const encoder_names& n, const std::string& weight) {
  const bool queries_apart = n.qkv.size() == 3;
  return (queries_apart && weight == n.qkv.front().weight) || weight == n.out.weight ||
         weight == n.fc1.weight || weight == n.fc2.weight;
}

/// One half of an encoder layer, for all rows x of `state` in place: x += layer(norm(x)), or x =
/// norm(x + layer(x)). Nothing changes if the recorder stops at the layer.
template <class Layer>
void run_residual(const affine_names& norm_names, const encoder_names& n, const encoder_shape& s,
                  const weight_source& from, activations& state, tape& recorded,
                  const executor& threads) {
  const bool before = s.norms == norm_place::before;
  const index_t rows = state.hidden.rows();
  // The two are made in the order of their inputs, which recorders expect.
  std::optional<recorded_norm> norm;
  const auto make_norm = [&] {
    norm.emplace(from, norm_names, s.width, s.epsilon, rows, recorded);
  };
  if (before) make_norm();
  const Layer layer(from, n, s, rows, recorded);
  if (!before) make_norm();

  for_chunks(state.offsets, threads, [&](const chunk& samples) {
    const index_t first = samples.row();
    mutable_view x = rows_of(state.hidden, first, samples.rows());
    const matrix change =
        before ? layer(view((*norm)(as_const(x), first)), samples) : layer(as_const(x), samples);
    if (change.size() == 0) return;
    x += change;
    if (!before) x = (*norm)(as_const(x), first);
  });
}

/// Advances all rows of `state` by one encoder layer, in place. Recorded: the input of every linear
/// and every scale.
inline void run_encoder_layer(const encoder_names& n, const encoder_shape& s,
                              const weight_source& from, activations& state, tape& recorded,
                              const executor& threads) {
  run_residual<self_attention>(n.norm1, n, s, from, state, recorded, threads);
  if (!recorded.stops()) run_residual<mlp>(n.norm2, n, s, from, state, recorded, threads);
}

}  // namespace catmerge::harness
