// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/merge/call.hpp>
#include <catmerge/numeric/order_search.hpp>
#include <catmerge/numeric/strips.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

/// @file
/// Model Breadcrumbs: Davari, Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with
/// Sparse Masks", ECCV 2024, arXiv 2312.06795. Drop outliers and small changes of each layer, then
/// sum:
///
///     T_k   <- T_k where |T_k| is neither among its largest nor among its smallest, else 0
///     theta =  theta_0 + alpha sum_k T_k
namespace catmerge {

/// Settings of Model Breadcrumbs. The default shares are those of the example in mergekit's
/// documentation. The default alpha is that of the authors' script, which has no default shares.
struct breadcrumbs_options {
  /// The share of a task vector's entries that stay: floor(n density) of n. (mergekit's default is
  /// 1, which drops nothing.)
  double density = 0.9;
  /// The share of largest entries to drop: floor(n gamma), or fewer if the density leaves fewer to
  /// drop. All other dropped entries are the smallest.
  double gamma = 0.01;
  double alpha = 0.4;  ///< the factor of the sum
};

/// Throws catmerge::error for a density outside (0, 1], a gamma outside [0, 1) and an alpha that is
/// not finite.
inline void validate(const breadcrumbs_options& options) {
  if (!(options.density > 0 && options.density <= 1))
    throw error("Breadcrumbs: density must be above 0 and at most 1");
  if (!(options.gamma >= 0 && options.gamma < 1))
    throw error("Breadcrumbs: gamma must be at least 0 and below 1");
  if (!std::isfinite(options.alpha)) throw error("Breadcrumbs: alpha must be a finite number");
}

/// The masks of Model Breadcrumbs alone, as a transform of task vectors (method.hpp):
/// `chain{breadcrumbs_trim{}, ties_elect{}}`. Of each T_k's sorted magnitudes, the floor(n density)
/// before the floor(n gamma) largest stay, and all that equal the first or the last of these.
/// Applies to every parameter by itself; needs nothing but vectors. alpha is not used.
///
/// The paper masks each layer. The authors' code masks each row of a matrix (counts are floor(d_in
/// share)), takes the two shares as kept and removed, and keeps scalars. mergekit's `breadcrumbs`
/// has the counts above; of equal entries it keeps as many as the count says, and it drops a whole
/// vector if floor(n gamma) is 0.
struct breadcrumbs_trim {
  breadcrumbs_options options{};  ///< checked by validate in each apply

  static constexpr bool needs_whole_tables() { return true; }  ///< counts are of the whole tensor

  /// Sets the dropped entries to zero.
  template <class Context>
  void apply(Context& c, const layer_problem<Context>&, vector_list<Context> vectors,
             layer_report&) const {
    validate(options);
    for (const auto& t : vectors) {
      const auto [least, most] = kept_magnitudes(c, t);
      // In double "at least x" is "above the double before x".
      const double below = std::nextafter(least, -std::numeric_limits<double>::infinity());
      detail::for_strips(c, t, [&, most = most](const detail::strip<Context>& cut) {
        auto size = cut.make(scalar_type::f64), kept = cut.make(scalar_type::f64),
             too_large = cut.make(scalar_type::f64);
        c.map(entry_function::absolute, 0, cut(t), size);
        c.map(entry_function::above, below, size, kept);
        c.map(entry_function::above, most, size, too_large);
        c.axpy(-1, too_large, kept);
        c.zip(pair_function::product, kept, cut(t), cut(t));
      });
    }
  }

 private:
  struct range {
    double least, most;
  };

  /// The smallest and the largest magnitude that stay; none stays if the first is infinite.
  template <class Context>
  range kept_magnitudes(Context& c, const typename Context::const_view& t) const {
    const auto n = static_cast<std::uint64_t>(c.rows(t) * c.columns(t));
    const std::uint64_t kept = share_of(n, options.density);
    constexpr double infinity = std::numeric_limits<double>::infinity();
    if (kept == n) return {0, infinity};
    if (kept == 0) return {infinity, infinity};
    const std::uint64_t largest = (std::min)(share_of(n, options.gamma), n - kept);
    const std::uint64_t smallest = n - kept - largest;
    order_search magnitudes([=](std::uint64_t) {
      return std::vector<std::uint64_t>{smallest, smallest + kept - 1};
    });
    while (magnitudes.wanted()) {
      detail::for_strips(c, t, [&](const detail::strip<Context>& cut) {
        auto size = cut.make(c.type(t));
        c.map(entry_function::absolute, 0, cut(t), size);
        magnitudes.see(c, size);
      });
      magnitudes.end_pass();
    }
    return {magnitudes.value(0), magnitudes.value(1)};
  }

  static std::uint64_t share_of(std::uint64_t n, double share) {
    return static_cast<std::uint64_t>(static_cast<double>(n) * share);
  }
};

/// Model Breadcrumbs as a method (method.hpp): breadcrumbs_trim, then the sum. For every parameter.
struct breadcrumbs_method {
  breadcrumbs_options options{};  ///< checked by validate in each merge

  static constexpr bool needs_whole_tables() { return true; }  ///< as the trim

  /// alpha.
  double factor() const { return options.alpha; }

  /// tau = the sum of the trimmed T_k, added in the order of the tasks.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    breadcrumbs_trim{options}.apply(c, p, vectors, report);
    sum_vectors(c, vectors, tau);
  }
};

/// Model Breadcrumbs of one parameter, as breadcrumbs_method.
/// @code
/// auto [merged, report] = breadcrumbs(base, experts);  // and (base, experts, options[, context])
/// @endcode
/// base: a tensor of any shape; experts: a range of K of its shape, in its domain, or of references
/// to such. Returns a merge_result, `merged` of base's family and compute type. Throws
/// catmerge::error if there are no experts, shapes differ or a value is not finite, and for options
/// as validate says.
inline constexpr detail::vectors_fn<breadcrumbs_method, layer_kind::other> breadcrumbs{};

}  // namespace catmerge
