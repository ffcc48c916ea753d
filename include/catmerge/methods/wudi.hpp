// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/merge/call.hpp>
#include <catmerge/methods/detail/gram_solve.hpp>
#include <catmerge/methods/detail/matrix_parts.hpp>
#include <cmath>
#include <vector>

namespace catmerge {

/// WUDI's objective in closed form: its minimiser, or a filter that stops before it.
enum class wudi_variant {
  wudi,    ///< the minimiser of smallest norm
  swudi,   ///< SWUDI: a smooth filter, for a share of the directions
  aswudi,  ///< ASWUDI: the minimiser along a number of directions that the spectrum gives
  actmat   ///< ACTMat: the minimiser of the objective without its divisions by ||T_k||^2
};

/// Settings of WUDI in closed form, SWUDI, ASWUDI and ACTMat.
struct wudi_options {
  double alpha = 1;  ///< the factor of the merged task vector; the papers have none
  /// Weights that hold several linears: one matrix, as in the authors' code, or each alone.
  fused_weights fused = fused_weights::whole;
  wudi_variant variant = wudi_variant::wudi;  ///< WUDI or a relative
  double time = 300;                          ///< SWUDI: of the flow; 1300 on CLIP's ViT-B/32
  double share = 0.65;                        ///< SWUDI: of directions; 0.85 on Llama
};

/// Throws catmerge::error for an alpha that is not finite, a time that is not positive and finite,
/// or a share outside (0, 1].
inline void validate(const wudi_options& options) {
  if (!std::isfinite(options.alpha)) throw error("WUDI: alpha must be a finite number");
  if (!(options.time > 0 && std::isfinite(options.time)))
    throw error("SWUDI: time must be a finite number above 0");
  if (!(options.share > 0 && options.share <= 1))
    throw error("SWUDI: share must be above 0 and at most 1");
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
/// **SWUDI and ASWUDI** (arXiv 2606.07289) go part of the way from the sum to the minimiser. With V
/// diag(l) V^T = sum_k C_k,
///
///     tau = T_0 + (sum_k (T_k - T_0) C_k) V diag(f / l) V^T,   T_0 = sum_k T_k
///
///     SWUDI    f = 1 - exp(-time l) for the ceil(share d_in) largest l, else 0
///     ASWUDI   f = 1 for the n largest l, else 0;   n = ceil((sum sqrt(l))^2 / sum l)
///
/// With share = 1, SWUDI is the gradient flow of half the objective, stopped at `time`. Both are
/// the defaults of the authors' code (WalkerWorldPeace/MLLMerging, 2026), which also offers other
/// rules for n and other starts, and raises eigenvalues below 1e-8 to that value. Here eigenvalues
/// above rounding noise (gram_cut) count as they are.
///
/// **ACTMat** (arXiv 2604.01329) is the minimiser with C_k = T_k^T T_k: large task vectors count
/// more. Vectors and all else that is no linear: the mean of the task vectors (merge-and-rebase's
/// `actmerge`, 2026, leaves out embeddings, heads and CLIP's text projection).
///
/// WUDI applies to linears. All else: theta_0, as in the authors' code (attention and MLP weights
/// alone; fusion_bench 0.2.33 merges every matrix so, and averages the rest), and a fallback in the
/// report. SWUDI and ASWUDI apply to linears, and to tables and embeddings that are matrices (the
/// authors' code leaves out `lm_head`). All else, and matrices with fewer rows or columns than
/// tasks: the mean of the task vectors, and a fallback in the report. Needs no statistics.
struct wudi_method {
  wudi_options options{};  ///< checked by validate in each merge

  /// Always false: the vectors stand in for features.
  static constexpr bool needs_statistics(layer_kind) { return false; }

  /// True for SWUDI and ASWUDI: embeddings and tables must not come in pieces of rows.
  bool sees_matrices() const { return is_filter(); }

  /// alpha.
  double factor() const { return options.alpha; }

  /// tau as above. Throws catmerge::error if the squared norm of a task vector overflows.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    validate(options);
    if (is_filter())
      return detail::merge_matrices(
          c, p, options.fused, vectors, tau, report,
          [&](const auto& t, const auto& part) { filter<Context>(c, p, t, part); });
    if (p.kind == layer_kind::linear)
      return detail::merge_parts(c, p, options.fused, vectors, tau,
                                 [&](const auto& t, const auto& part) {
                                   solver_of<Context>(c, p, t).add_to(part);  // or nothing: zero
                                 });
    if (options.variant == wudi_variant::wudi) {
      report.fallback = fallback_rule::base;
    } else {
      report.fallback = fallback_rule::mean;
      mean_vector(c, vectors, tau);
    }
  }

 private:
  bool is_filter() const {
    return options.variant == wudi_variant::swudi || options.variant == wudi_variant::aswudi;
  }

  /// Of C_k.
  template <class Context>
  detail::gram_solver<Context> solver_of(Context& c, const layer_problem<Context>& p,
                                         vector_list<Context> vectors) const {
    const bool divided = options.variant != wudi_variant::actmat;
    std::vector<detail::weighted_gram<Context>> grams;
    for (std::size_t k = 0; k < vectors.size(); ++k) {
      const double energy = c.squared_norm(vectors[k]);
      if (!std::isfinite(energy))
        throw error(p.names.expert(static_cast<index_t>(k)) +
                    ": the squared norm of its task vector overflows float64");
      grams.push_back({vectors[k], false, energy > 0 ? (divided ? 1 / energy : 1) : 0});
    }
    return {c, vectors, std::move(grams)};
  }

  template <class Context>
  void filter(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
              const typename Context::view& tau) const {
    sum_vectors(c, vectors, tau);
    solver_of(c, p, vectors).move(tau, [&](const std::vector<double>& values) {
      return shares(values, c.columns(tau));
    });
  }

  /// f of each eigenvalue; `values`: ascending, without zeros; d_in of them with zeros.
  std::vector<double> shares(const std::vector<double>& values, index_t d_in) const {
    const bool smooth = options.variant == wudi_variant::swudi;
    const double count = smooth ? static_cast<double>(d_in) * options.share : participating(values);
    // Rounded up as in the authors' code, for which a share of 0.55 of 100 is 55, not 56.
    const auto largest = static_cast<index_t>(smooth ? count + 0.999 : std::ceil(count));
    std::vector<double> f(values.size(), 0);
    for (auto j = (std::max)(index_t{0}, std::ssize(f) - largest); j < std::ssize(f); ++j) {
      const auto i = static_cast<std::size_t>(j);
      f[i] = smooth ? -std::expm1(-options.time * values[i]) : 1;
    }
    return f;
  }

  /// (sum sqrt(l))^2 / sum l.
  static double participating(const std::vector<double>& values) {
    double roots = 0, sum = 0;
    for (const double l : values) roots += std::sqrt(l), sum += l;
    return roots * roots / sum;
  }
};

/// WUDI-Merging of one linear weight in closed form, SWUDI, ASWUDI or ACTMat, as wudi_method.
/// @code
/// auto [merged, report] = wudi(base, experts);  // and (base, experts, options[, context])
/// wudi_options options;
/// options.variant = wudi_variant::aswudi;
/// auto [filtered, why] = wudi(base, experts, options);
/// @endcode
/// base: d_out x d_in; experts: a range of K of its shape, in its domain. Returns a merge_result,
/// `merged` of base's family and compute type. Throws catmerge::error if there are no experts,
/// shapes differ, a value is not finite, and for options as validate says.
inline constexpr detail::vectors_fn<wudi_method, layer_kind::linear> wudi{};

}  // namespace catmerge
