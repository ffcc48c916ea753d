// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/merge/feature_call.hpp>
#include <catmerge/methods/detail/importance.hpp>
#include <catmerge/numeric/strips.hpp>
#include <catmerge/numeric/task_thresholds.hpp>
#include <cmath>
#include <limits>
#include <vector>

namespace catmerge {

/// Settings of TATR.
struct tatr_options {
  /// Entries with Omega below this quantile lie in the trust region.
  double quantile = 0.99;
  /// Uses |T_i| in place of the sensitivities g_i, which are then not needed.
  bool zero_shot = false;
  double alpha = 0.3;  ///< the factor of the summed vectors; not used by tatr_filter
};

/// Throws catmerge::error for a quantile outside [0, 1] and an alpha that is not finite.
inline void validate(const tatr_options& options) {
  if (!(options.quantile >= 0 && options.quantile <= 1))
    throw error("TATR: quantile must be at least 0 and at most 1");
  if (!std::isfinite(options.alpha)) throw error("TATR: alpha must be a finite number");
}

/// Task Arithmetic in the Trust Region (Sun et al., ICLR 2025, arXiv 2501.15065), the filter alone,
/// a transform of task vectors (method.hpp) before any method: `chain{tatr_filter{},
/// ties_method{}}`. Entry by entry:
///
///     Omega = sum_{i != j} g_i o |T_j|;   T_k <- T_k where Omega < its quantile, else 0
///
/// g_i, the problem's importances: the sensitivity of task i, the mean over samples of |gradient of
/// the loss at theta_0|; or, zero-shot, |T_i|. The quantile is an entry of the whole model: number
/// min(floor(n quantile), n - 1) of n in ascending order, counted from 0. Entries with Omega = 0,
/// without a conflict, are always kept. (FusionBench's strict filter drops them if the quantile is
/// 0: all entries of a single task.) For every parameter; two scans (four if some input is double).
///
/// Omega is a sum of nonnegative products, formed in double and rounded to float unless some
/// vectors or importances are double. FusionBench stores its sensitivities under a stale name, so
/// it drops everything unless zero-shot.
struct tatr_filter {
  tatr_options options{};  ///< checked by validate in each scan

  tatr_filter() = default;
  explicit tatr_filter(const tatr_options& o) : options(o) {}  ///< with these options

  /// True unless zero-shot.
  bool needs_importance() const { return !options.zero_shot; }

  bool scan_wanted() const { return omega_.wanted(); }  ///< until the threshold is known
  /// Reads Omega. Throws catmerge::error if sensitivities are needed and missing, negative or not
  /// finite.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
    validate(options);
    require_sensitivities(p);
    if (!options.zero_shot) detail::check_importance(c, p);
    const auto rule = [quantile = options.quantile](std::uint64_t n) {
      const auto rank = static_cast<std::uint64_t>(static_cast<double>(n) * quantile);
      return std::vector<std::uint64_t>{(std::min)(rank, n - 1)};
    };
    detail::for_strips(c, vectors.front(), [&](const detail::strip<Context>& cut) {
      omega_.see(c, 0, conflict(c, p, cut, vectors), rule);
    });
  }
  void end_scan() { omega_.end_pass(); }  ///< fixes one more digit of the threshold

  /// Makes every entry outside the trust region zero.
  template <class Context>
  void apply(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
             layer_report&) const {
    require_sensitivities(p);
    detail::for_strips(c, vectors.front(), [&](const detail::strip<Context>& cut) {
      // In double: -Omega > -threshold; a threshold above 0 keeps Omega = 0.
      auto kept = cut.make(scalar_type::f64);
      c.axpy(-1, conflict(c, p, cut, vectors), kept);
      const double threshold =
          (std::max)(omega_.value(0), std::numeric_limits<double>::denorm_min());
      c.map(entry_function::above, -threshold, kept, kept);
      for (const auto& t : vectors) c.zip(pair_function::product, kept, cut(t), cut(t));
    });
  }

 private:
  template <class Context>
  void require_sensitivities(const layer_problem<Context>& p) const {
    if (!options.zero_shot && p.importance.empty())
      throw error(p.names.who() +
                  ": TATR needs the tasks' sensitivities, mean |gradient| at theta_0, as "
                  "importances; the option zero_shot needs none");
  }

  /// Omega of a strip: the same bits in the scans and in the filter.
  template <class Context>
  typename Context::matrix conflict(Context& c, const layer_problem<Context>& p,
                                    const detail::strip<Context>& cut,
                                    vector_list<Context> vectors) const {
    auto type = scalar_type::f32;
    auto omega = cut.make(scalar_type::f64), product = cut.make(scalar_type::f64);
    // Sums over the tasks before this one: they give all pairs without a difference of sums.
    auto sizes = cut.make(scalar_type::f64), sensitivities = cut.make(scalar_type::f64);
    for (std::size_t k = 0; k < vectors.size(); ++k) {
      auto size = cut.make(scalar_type::f64), sensitivity = cut.make(scalar_type::f64);
      c.map(entry_function::absolute, 0, cut(vectors[k]), size);
      if (options.zero_shot)
        c.assign(size, sensitivity);
      else
        c.assign(cut(p.importance[k]), sensitivity);
      c.zip(pair_function::product, sensitivities, size, product);
      c.axpy(1, product, omega);
      c.zip(pair_function::product, sensitivity, sizes, product);
      c.axpy(1, product, omega);
      c.axpy(1, size, sizes);
      c.axpy(1, sensitivity, sensitivities);
      const bool is_double = c.type(vectors[k]) == scalar_type::f64 ||
                             (!options.zero_shot && c.type(p.importance[k]) == scalar_type::f64);
      if (is_double) type = scalar_type::f64;
    }
    auto rounded = cut.make(type);
    c.assign(omega, rounded);
    return rounded;
  }

  detail::task_thresholds omega_;
};

/// TATR as a method (method.hpp): theta = theta_0 + alpha sum_k T_k with the vectors filtered by
/// tatr_filter, for every parameter. alpha = 0.3 as in Task Arithmetic.
struct tatr_method {
  tatr_options options{};  ///< checked by validate in each scan

  tatr_method() = default;
  explicit tatr_method(const tatr_options& o) : options(o) {}  ///< with these options

  /// True unless zero-shot.
  bool needs_importance() const { return !options.zero_shot; }
  /// alpha.
  double factor() const { return options.alpha; }

  bool scan_wanted() const { return filter_.scan_wanted(); }  ///< by the filter
  /// Scans for the filter.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
    filter_.options = options;
    filter_.scan(c, p, vectors);
  }
  void end_scan() { filter_.end_scan(); }  ///< of the filter

  /// tau = sum_k of the filtered T_k.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    filter_.apply(c, p, vectors, report);
    sum_vectors(c, vectors, tau);
  }

 private:
  tatr_filter filter_;
};

namespace detail {

/// Calls with sensitivities, or without them for zero-shot options.
struct tatr_fn : importance_fn<tatr_method, layer_kind::other>,
                 vectors_fn<tatr_method, layer_kind::other> {
  using importance_fn<tatr_method, layer_kind::other>::operator();
  using vectors_fn<tatr_method, layer_kind::other>::operator();
};

}  // namespace detail

/// TATR of one parameter, as tatr_method of a model with this parameter alone.
/// @code
/// auto [merged, report] = tatr(base, experts, sensitivities);  // and (..., options[, context])
/// auto [again, why] = tatr(base, experts, {.zero_shot = true});  // and (..., options, context)
/// @endcode
/// base: a tensor of any shape; experts, sensitivities: ranges of K of its shape, in its domain, or
/// of references to such. Returns a merge_result, `merged` of base's family and compute type.
/// Throws catmerge::error if there are no experts, numbers of tasks or shapes differ, a value is
/// not finite or a sensitivity negative, for missing sensitivities if not zero-shot, and for
/// options as validate says.
inline constexpr detail::tatr_fn tatr{};

}  // namespace catmerge
