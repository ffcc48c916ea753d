// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/shift_energy.hpp>
#include <catmerge/merge/feature_call.hpp>
#include <catmerge/methods/detail/gram_solve.hpp>

namespace catmerge {

/// Settings of LOT Merging.
struct lot_options {
  /// The factor of the merged task vector, lambda in the paper: 1.2 there for ViT-B/32, 1.5 for
  /// ViT-L/14. 1 minimises the drift and needs no validation.
  double alpha = 1;
  /// The ridge of linears in shares of the mean eigenvalue of sum_k S_k; 0 is the published method.
  double ridge = 1e-3;
};

/// Throws catmerge::error for an alpha that is not finite, and for a ridge that is negative or not
/// finite.
inline void validate(const lot_options& options) {
  if (!std::isfinite(options.alpha)) throw error("LOT: alpha must be a finite number");
  if (!(options.ridge >= 0) || !std::isfinite(options.ridge))
    throw error("LOT: ridge must be a finite number, 0 or more");
}

/// LOT Merging [layer by layer] (Sun, Li, Wang, Liu, Geng, Li, "Towards Minimizing Feature Drift in
/// Model Merging: Layer-wise Task Vector Fusion for Adaptive Knowledge Integration", NeurIPS 2025,
/// arXiv 2505.23859): the task vector with the least squared distance of each layer's outputs from
/// the experts', on the layer's inputs X_k (n_k x d_in) in expert k. For weights as stored, d_out x
/// d_in, S_k = X_k^T X_k, q_k its diagonal, and o entry by entry:
///
///     linear  tau = (sum_k T_k S_k + mu P)(sum_k S_k + mu I)^-1,   P = (1/K) sum_k T_k
///     scale   tau = sum_k q_k o T_k / sum_k q_k    the least sum_k ||X_k o (tau - T_k)||_F^2
///     shift   tau = (1/K) sum_k T_k
///
/// and theta = theta_0 + alpha tau. The tau of linears is the least of
///
///     sum_k ||X_k (tau - T_k)^T||_F^2 + mu ||tau - P||_F^2,   mu = ridge tr(sum_k S_k) / d_in
///
/// Rows are summed, so a task with more rows weighs more. A coordinate of a scale that is zero in
/// all inputs is averaged. Fused linears share their input and merge as they would alone.
///
/// The paper has no ridge but the pseudo-inverse, (sum_k T_k S_k)(sum_k S_k)^+ (ridge = 0): a
/// direction without any task's input stays the base's, and one with little of it gets what fits
/// that little best, however long. A direction that all inputs of a layer take at test time and no
/// row of the statistics covers, as the first position of a sequence, is then lost: on a decoder
/// the merge falls below its base. A ridge of a thousandth of the mean eigenvalue leaves such
/// directions the mean of the task vectors. gram_cut (gram_eigen.hpp) decides which values are
/// zero.
///
/// Needs statistics of linears and scales (the paper: 64 samples a task). Without them, if they are
/// all zero, and for parameters of kind `other`: the mean of the task vectors, and a fallback in
/// the report.
struct lot_method {
  lot_options options{};  ///< checked by validate in each merge

  /// True for linears and scales.
  static constexpr bool needs_statistics(layer_kind kind) {
    return kind == layer_kind::linear || kind == layer_kind::scale;
  }

  /// alpha.
  double factor() const { return options.alpha; }

  /// tau as above. Throws catmerge::error if statistics hold a value that is not finite.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    validate(options);
    if (p.kind == layer_kind::shift) return mean_vector(c, vectors, tau);
    if (needs_statistics(p.kind) && !p.statistics.empty()) {
      detail::check_finite_statistics(c, p);
      if (p.kind == layer_kind::linear ? add_linear(c, p, vectors, tau)
                                       : add_scale(c, p, vectors, tau))
        return;
    }
    report.fallback = fallback_rule::mean;
    mean_vector(c, vectors, tau);
  }

 private:
  /// Both return false and leave tau unchanged if all inputs are zero.
  template <class Context>
  bool add_linear(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
                  const typename Context::view& tau) const {
    std::vector<detail::weighted_gram<Context>> grams;
    for (const auto& s : p.statistics) grams.push_back({s.data, s.form == statistics_form::gram});
    detail::gram_solver<Context> solver(c, vectors, std::move(grams));
    if (options.ridge == 0) return solver.add_to(tau);
    auto prior = c.make(scalar_type::f64, c.rows(tau), c.columns(tau));
    mean_vector(c, vectors, prior);
    return solver.add_with_ridge(prior, options.ridge, tau);
  }

  template <class Context>
  static bool add_scale(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
                        const typename Context::view& tau) {
    const auto make = [&] { return c.make(scalar_type::f64, c.rows(tau), 1); };
    std::vector<typename Context::matrix> energies;  // q_k
    auto total = make(), unseen = make(), product = make(), sum = make();
    for (const auto& s : p.statistics) {
      energies.push_back(detail::second_moment(c, s));
      c.scale(s.rows, energies.back());
      c.axpy(1, energies.back(), total);
    }
    if (c.squared_norm(total) == 0) return false;
    // 1 if the total is 0, else 0: added to all q_k, it makes a mean there.
    c.map(entry_function::above, -1, sum, unseen);
    c.map(entry_function::sign, 0, total, product);
    c.axpy(-1, product, unseen);
    for (std::size_t k = 0; k < energies.size(); ++k) {
      c.axpy(1, unseen, energies[k]);
      c.axpy(1, unseen, total);
      c.zip(pair_function::product, energies[k], vectors[k], product);
      c.axpy(1, product, sum);
    }
    c.zip(pair_function::quotient, sum, total, product);
    c.axpy(1, product, tau);
    return true;
  }
};

/// LOT Merging of one linear weight, as lot_method.
/// @code
/// auto [merged, report] = lot_linear(base, experts, features);  // and (..., options[, context])
/// @endcode
/// base: d_out x d_in; experts: a range of K of its shape, in its domain; features: a range of K,
/// rows X_k, n_k x d_in, as they enter the layer in expert k, or their statistics but no second
/// moments. Returns a merge_result, `merged` of base's family and compute type. Throws
/// catmerge::error if there are no experts, tasks or extents do not match, a value is not finite,
/// and for options as validate says.
inline constexpr detail::features_fn<lot_method, layer_kind::linear> lot_linear{};

/// LOT Merging of the scale of a normalisation.
/// @code
/// auto [merged, report] = lot_scale(base, experts, features);  // and (..., options[, context])
/// @endcode
/// base: d entries; experts: a range of K of the same; features: a range of K, rows n_k x d of the
/// *normalised* inputs, or statistics in any form. Otherwise as lot_linear.
inline constexpr detail::features_fn<lot_method, layer_kind::scale> lot_scale{};

}  // namespace catmerge
