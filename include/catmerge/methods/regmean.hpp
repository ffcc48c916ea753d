// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/shift_energy.hpp>
#include <catmerge/merge/feature_call.hpp>
#include <catmerge/methods/detail/gram_solve.hpp>

namespace catmerge {

/// Settings of RegMean.
struct regmean_options {
  /// The factor of the entries of C_k off the diagonal, in 0 ... 1; alpha in the paper. The paper
  /// has values from 0.1 to 1; 0.9 to 0.95 is usual (fusion_bench has 0.95 for CLIP).
  double off_diagonal = 0.9;
};

/// Throws catmerge::error for a factor that is not from 0 to 1.
inline void validate(const regmean_options& options) {
  if (!(options.off_diagonal >= 0 && options.off_diagonal <= 1))
    throw error("RegMean: off_diagonal must be from 0 to 1");
}

/// RegMean [layer by layer] (Jin, Ren, Preotiuc-Pietro, Cheng, "Dataless Knowledge Fusion by
/// Merging Weights of Language Models", ICLR 2023, arXiv 2212.09849): the weights with the outputs
/// closest to the experts', on a layer's inputs X_k (n_k x d_in) in expert k. For linear weights as
/// stored, theta d_out x d_in, and a = options.off_diagonal:
///
///     theta = (sum_k theta_k S_k)(sum_k S_k)^+
///     S_k = a C_k + (1 - a) diag(C_k),   C_k = X_k^T X_k / n_k
///
/// Tasks weigh the same, whatever their numbers of rows. theta is computed as theta_0 + tau with
/// tau = (sum_k T_k S_k)(sum_k S_k)^+, minus theta_0 outside the span of sum_k S_k: directions
/// without any task's input become zero, the base's too. (For a < 1 these are coordinates that are
/// zero in all inputs.) The authors' code and fusion_bench invert: a singular sum_k S_k makes them
/// fail or return rounding errors. With a = 1, an invertible sum_k S_k and equal n_k this is LOT
/// Merging with its alpha at 1.
///
/// Needs statistics of linears. Without them, if they are all zero, and for all other parameters:
/// the mean of the experts, and a fallback in the report.
struct regmean_method {
  regmean_options options{};  ///< checked by validate in each merge

  /// True for linears.
  static constexpr bool needs_statistics(layer_kind kind) { return kind == layer_kind::linear; }

  /// 1.
  static constexpr double factor() { return 1; }

  /// tau as above. Throws catmerge::error if statistics hold a value that is not finite.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    validate(options);
    if (p.kind == layer_kind::linear && !p.statistics.empty()) {
      detail::check_finite_statistics(c, p);
      if (detail::gram_solver<Context>(c, vectors, grams(c, p)).add_without(p.base, tau)) return;
    }
    report.fallback = fallback_rule::mean;
    mean_vector(c, vectors, tau);
  }

 private:
  template <class Context>
  std::vector<detail::weighted_gram<Context>> grams(Context& c,
                                                    const layer_problem<Context>& p) const {
    std::vector<detail::weighted_gram<Context>> list;
    for (const auto& s : p.statistics) {
      const double weight = s.rows > 0 ? options.off_diagonal / s.rows : 0;
      list.push_back({s.data, s.form == statistics_form::gram, weight});
      if (options.off_diagonal == 1) continue;
      const small_matrix moment = c.to_host(detail::second_moment(c, s));  // diag(C_k)
      for (index_t j = 0; j < moment.rows(); ++j)
        list.back().diagonal.push_back((1 - options.off_diagonal) * moment(j, 0));
    }
    return list;
  }
};

/// RegMean of one linear weight, as regmean_method.
/// @code
/// auto [merged, report] = regmean_linear(base, experts, features);  // and (..., options[,
/// context])
/// @endcode
/// base: d_out x d_in; experts: a range of K of its shape, in its domain; features: a range of K,
/// rows X_k, n_k x d_in, as they enter the layer in expert k, or their statistics but no second
/// moments. Returns a merge_result, `merged` of base's family and compute type. Throws
/// catmerge::error if there are no experts, tasks or extents do not match, a value is not finite,
/// and for options as validate says.
inline constexpr detail::features_fn<regmean_method, layer_kind::linear> regmean_linear{};

}  // namespace catmerge
