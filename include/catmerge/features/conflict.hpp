// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/features/layer_kind.hpp>
#include <catmerge/features/shift_energy.hpp>
#include <catmerge/features/statistics.hpp>
#include <cmath>
#include <span>

/// @file
/// The disturbance of features by task vectors: the terms of Eq. 8 of CAT Merging (Sun et al., ICML
/// 2025), and the bound by which each layer can be treated alone.
namespace catmerge {

namespace detail {

/// ||f(X; W + T) - f(X; W)||_F^2, summed over the rows of X. Throws catmerge::error if it overflows
/// double, although X and T do not.
template <class Context, class Statistics>
double shift_energy(Context& c, layer_kind kind, const Statistics& s,
                    typename Context::const_view t) {
  const auto measured = [&] {
    switch (kind) {
      case layer_kind::linear:
        require_inputs(c, s, c.rows(t), c.columns(t), "feature_shift: features");
        return linear_energy(c, s, t);
      case layer_kind::scale:
        require_width(c, s, c.rows(t), "feature_shift: features");
        return scale_energy(c, second_moment(c, s), s.rows, t);
      case layer_kind::shift: return s.rows * c.squared_norm(t);
      case layer_kind::other: break;
    }
    throw error("feature_shift: only linear weights, scales and shifts have a known feature shift");
  };
  const double energy = measured();
  if (!std::isfinite(energy) && c.all_finite(t) && c.all_finite(s.data))
    throw error(
        "feature_shift: the squared norm overflows float64: divide the features by a power "
        "of two and multiply the result by its square");
  return energy;
}

struct feature_shift_fn {
  template <class Features, class Vector, class Context>
  double operator()(layer_kind kind, const Features& features, const Vector& t, Context& c) const {
    static_assert(require_tensor<Vector>());
    static_assert(require_features<Features, Vector>());
    static_assert(require_context_for<Context, Vector>());
    return shift_energy(c, kind, as_statistics(features), const_view_of(t));
  }

  template <class Features, class Vector>
  double operator()(layer_kind kind, const Features& features, const Vector& t) const {
    static_assert(require_tensor<Vector>());
    auto c = context_of(t);
    return (*this)(kind, features, t, c);
  }
};

struct conflict_matrix_fn {
  /// Entry (k, i) is ||Df(X_k; T_i)||_F^2, the shift of task k's features by task vector i.
  template <class FeatureRange, class VectorRange, class Context>
  Eigen::MatrixXd operator()(layer_kind kind, const FeatureRange& features,
                             const VectorRange& vectors, Context& c) const {
    static_assert(require_tensors<VectorRange>());
    static_assert(require_feature_range<FeatureRange, element_t<VectorRange>>());
    static_assert(require_context_for<Context, element_t<VectorRange>>());
    const auto s = as_statistics_list(features);
    const auto t = read_all<Context>(vectors);
    const auto tasks = static_cast<index_t>(t.size());
    if (s.size() != t.size())
      throw error("conflict_matrix: features of " + std::to_string(s.size()) + " tasks for " +
                  std::to_string(t.size()) + " task vectors");
    Eigen::MatrixXd shifts(tasks, tasks);
    for (index_t k = 0; k < tasks; ++k)
      for (index_t i = 0; i < tasks; ++i)
        shifts(k, i) =
            shift_energy(c, kind, s[static_cast<std::size_t>(k)], t[static_cast<std::size_t>(i)]);
    return shifts;
  }

  template <class FeatureRange, class VectorRange>
  Eigen::MatrixXd operator()(layer_kind kind, const FeatureRange& features,
                             const VectorRange& vectors) const {
    static_assert(require_tensors<VectorRange>());
    auto c = context_of_first(vectors);
    return (*this)(kind, features, vectors, c);
  }
};

}  // namespace detail

/// ||Df(X; T)||_F^2, the shift of a layer's features by T: a squared Frobenius norm, summed over
/// the n rows of X; the norm is its root. Df is X T^T for a linear weight (T d_out x d_in, X n x
/// d_in), x o T for a scale and T for a shift (T of d entries, X n x d).
/// @code
/// double s = feature_shift(layer_kind::linear, X, T);  // and (kind, X, T, context)
/// @endcode
/// X: rows or statistics, for linear weights no second moments. Throws catmerge::error if extents
/// or forms do not fit the kind, and for layer_kind::other.
inline constexpr detail::feature_shift_fn feature_shift{};

/// K x K, entry (k, i) = ||Df(X_k; T_i)||_F^2, the shift of task k's features by task vector i. Row
/// k without its diagonal sums to task k's inter-task conflict, the first term of Eq. 8 (CAT
/// Merging, Sun et al., ICML 2025). The deviation of task i, its second term, is
/// feature_shift(kind, X_i, T_i - T_i').
/// @code
/// Eigen::MatrixXd conflict = conflict_matrix(kind, features, vectors);  // and (..., context)
/// @endcode
/// features, vectors: ranges of K, as feature_shift takes them. Throws catmerge::error as
/// feature_shift does, and if the two have different lengths.
inline constexpr detail::conflict_matrix_fn conflict_matrix{};

/// Inter-task conflict of each task, the first term of Eq. 8: the K row sums of a conflict_matrix
/// (K x K) without the diagonal.
inline std::vector<double> inter_task_conflict(const Eigen::MatrixXd& shifts) {
  std::vector<double> conflict;
  for (index_t k = 0; k < shifts.rows(); ++k) {
    double sum = 0;
    for (index_t i = 0; i < shifts.cols(); ++i)
      if (i != k) sum += shifts(k, i);
    conflict.push_back(sum);
  }
  return conflict;
}

/// |dL_k| <= beta sum_l (prod_{m > l} gamma_m) ||df_k^l||_F for a chain of layers l = 0, 1, ...
/// - beta: the Lipschitz constant of the loss in the network's output;
/// - gammas[m]: that of the *perturbed* layer m in its input (linear: spectral_norm(W + dW); a
///   residual block counts as one layer of 1 + gamma of its branch; attention has no global
///   constant: supply one that holds on your inputs);
/// - shifts[l] = ||df^l||_F, the root of feature_shift, at the *unperturbed* inputs.
/// Throws catmerge::error if there are not as many constants as shifts.
inline double lipschitz_bound(double beta, std::span<const double> gammas,
                              std::span<const double> shifts) {
  if (gammas.size() != shifts.size())
    throw error("lipschitz_bound: " + std::to_string(gammas.size()) + " constants for " +
                std::to_string(shifts.size()) + " layers");
  double bound = 0, product = 1;
  for (std::size_t l = shifts.size(); l-- > 0; product *= gammas[l]) bound += product * shifts[l];
  return beta * bound;
}

}  // namespace catmerge
