// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/call.hpp>
#include <catmerge/methods/detail/gram_solve.hpp>
#include <catmerge/methods/detail/matrix_parts.hpp>

namespace catmerge {

/// Settings of WUDI in closed form.
struct wudi_options {
  double alpha = 1;  ///< the factor of the merged task vector; the paper has none
  /// Weights that hold several linears: one matrix, as in the authors' code, or each alone.
  fused_weights fused = fused_weights::whole;
};

/// Throws catmerge::error for an alpha that is not finite.
inline void validate(const wudi_options& options) {
  if (!std::isfinite(options.alpha)) throw error("WUDI: alpha must be a finite number");
}

/// WUDI-Merging's objective, minimised [layer by layer] (Cheng, Xiong, Wei, Zhu, Yuan, "Whoever
/// Started the Interference Should End It: Guiding Data-Free Model Merging via Task Vectors", ICML
/// 2025, arXiv 2503.08099). The rows of a linear weight's task vector, d_out x d_in, lie in the
/// span of the inputs of its training, so they stand in for inputs:
///
///     min sum_k ||(tau - T_k) T_k^T||_F^2 / ||T_k||_F^2:   tau = (sum_k T_k C_k)(sum_k C_k)^+,
///     C_k = T_k^T T_k / ||T_k||_F^2
///
/// the minimiser of smallest norm, and theta = theta_0 + alpha tau. Tasks with T_k = 0 do not
/// count. This is LOT Merging with the rows of T_k / ||T_k||_F for X_k.
///
/// The published method is not this minimiser but 300 steps of Adam (learning rate 1e-5) towards it
/// from sum_k T_k. A step of Adam moves an entry by at most 3.2e-5 (Kingma & Ba, ICLR 2015, section
/// 2.1), so every entry ends within 0.0095 of the sum. Results differ if the minimum is farther
/// away.
///
/// Applies to linears. All else: theta_0, as in the authors' code (attention and MLP weights alone;
/// fusion_bench 0.2.33 merges every matrix so, and averages the rest), and a fallback in the
/// report. Needs no statistics.
struct wudi_method {
  wudi_options options{};  ///< checked by validate in each merge

  /// Always false: the vectors stand in for features.
  static constexpr bool needs_statistics(layer_kind) { return false; }

  /// alpha.
  double factor() const { return options.alpha; }

  /// tau as above. Throws catmerge::error if the squared norm of a task vector overflows.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    validate(options);
    if (p.kind != layer_kind::linear) {
      report.fallback = fallback_rule::base;
      return;
    }
    detail::merge_parts(c, p, options.fused, vectors, tau, [&](const auto& t, const auto& part) {
      std::vector<detail::weighted_gram<Context>> grams;
      for (std::size_t k = 0; k < t.size(); ++k) {
        const double energy = c.squared_norm(t[k]);
        if (!std::isfinite(energy))
          throw error(p.names.expert(static_cast<index_t>(k)) +
                      ": the squared norm of its task vector overflows float64");
        grams.push_back({t[k], false, energy > 0 ? 1 / energy : 0});
      }
      detail::gram_solver<Context>(c, t, std::move(grams)).add_to(part);  // nothing to add: zero
    });
  }
};

/// WUDI-Merging of one linear weight in closed form, as wudi_method.
/// @code
/// auto [merged, report] = wudi(base, experts);  // and (base, experts, options[, context])
/// @endcode
/// base: d_out x d_in; experts: a range of K of its shape, in its domain. Returns a merge_result,
/// `merged` of base's family and compute type. Throws catmerge::error if there are no experts,
/// shapes differ, a value is not finite, and for options as validate says.
inline constexpr detail::vectors_fn<wudi_method, layer_kind::linear> wudi{};

}  // namespace catmerge
