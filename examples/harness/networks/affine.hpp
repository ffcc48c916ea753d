// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <harness/networks/layers.hpp>
#include <harness/networks/parameter_names.hpp>
#include <harness/networks/recorder.hpp>
#include <harness/networks/weights.hpp>
#include <vector>

/// Layers with a weight and a bias: their parameters, and loading them by name.
namespace catmerge::harness {

inline void add_linear(std::vector<parameter>& list, const affine_names& n, index_t out,
                       index_t in) {
  list.push_back({n.weight, {out, in}});
  list.push_back({n.bias, {out}});
}
inline void add_norm(std::vector<parameter>& list, const affine_names& n, index_t width) {
  list.push_back({n.weight, {width}});
  list.push_back({n.bias, {width}});
}

inline linear load_linear(const weight_source& from, const affine_names& n, index_t out,
                          index_t in) {
  return {from.get({n.weight, {out, in}}), from.get({n.bias, {out}})};
}

/// A layer norm. It records its normalised input, which is the input of its scale.
class recorded_norm {
 public:
  /// rows: those of the whole batch.
  recorded_norm(const weight_source& from, const affine_names& n, index_t width, float epsilon,
                index_t rows, tape& recorded)
      : norm_{from.get({n.weight, {width}}), from.get({n.bias, {width}}), epsilon},
        recorded_(recorded),
        entry_(recorded.expect({n.weight}, rows, width)) {}

  /// x: rows of a chunk that begins at row `first` of the batch.
  matrix operator()(const matrix_view& x, index_t first) const {
    matrix y = norm_.normalise(x);
    recorded_.put(entry_, first, view(y));
    norm_.scale_and_shift(y);
    return y;
  }

 private:
  layer_norm norm_;
  tape& recorded_;
  std::size_t entry_;
};

}  // namespace catmerge::harness
