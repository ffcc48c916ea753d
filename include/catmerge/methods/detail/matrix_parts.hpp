// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/vectors.hpp>
#include <vector>

/// What methods share that have a rule for matrices and another one for the rest.
namespace catmerge::detail {

/// Whether a parameter is a matrix: a linear weight, or a table or embedding of more than one
/// column.
template <class Context>
bool is_matrix(Context& c, const layer_problem<Context>& p) {
  return p.kind == layer_kind::linear || (p.kind == layer_kind::other && c.columns(p.base) > 1);
}

/// merge(vectors, tau) for each of the matrices that are one above the other in a fused weight, or
/// for the weight as a whole.
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
