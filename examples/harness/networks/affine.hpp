// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <harness/networks/layers.hpp>
#include <harness/networks/parameter_names.hpp>
#include <harness/networks/recorder.hpp>
#include <harness/networks/weights.hpp>
#include <optional>
#include <vector>

/// Layers with a weight and a bias, which is absent where its name is empty: their parameters, and
/// loading them by name.
namespace catmerge::harness {

inline void add_linear(std::vector<parameter>& list, const affine_names& n, index_t out,
                       index_t in) {
  list.push_back({n.weight, {out, in}});
  if (!n.bias.empty()) list.push_back({n.bias, {out}});
}
inline void add_norm(std::vector<parameter>& list, const affine_names& n, index_t width) {
  list.push_back({n.weight, {width}});
  if (!n.bias.empty()) list.push_back({n.bias, {width}});
}

/// The values of a bias; none if its name is empty.
inline std::optional<weight> load_bias(const weight_source& from, const affine_names& n,
                                       index_t extent) {
  if (n.bias.empty()) return std::nullopt;
  return from.get({n.bias, {extent}});
}

inline linear load_linear(const weight_source& from, const affine_names& n, index_t out,
                          index_t in) {
  return {from.get({n.weight, {out, in}}), load_bias(from, n, out)};
}

/// A norm. It records its normalised input, which is the input of its scale.
class recorded_norm {
 public:
  /// rows: those of the whole batch.
  recorded_norm(const weight_source& from, const affine_names& n, index_t width, float epsilon,
                index_t rows, tape& recorded, norm_kind kind = norm_kind::layer)
      : norm_{kind, from.get({n.weight, {width}}), load_bias(from, n, width), epsilon},
        recorded_(recorded),
        entry_(recorded.expect({n.weight}, rows, width)) {}

  /// x: rows of a chunk that begins at row `first` of the batch.
  matrix operator()(const matrix_view& x, index_t first) const {
    matrix y = norm_.normalise(x);
    recorded_.put(entry_, first, view(y));
    norm_.scale_and_shift(y);
    return y;
  }

  /// True if the recorder stops at its input.
  bool stops() const { return recorded_.stops_at(entry_); }

 private:
  norm norm_;
  tape& recorded_;
  std::size_t entry_;
};

}  // namespace catmerge::harness
