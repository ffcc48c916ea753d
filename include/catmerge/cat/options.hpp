// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/mask.hpp>

namespace catmerge {

/// Every choice that the paper and the authors' code leave open or make differently. Defaults are
/// the paper's.
struct cat_options {
  double alpha = 0.4;                          ///< of the sum; best chosen on validation data
  projection_options linear{};                 ///< the trim of linear weights: c = 4, lambda = 5
  scale_mask_options scale{};                  ///< the trim of scales: c = 4, lambda = 10
  shift_mask_options shift{};                  ///< the trim of shifts: c = 4
  fused_weights fused = fused_weights::split;  ///< of linear weights and shifts that have parts
  /// Conflicts after the trim and deviations: they cost about as much as the bases.
  bool diagnostics = true;

  /// The defaults, by name.
  static cat_options paper() { return {}; }

  /// What a port of the authors' code to language models does: trimmed vectors are scaled back to
  /// their norm, ranks are taken whatever the sign of the eigenvalue or score, fused weights are
  /// one matrix. (It also takes X_k from the network theta_0 + alpha T_k: that is for whoever
  /// records the features. It takes the *smallest* eigenvalues, which raises Eq. 8 above not
  /// trimming at all: that is not copied.)
  static cat_options port() {
    cat_options o;
    o.linear.directions = top{4, false};
    o.linear.size = rescale::frobenius;
    o.scale.coordinates.positive_only = false;
    o.scale.size = rescale::frobenius;
    o.fused = fused_weights::whole;
    return o;
  }
};

/// Throws catmerge::error for a lambda or alpha that is not finite, a negative lambda, a negative
/// number of directions or coordinates, a share of energy outside [0, 1], or a tolerance of
/// eigenpairs that is not positive. Every call of CAT begins with it.
inline void validate(const cat_options& options) {
  detail::validate(options.linear);
  detail::validate(options.scale);
  detail::validate(options.shift);
  if (!std::isfinite(options.alpha)) throw error("alpha must be a finite number");
}

}  // namespace catmerge
