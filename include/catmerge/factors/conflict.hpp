// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/factors/detail/core_space.hpp>
#include <catmerge/features/shift_energy.hpp>
#include <cmath>

/// @file
/// feature_shift and conflict_matrix (features/conflict.hpp) of factored task vectors.
namespace catmerge {

namespace detail {

/// Entry (k, i): ||X_k T_i^T||_F^2, for any numbers of statistics and vectors.
template <class Context>
Eigen::MatrixXd factored_shifts(Context& c, const factored_problem<Context>& p) {
  const core_space<Context> space(c, p.vectors);
  const core_statistics<Context> inputs(c, space, p.statistics);
  const index_t rows = std::ssize(inputs.views), columns = std::ssize(p.vectors);
  Eigen::MatrixXd shifts(rows, columns);
  c.concurrently(columns, [&](index_t i) {
    const auto core = space.core(c, i);
    for (index_t k = 0; k < rows; ++k)
      shifts(k, i) = linear_energy<Context>(c, inputs.views[static_cast<std::size_t>(k)], core);
  });
  for (index_t e = 0; e < shifts.size(); ++e)
    if (!std::isfinite(shifts.data()[e]))
      throw error(p.names.who() +
                  ": the squared norm of a feature shift overflows float64: divide the features by "
                  "a power of two and multiply the result by its square");
  return shifts;
}

struct factored_conflict_matrix_fn {
  template <class Context>
  Eigen::MatrixXd operator()(const factored_problem<Context>& p, Context& c) const {
    check_with_statistics(c, p);
    return factored_shifts(c, p);
  }

  template <class Features, class Vectors, class Context>
  Eigen::MatrixXd operator()(const Features& features, const Vectors& vectors, Context& c) const {
    return (*this)(problem_of<Context>(vectors, features), c);
  }

  template <class Features, class Vectors>
  Eigen::MatrixXd operator()(const Features& features, const Vectors& vectors) const {
    static_assert(require_factors_with_domain<Vectors>());
    auto c = context_of_factors(vectors);
    return (*this)(features, vectors, c);
  }
};

struct factored_shift_fn {
  template <class Features, class Vector, class Context>
  double operator()(const Features& features, const Vector& vector, Context& c) const {
    static_assert(require_factored<Context, Vector>());
    using B = factor_of<decltype(Vector::b)>;
    if constexpr (!handle_of<B, Context>) static_assert(require_features<Features, B>());
    factored_problem<Context> p{{read_factors<Context>(vector)}};
    p.statistics.push_back(as_statistics(features));
    check_with_statistics(c, p);
    return factored_shifts(c, p)(0, 0);
  }

  template <class Features, class Vector>
  double operator()(const Features& features, const Vector& vector) const {
    static_assert(is_factored<Vector>,
                  "catmerge: factored_shift takes a catmerge::factored_vector");
    auto c = context_of(unwrap(vector.b));
    return (*this)(features, vector, c);
  }
};

}  // namespace detail

/// ||X T^T||_F^2 for T = s B A: feature_shift of a linear weight. The deviation of a trim of B to
/// B' is that of {B - B', A, s}.
/// @code
/// double s = factored_shift(X, vector);  // and (X, vector, context)
/// @endcode
/// X: rows n x d_in or statistics, no second moments. Throws catmerge::error if extents do not fit,
/// a value is not finite, or the result overflows double.
inline constexpr detail::factored_shift_fn factored_shift{};

/// K x K, entry (k, i) = ||X_k T_i^T||_F^2: conflict_matrix of factored task vectors.
/// @code
/// Eigen::MatrixXd conflict = factored_conflict_matrix(features, vectors);  // and (..., context)
/// conflict = factored_conflict_matrix(problem, context);
/// @endcode
/// features, vectors: ranges of K. Throws catmerge::error as factored_shift does, and if the two
/// have different lengths.
inline constexpr detail::factored_conflict_matrix_fn factored_conflict_matrix{};

}  // namespace catmerge
