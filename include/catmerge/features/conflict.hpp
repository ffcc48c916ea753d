// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/features/layer_kind.hpp>
#include <catmerge/features/statistics.hpp>
#include <cmath>
#include <limits>
#include <span>

/// @file
/// How much task vectors disturb features: the terms of Eq. 8 of CAT Merging (Sun et al., ICML
/// 2025) and the bound that says why each layer may be looked at alone.
namespace catmerge {

namespace detail {

/// Whether a matrix of so many entries, sums of `depth` products each, came out of float whole, by
/// its energy (its squared Frobenius norm, in double). Products above 2^128 are infinite, and the
/// energy with them. Those below 2^-126 are rounded to multiples of 2^-149, an entry is off by
/// depth 2^-150 at most: no more than float's own rounding, 2^-24, of what is depth 2^-126 large.
inline bool float_holds(double energy, index_t entries, index_t depth) {
  const double least = static_cast<double>(depth) * 0x1p-126;
  return energy >= static_cast<double>(entries) * least * least &&
         energy < std::numeric_limits<double>::infinity();
}

/// X T^T, n x m, for T (m x d_in), in the compute type of T, or in double where float does not hold
/// it: products of two floats, whatever their size, are within the range of double.
template <class Context>
struct feature_shifts {
  using const_view = typename Context::const_view;

  feature_shifts(Context& c, const const_view& x, const const_view& t) {
    form(c, x, t, compute_type(c.type(t)));
    const auto zero = [&](const const_view& v) { return c.squared_norm(v) == 0; };
    if (c.type(values) == scalar_type::f32 &&
        !float_holds(energy, c.rows(x) * c.rows(t), c.columns(t)) && !zero(x) && !zero(t))
      form(c, x, t, scalar_type::f64);
  }

  typename Context::matrix values;
  double energy = 0;  ///< ||X T^T||_F^2

 private:
  void form(Context& c, const const_view& x, const const_view& t, scalar_type type) {
    values = c.make(type, c.rows(x), c.rows(t));
    c.multiply(1, x, op::none, t, op::transpose, 0, values);
    energy = c.squared_norm(values);
  }
};

/// ||X T^T||_F^2 for stored weights T (d_out x d_in) and statistics of X in any form but moments.
template <class Context, class Statistics>
double linear_energy(Context& c, const Statistics& s, typename Context::const_view t) {
  if (s.form == statistics_form::gram) {  // tr(T S T^T)
    auto product = c.make(scalar_type::f64, c.rows(t), c.columns(t));
    c.multiply(1, t, op::none, s.data, op::none, 0, product);
    const double energy = c.dot(product, t);
    return energy < 0 ? 0.0 : energy;  // rounding; what is not a number stays so
  }
  if (s.form == statistics_form::second_moment)
    throw error(
        "a linear layer needs rows, a factor or a Gram matrix of its inputs, not second moments");
  return feature_shifts<Context>(c, s.data, t).energy;
}

/// tr(P S Q^T) = <X P^T, X Q^T> for P and Q (m x d_in) and statistics of X, S = X^T X, in any form
/// but moments.
template <class Context, class Statistics>
double linear_product(Context& c, const Statistics& s, typename Context::const_view p,
                      typename Context::const_view q) {
  if (s.form == statistics_form::gram) {
    auto product = c.make(scalar_type::f64, c.rows(p), c.columns(p));
    c.multiply(1, p, op::none, s.data, op::none, 0, product);
    return c.dot(product, q);
  }
  const feature_shifts<Context> left(c, s.data, p), right(c, s.data, q);
  return c.dot(left.values, right.values);
}

/// n sum_j E[x_j^2] t_j^2 for a scale; `moment` is E[x^2], d x 1.
template <class Context>
double scale_energy(Context& c, typename Context::const_view moment, double rows,
                    typename Context::const_view t) {
  auto energies = c.make(scalar_type::f64, c.rows(t), 1);
  c.weighted_square(rows, moment, t, energies);
  return c.to_host(energies).sum();
}

/// ||f(X; W + T) - f(X; W)||_F^2, summed over the rows of X. Throws catmerge::error where it does
/// not fit into double, although X and T do.
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
        "of two, by whose square the result is then smaller");
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
  /// Entry (k, i) is ||Df(X_k; T_i)||_F^2: what task vector i does to task k's features.
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

/// ||Df(X; T)||_F^2, how far T moves the features of a layer: a squared Frobenius norm, summed over
/// the n rows of X; the norm of the shift is its root. Df is X T^T for a linear weight (T d_out x
/// d_in, X n x d_in), x o T for a scale and T for a shift (T of d entries, X n x d).
/// @code
/// double s = feature_shift(layer_kind::linear, X, T);  // and (kind, X, T, context)
/// @endcode
/// X: rows, or statistics; for linear weights not second moments. Throws catmerge::error where
/// extents or forms do not fit the kind, and for layer_kind::other.
inline constexpr detail::feature_shift_fn feature_shift{};

/// K x K, entry (k, i) = ||Df(X_k; T_i)||_F^2: what task vector i does to task k's features. Row k
/// without its diagonal sums to task k's inter-task conflict, the first term of Eq. 8 (CAT Merging,
/// Sun et al., ICML 2025). The deviation of task i, its second term, is feature_shift(kind, X_i,
/// T_i - T_i').
/// @code
/// Eigen::MatrixXd conflict = conflict_matrix(kind, features, vectors);  // and (..., context)
/// @endcode
/// features, vectors: ranges of K, as feature_shift takes them. Throws catmerge::error as that
/// does, and where the two have different lengths.
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

/// |dL_k| <= beta sum_l (prod_{m > l} gamma_m) ||df_k^l||_F for a chain of layers l = 0, 1, ...,
/// where beta is the Lipschitz constant of the loss in the network's output, gammas[m] that of the
/// *perturbed* layer m in its input (linear: spectral_norm(W + dW); a residual block counts as one
/// layer of 1 + gamma of its branch; attention has no global constant: supply one that holds on
/// your inputs), and shifts[l] = ||df^l||_F, the root of feature_shift, at the *unperturbed*
/// inputs. Throws catmerge::error where there are not as many constants as shifts.
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
