// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/networks/affine.hpp>
#include <harness/networks/decoder/decoder_shape.hpp>
#include <harness/networks/layers.hpp>
#include <harness/networks/weights.hpp>
#include <string>
#include <vector>

/// Linears of decoders: stored either way round, alone or several in one weight.
namespace catmerge::harness {

inline void add_projection(std::vector<parameter>& list, const affine_names& n, index_t out,
                           index_t in, const decoder_shape& s) {
  list.push_back({n.weight, s.is_in_out ? io::shape_t{in, out} : io::shape_t{out, in}});
  if (!n.bias.empty()) list.push_back({n.bias, {out}});
}

inline linear load_projection(const weight_source& from, const affine_names& n, index_t out,
                              index_t in, const decoder_shape& s) {
  if (!s.is_in_out) return load_linear(from, n, out, in);
  return {from.get({n.weight, {in, out}}).transposed(), load_bias(from, n, out)};
}

/// Several linears with one input whose rows are in one weight, one after the other.
inline std::vector<linear> load_parts(const weight_source& from, const affine_names& n,
                                      const std::vector<index_t>& rows, index_t in,
                                      const decoder_shape& s) {
  index_t all = 0;
  for (const index_t count : rows) all += count;
  const linear whole = load_projection(from, n, all, in, s);
  std::vector<linear> parts;
  index_t first = 0;
  for (const index_t count : rows) {
    parts.push_back({whole.kernel.window(first, count), {}});
    if (whole.bias) parts.back().bias = whole.bias->window(first, count);
    first += count;
  }
  return parts;
}

inline std::vector<std::string> weights_of(const std::vector<affine_names>& list) {
  std::vector<std::string> names;
  for (const auto& each : list) names.push_back(each.weight);
  return names;
}

/// out(act(gate(x)) o up(x)), or out(act(in(x))).
class feed_forward {
 public:
  feed_forward(const weight_source& from, const feed_forward_names& n, const decoder_shape& s,
               index_t width)
      : nonlinearity_(s.nonlinearity) {
    if (n.in.size() == 1 && s.gated) {
      in_ = load_parts(from, n.in.front(), {width, width}, s.width, s);
    } else {
      for (const auto& each : n.in) in_.push_back(load_projection(from, each, width, s.width, s));
    }
    out = load_projection(from, n.out, s.width, width, s);
  }

  /// The input of `out`.
  matrix inner(const matrix_view& x) const {
    matrix y = in_.front()(x);
    activate(nonlinearity_, y);
    if (in_.size() > 1) y.array() *= in_[1](x).array();
    return y;
  }

  linear out;

 private:
  std::vector<linear> in_;
  activation nonlinearity_;
};

}  // namespace catmerge::harness
