// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/checks.hpp>

namespace catmerge {

/// T_i of every task, in double if base or expert is double. Throws catmerge::error, naming the
/// expert, if a T_i is not finite.
template <class Context>
std::vector<typename Context::matrix> form_vectors(Context& c, const layer_problem<Context>& p) {
  std::vector<typename Context::matrix> vectors(p.experts.size());
  const bool base_is_double = c.type(p.base) == scalar_type::f64;
  c.concurrently(std::ssize(vectors), [&](index_t i) {
    const auto& expert = p.experts[static_cast<std::size_t>(i)];
    const auto type = base_is_double ? scalar_type::f64 : compute_type(c.type(expert));
    auto& t = vectors[static_cast<std::size_t>(i)];
    t = c.make(type, c.rows(p.base), c.columns(p.base));
    c.subtract(expert, p.base, t);
  });
  for (index_t i = 0; i < std::ssize(vectors); ++i)
    detail::check_finite(c, p, vectors[static_cast<std::size_t>(i)],
                         ": the task vector of '" + p.names.task(i) + "'");
  return vectors;
}

/// Views of the vectors, to be passed on as a vector_list.
template <class Context>
std::vector<typename Context::view> views_of(std::vector<typename Context::matrix>& vectors) {
  return {vectors.begin(), vectors.end()};
}

/// tau += sum_k T_k, added in the order of the tasks.
template <class Context>
void sum_vectors(Context& c, vector_list<Context> vectors, const typename Context::view& tau) {
  const std::vector<typename Context::const_view> list(vectors.begin(), vectors.end());
  c.accumulate(1, list, tau);
}

/// tau += (1/K) sum_k T_k: most methods' fallback for parameters that their rule does not cover.
template <class Context>
void mean_vector(Context& c, vector_list<Context> vectors, const typename Context::view& tau) {
  sum_vectors(c, vectors, tau);
  c.scale(1 / static_cast<double>(vectors.size()), tau);
}

}  // namespace catmerge
