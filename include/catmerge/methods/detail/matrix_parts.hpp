// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/vectors.hpp>
#include <vector>

/// Helpers of methods with one rule for matrices and another for other parameters.
namespace catmerge::detail {

/// True if a parameter is a matrix: a linear weight, or a table or embedding of several columns.
template <class Context>
bool is_matrix(Context& c, const layer_problem<Context>& p) {
  return p.kind == layer_kind::linear || (p.kind == layer_kind::other && c.columns(p.base) > 1);
}

/// Calls merge(vectors, tau) for each matrix of a fused weight, one above the other, or for the
/// whole weight.
template <class Context, class Merge>
void merge_parts(Context& c, const layer_problem<Context>& p, fused_weights fused,
                 vector_list<Context> vectors, const typename Context::view& tau,
                 const Merge& merge) {
  if (fused == fused_weights::whole || p.parts == 1) return merge(vectors, tau);
  const index_t height = c.rows(tau) / p.parts;
  for (index_t part = 0; part < p.parts; ++part) {
    std::vector<typename Context::view> slices;
    for (const auto& t : vectors)
      slices.push_back(c.slice(t, part * height, height, 0, c.columns(t)));
    merge(vector_list<Context>(slices), c.slice(tau, part * height, height, 0, c.columns(tau)));
  }
}

}  // namespace catmerge::detail
