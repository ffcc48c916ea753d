// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <harness/networks/affine.hpp>
#include <harness/networks/causal_attention.hpp>
#include <harness/networks/decoder/decoder_shape.hpp>
#include <harness/networks/decoder/mixture.hpp>
#include <harness/networks/decoder/projections.hpp>
#include <harness/networks/network.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// A layer of a decoder: x += after(branch(before(x))), first with the attention as the branch,
/// then with the feed-forward layer; either norm may be absent.
namespace catmerge::harness {

/// A norm of queries or keys.
class recorded_query_norm {
 public:
  /// heads: of the queries or of the keys. rows: those of the whole batch.
  recorded_query_norm(const weight_source& from, const affine_names& n, index_t heads,
                      const decoder_shape& s, index_t rows, tape& recorded)
      : parts_(s.of_queries == query_norm::each_head ? heads : 1),
        width_(heads * s.head_width / parts_),
        norm_(from, n, width_, s.epsilon, rows * parts_, recorded, s.norms) {}

  /// x: a chunk's rows, heads side by side in the columns. With a norm of each head the rows that
  /// it records are in the order token, head.
  void operator()(matrix& x, index_t first) const {
    const matrix_view heads(x.data(), x.rows() * parts_, width_);
    const matrix y = norm_(heads, first * parts_);
    x = matrix_view(y.data(), x.rows(), x.cols());
  }

  bool stops() const { return norm_.stops(); }

 private:
  index_t parts_, width_;
  recorded_norm norm_;
};

/// out(attention(q(x), k(x), v(x))). Recorded: the input of q, k and v, once under all their names,
/// those of their norms, and the input of `out`. An empty matrix if the recorder stops at one.
class decoder_attention {
 public:
  decoder_attention(const weight_source& from, const decoder_layer_names& n, const decoder_shape& s,
                    const decoder_layer_shape& layer, index_t rows, tape& recorded)
      : layer_(layer),
        head_width_(s.head_width),
        causal_{s.heads, s.key_heads, s.score_scale, s.score_cap, layer.window},
        recorded_(recorded) {
    const index_t queries = s.heads * s.head_width, keys = s.key_heads * s.head_width;
    if (n.qkv.size() == 1) {
      qkv_ = load_parts(from, n.qkv.front(), {queries, keys, keys}, s.width, s);
    } else {
      qkv_ = {load_projection(from, n.qkv[0], queries, s.width, s),
              load_projection(from, n.qkv[1], keys, s.width, s),
              load_projection(from, n.qkv[2], keys, s.width, s)};
    }
    qkv_in_ = recorded.expect(weights_of(n.qkv), rows, s.width);
    if (s.of_queries != query_norm::none) {
      query_norm_.emplace(from, n.query_norm, s.heads, s, rows, recorded);
      key_norm_.emplace(from, n.key_norm, s.key_heads, s, rows, recorded);
    }
    out_ = load_projection(from, n.out, s.width, queries, s);
    out_in_ = recorded.expect({n.out.weight}, rows, queries);
  }

  matrix operator()(const matrix_view& x, const chunk& samples) const {
    recorded_.put(qkv_in_, samples.row(), x);
    if (recorded_.stops_at(qkv_in_)) return {};
    matrix q = qkv_[0](x), k = qkv_[1](x);
    if (query_norm_) {
      (*query_norm_)(q, samples.row());
      (*key_norm_)(k, samples.row());
      if (query_norm_->stops() || key_norm_->stops()) return {};
    }
    for (std::size_t i = 0; layer_.positions.width > 0 && i + 1 < samples.offsets.size(); ++i) {
      const rotation turn(layer_.positions, samples.offsets[i + 1] - samples.offsets[i]);
      turn.apply(q, samples.offsets[i] - samples.row(), head_width_);
      turn.apply(k, samples.offsets[i] - samples.row(), head_width_);
    }
    const matrix mixed = attend_causally(q, k, qkv_[2](x), samples, causal_);
    recorded_.put(out_in_, samples.row(), view(mixed));
    if (recorded_.stops_at(out_in_)) return {};
    return out_(view(mixed));
  }

 private:
  const decoder_layer_shape& layer_;
  index_t head_width_;
  causal_shape causal_;
  std::vector<linear> qkv_;
  std::optional<recorded_query_norm> query_norm_, key_norm_;
  linear out_;
  tape& recorded_;
  std::size_t qkv_in_ = 0, out_in_ = 0;
};

/// The feed-forward layer of every token. Recorded: its inputs. An empty matrix if the recorder
/// stops at one.
class decoder_feed_forward {
 public:
  decoder_feed_forward(const weight_source& from, const decoder_layer_names& n,
                       const decoder_shape& s, const decoder_layer_shape& layer, index_t rows,
                       tape& recorded)
      : layer_(from, n.experts.front(), s, layer.feed_forward.width),
        recorded_(recorded),
        in_(recorded.expect(weights_of(n.experts.front().in), rows, s.width)),
        out_in_(recorded.expect({n.experts.front().out.weight}, rows, layer.feed_forward.width)) {}

  matrix operator()(const matrix_view& x, const chunk& samples) const {
    recorded_.put(in_, samples.row(), x);
    if (recorded_.stops_at(in_)) return {};
    const matrix inner = layer_.inner(x);
    recorded_.put(out_in_, samples.row(), view(inner));
    if (recorded_.stops_at(out_in_)) return {};
    return layer_.out(view(inner));
  }

 private:
  feed_forward layer_;
  tape& recorded_;
  std::size_t in_, out_in_;
};

/// One half of a layer, for all rows x of `state` in place: x += after(branch(before(x))). Nothing
/// changes if the recorder stops within.
template <class Branch>
void run_branch(const affine_names& before_names, const affine_names& after_names,
                const decoder_layer_names& n, const decoder_shape& s,
                const decoder_layer_shape& layer, const weight_source& from, activations& state,
                tape& recorded, const executor& threads) {
  const index_t rows = state.hidden.rows();
  // All are made in the order of their inputs, which recorders expect.
  std::optional<recorded_norm> before, after;
  const auto make = [&](std::optional<recorded_norm>& to, const affine_names& names) {
    if (!names.weight.empty()) to.emplace(from, names, s.width, s.epsilon, rows, recorded, s.norms);
  };
  make(before, before_names);
  const Branch branch(from, n, s, layer, rows, recorded);
  make(after, after_names);

  for_chunks(state.offsets, threads, [&](const chunk& samples) {
    const index_t first = samples.row();
    mutable_view x = rows_of(state.hidden, first, samples.rows());
    matrix change = before ? branch(view((*before)(as_const(x), first)), samples)
                           : branch(as_const(x), samples);
    if (change.size() == 0) return;
    if (after) change = (*after)(view(change), first);
    x += change;
  });
}

/// The same with a mixture of experts, which needs all rows at a time.
inline void run_mixture_branch(const decoder_layer_names& n, const decoder_shape& s,
                               const decoder_layer_shape& layer, const weight_source& from,
                               activations& state, tape& recorded, const executor& threads) {
  const recorded_norm before(from, n.norm2, s.width, s.epsilon, state.hidden.rows(), recorded,
                             s.norms);
  matrix x(state.hidden.rows(), s.width);
  for_chunks(state.offsets, threads, [&](const chunk& samples) {
    rows_of(x, samples.row(), samples.rows()) =
        before(as_const(rows_of(state.hidden, samples.row(), samples.rows())), samples.row());
  });
  if (before.stops()) return;
  const matrix change = mixture_of_experts(n, s, layer.feed_forward, from, x, recorded, threads);
  if (change.size() > 0) state.hidden += change;
}

/// The parameters of a layer, in the order in which its inputs enter.
inline std::vector<parameter> decoder_parameters(const decoder_layer_names& n,
                                                 const decoder_shape& s,
                                                 const decoder_layer_shape& layer) {
  std::vector<parameter> list;
  const auto add_optional = [&](const affine_names& names, index_t width) {
    if (!names.weight.empty()) add_norm(list, names, width);
  };
  const index_t queries = s.heads * s.head_width, keys = s.key_heads * s.head_width;
  add_optional(n.norm1, s.width);
  if (n.qkv.size() == 1) {
    add_projection(list, n.qkv[0], queries + 2 * keys, s.width, s);
  } else {
    add_projection(list, n.qkv[0], queries, s.width, s);
    add_projection(list, n.qkv[1], keys, s.width, s);
    add_projection(list, n.qkv[2], keys, s.width, s);
  }
  const bool by_head = s.of_queries == query_norm::each_head;
  add_optional(n.query_norm, by_head ? s.head_width : queries);
  add_optional(n.key_norm, by_head ? s.head_width : keys);
  add_projection(list, n.out, s.width, queries, s);
  add_optional(n.after1, s.width);
  add_optional(n.norm2, s.width);
  if (layer.feed_forward.experts > 0) {
    add_projection(list, n.router, layer.feed_forward.experts, s.width, s);
  }
  for (const auto& expert : n.experts) {
    const index_t inner = layer.feed_forward.width;
    const index_t rows = expert.in.size() == 1 && s.gated ? 2 * inner : inner;
    for (const auto& in : expert.in) add_projection(list, in, rows, s.width, s);
    add_projection(list, expert.out, s.width, inner, s);
  }
  add_optional(n.after2, s.width);
  return list;
}

/// Advances all rows of `state` by one layer, in place. Recorded: the input of every linear and
/// every scale.
inline void run_decoder_layer(const decoder_layer_names& n, const decoder_shape& s,
                              const decoder_layer_shape& layer, const weight_source& from,
                              activations& state, tape& recorded, const executor& threads) {
  run_branch<decoder_attention>(n.norm1, n.after1, n, s, layer, from, state, recorded, threads);
  if (recorded.stops()) return;
  if (layer.feed_forward.experts > 0) {
    run_mixture_branch(n, s, layer, from, state, recorded, threads);
  } else {
    run_branch<decoder_feed_forward>(n.norm2, n.after2, n, s, layer, from, state, recorded,
                                     threads);
  }
}

}  // namespace catmerge::harness
