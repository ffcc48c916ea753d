// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/merge/report.hpp>
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

/// merge_parts, for methods of singular directions. What is no matrix, and a matrix (a part) with
/// fewer rows or columns than there are tasks, counts as a vector: the mean of the task vectors,
/// and a fallback in the report. (A matrix of one row has one singular value: the size of the sum.)
template <class Context, class Merge>
void merge_matrices(Context& c, const layer_problem<Context>& p, fused_weights fused,
                    vector_list<Context> vectors, const typename Context::view& tau,
                    layer_report& report, const Merge& merge) {
  const auto mean = [&](const auto& t, const auto& part) {
    report.fallback = fallback_rule::mean;
    mean_vector(c, t, part);
  };
  if (!is_matrix(c, p)) return mean(vectors, tau);
  merge_parts(c, p, fused, vectors, tau, [&](const auto& t, const auto& part) {
    const bool is_vector = (std::min)(c.rows(part), c.columns(part)) < std::ssize(t);
    is_vector ? mean(t, part) : merge(t, part);
  });
}

}  // namespace catmerge::detail
