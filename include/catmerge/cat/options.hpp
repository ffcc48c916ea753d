// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/report.hpp>
#include <catmerge/numeric/eigen_options.hpp>
#include <cmath>
#include <string>
#include <variant>

/// @file
/// The options of CAT Merging (Sun et al., ICML 2025). The paper and the authors' code leave some
/// choices open and differ in others. Defaults are the paper's. It does not print lambda and the
/// counts: their defaults are the values that a port of the authors' code attributes to it.
namespace catmerge {

/// Directions rule: the positive ones among the `count` largest eigenvalues. Removal along any
/// other direction makes Eq. 8 worse. The authors' code takes `count` of either sign.
struct largest {
  index_t count = 4;          ///< c
  bool positive_only = true;  ///< false: of either sign
};

/// Directions rule: positive eigenvalues until their squares reach a share of the sum of all
/// positive ones' squares. The authors' code stops one eigenvalue before the share is reached.
struct energy_share {
  double share = 0.9;  ///< in [0, 1]; 0.9 is this library's choice, no source has a value
  /// The smallest number of eigenvalues that reaches the share, or the largest that stays below it.
  enum class bound { reach, below };
  bound stop = bound::reach;  ///< reach the share, or stay below it
};

/// Directions rule: every positive eigenvalue, the minimiser of Eq. 8 over all projections.
struct all_positive {};

/// The rule that selects the eigenvectors of G_k to remove.
using direction_rule = std::variant<largest, energy_share, all_positive>;

/// The order in which the bases of all other tasks trim one T_i.
enum class trim_order {
  sequential,  ///< one after the other, in task order: only the last is removed exactly
  joint        ///< projection off all bases at once: independent of order, trims more
};

/// The size of a trimmed vector.
enum class rescale {
  none,      ///< as the trim leaves it
  frobenius  ///< its Frobenius norm before the trim (a vector trimmed to zero stays zero)
};

/// The weight of each task's rows in G_k.
enum class row_weight {
  sum,  ///< X^T X as it is: a task with more rows weighs more
  mean  ///< X^T X / n
};

/// The trim of linear weights (projection.hpp).
struct projection_options {
  direction_rule directions = largest{4};         ///< the eigenvectors of G_k to remove
  double lambda = 5;                              ///< weight of the deviation, second term of Eq. 8
  row_weight weighting = row_weight::sum;         ///< the weight of each task's rows in G_k
  trim_order order = trim_order::sequential;      ///< how the bases of several tasks are applied
  rescale rescaling = rescale::none;              ///< the authors' code: frobenius
  basis_solver solver = basis_solver::automatic;  ///< affects speed alone
  /// For the Krylov solvers. Products of float weights are made in float for tolerances of at least
  /// 4e-7 (the default is 1e-6), else in double. A search that stalls in float goes on in double,
  /// and one for eigenvalues that are smaller than its tolerance goes on to 1e-8.
  /// basis_solver::automatic may give up before `products` products.
  eigen_options eigen{};
};

/// The trim of scales (mask.hpp).
struct scale_mask_options {
  largest coordinates{4};             ///< number of removed coordinates, sign of their scores
  double lambda = 10;                 ///< weight of the deviation in the score
  rescale rescaling = rescale::none;  ///< the authors' code: frobenius
};

/// The trim of shifts (mask.hpp).
struct shift_mask_options {
  index_t count = 4;  ///< the number of removed coordinates
};

/// CAT Merging of all kinds of parameters.
struct cat_options {
  double alpha = 0.4;                          ///< factor of the sum; choose it on validation data
  projection_options linear{};                 ///< the trim of linear weights
  scale_mask_options scale{};                  ///< the trim of scales
  shift_mask_options shift{};                  ///< the trim of shifts
  fused_weights fused = fused_weights::split;  ///< linear weights and shifts with parts
  /// Measures conflicts and deviations. This costs about as much as the bases.
  bool diagnostics = true;

  /// The defaults, by name.
  static cat_options paper() { return {}; }

  /// Settings that need no choice: lambda 1, where Eq. 8 weighs both of its terms alike, and as
  /// many directions as hold half of the squared positive eigenvalues. On the families of
  /// examples/families they are nowhere worse than lambda and rank chosen on labels, beyond noise.
  /// (alpha is still a choice.)
  static cat_options automatic() {
    cat_options o;
    o.linear.lambda = 1;
    o.linear.directions = energy_share{0.5};
    return o;
  }

  /// The choices of a port of the authors' code to language models: trimmed vectors are scaled back
  /// to their norm, eigenvalues and scores of either sign are taken, fused weights are one matrix.
  /// Two of its choices are not copied. The port records X_k from the network theta_0 + alpha T_k;
  /// here the caller records the features. The port takes the *smallest* eigenvalues, which raises
  /// Eq. 8 above its value without a trim.
  static cat_options port() {
    cat_options o;
    o.linear.directions = largest{4, false};
    o.linear.rescaling = rescale::frobenius;
    o.scale.coordinates.positive_only = false;
    o.scale.rescaling = rescale::frobenius;
    o.fused = fused_weights::whole;
    return o;
  }
};

namespace detail {

inline void require_lambda(double lambda) {
  if (!(lambda >= 0) || !std::isfinite(lambda))
    throw error("lambda must be a finite number that is not negative, found " +
                std::to_string(lambda));
}

}  // namespace detail

/// Throws catmerge::error for a lambda that is negative or not finite, a negative number of
/// directions, a share of energy outside [0, 1], and a negative tolerance of eigenpairs (0 stands
/// for the default).
inline void validate(const projection_options& options) {
  detail::require_lambda(options.lambda);
  if (const auto* rule = std::get_if<largest>(&options.directions);
      rule != nullptr && rule->count < 0)
    throw error("the rank of a removal basis cannot be negative, found " +
                std::to_string(rule->count));
  if (const auto* rule = std::get_if<energy_share>(&options.directions);
      rule != nullptr && !(rule->share >= 0 && rule->share <= 1))
    throw error("the share of energy of a removal basis must lie in [0, 1], found " +
                std::to_string(rule->share));
  if (!(options.eigen.tolerance >= 0))
    throw error("the tolerance of eigenpairs cannot be negative");
}

/// Throws catmerge::error for a lambda that is negative or not finite and a negative number of
/// coordinates.
inline void validate(const scale_mask_options& options) {
  detail::require_lambda(options.lambda);
  if (options.coordinates.count < 0)
    throw error("the number of masked coordinates cannot be negative");
}

/// Throws catmerge::error for a negative number of coordinates.
inline void validate(const shift_mask_options& options) {
  if (options.count < 0) throw error("the number of masked coordinates cannot be negative");
}

/// Throws catmerge::error for an alpha that is not finite and for options that the three overloads
/// above refuse. Every call of CAT begins with this check.
inline void validate(const cat_options& options) {
  validate(options.linear);
  validate(options.scale);
  validate(options.shift);
  if (!std::isfinite(options.alpha)) throw error("alpha must be a finite number");
}

}  // namespace catmerge
