// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/feature_call.hpp>
#include <catmerge/methods/detail/importance.hpp>
#include <catmerge/numeric/strips.hpp>
#include <cmath>
#include <vector>

namespace catmerge {

/// Settings of Fisher merging.
struct fisher_options {
  /// Added to every F_k, so that entries without any information become a mean. With 0 they stay
  /// theta_0's.
  double floor = 1e-6;
  /// Divides each task's weights by the norm of its F_k over the whole model, so that tasks with
  /// large gradients do not outweigh the rest. Needs a scan.
  bool normalise = false;
};

/// Throws catmerge::error for a floor that is negative or not finite.
inline void validate(const fisher_options& options) {
  if (!(options.floor >= 0) || !std::isfinite(options.floor))
    throw error("Fisher merging: floor must be a finite number, 0 or more");
}

/// Fisher merging (Matena, Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022,
/// arXiv 2111.09832), for every parameter, entry by entry:
///
///     theta = sum_k c_k (F_k + floor) o theta_k / sum_k c_k (F_k + floor)
///           = theta_0 + sum_k c_k (F_k + floor) o T_k / sum_k c_k (F_k + floor)
///
/// F_k, the problem's importances: the diagonal of task k's Fisher information, the mean over
/// samples of the squared gradient of the log-likelihood. c_k is the same for all tasks, or, if
/// normalised, 1 / (||F_k||_2 + floor) with the norm over the whole model. A parameter without
/// importances becomes theta_0 + (1/K) sum_k T_k (fallback). Works layer by layer, with a scan if
/// normalised.
///
/// The formula is that of FusionBench and MergeLM. The authors' code takes max(F_k, 1e-6), by
/// default for the first model alone, normalises by default (without the floor in the divisor), and
/// searches c_k on validation data.
struct fisher_method {
  fisher_options options{};  ///< checked by validate in each scan and merge

  fisher_method() = default;
  explicit fisher_method(const fisher_options& o) : options(o) {}  ///< with these options

  /// Always true.
  static constexpr bool needs_importance() { return true; }
  /// 1.
  static constexpr double factor() { return 1; }

  bool scan_wanted() const { return options.normalise && !scanned_; }  ///< once, if normalised
  /// Adds the parameter's part to ||F_k||^2.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context>) {
    validate(options);
    detail::check_importance(c, p);
    squares_.resize(p.experts.size());
    for (std::size_t k = 0; k < p.importance.size(); ++k)
      squares_[k] += c.squared_norm(p.importance[k]);
  }
  void end_scan() { scanned_ = true; }  ///< all norms are known

  /// tau = sum_k c_k (F_k + floor) o T_k / sum_k c_k (F_k + floor), computed in double. Throws
  /// catmerge::error if an importance is negative or not finite.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    validate(options);
    if (p.importance.empty()) {
      report.fallback = fallback_rule::mean;
      return mean_vector(c, vectors, tau);
    }
    detail::check_importance(c, p);
    detail::for_strips(c, tau, [&](const detail::strip<Context>& cut) {
      auto sum = cut.make(scalar_type::f64), weights = cut.make(scalar_type::f64);
      for (std::size_t k = 0; k < vectors.size(); ++k) {
        auto weight = cut.filled(options.floor);
        c.axpy(1, cut(p.importance[k]), weight);
        c.scale(coefficient(k), weight);
        c.axpy(1, weight, weights);
        c.zip(pair_function::product, weight, cut(vectors[k]), weight);
        c.axpy(1, weight, sum);
      }
      c.zip(pair_function::quotient, sum, weights, cut(tau));
    });
  }

 private:
  /// c_k, up to a factor common to all tasks.
  double coefficient(std::size_t k) const {
    if (!options.normalise) return 1;
    if (k >= squares_.size())
      throw error("Fisher merging: normalised, it merges a parameter after all have been scanned");
    const double divisor = std::sqrt(squares_[k]) + options.floor;
    return divisor > 0 ? 1 / divisor : 0;
  }

  bool scanned_ = false;
  std::vector<double> squares_;
};

/// Fisher merging of one parameter, as fisher_method. Normalises by the norms over this parameter.
/// @code
/// auto [merged, report] = fisher(base, experts, squared_gradients);  // and (..., options[,
/// context])
/// @endcode
/// base: a tensor of any shape; experts, squared_gradients: ranges of K of its shape, in its
/// domain, or of references to such. Returns a merge_result, `merged` of base's family and compute
/// type. Throws catmerge::error if there are no experts, numbers of tasks or shapes differ, a value
/// is not finite or an importance negative, and for options as validate says.
inline constexpr detail::importance_fn<fisher_method, layer_kind::other> fisher{};

}  // namespace catmerge
