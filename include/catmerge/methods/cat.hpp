// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/trim.hpp>
#include <catmerge/merge/feature_call.hpp>
#include <catmerge/methods/task_arithmetic.hpp>

/// @file
/// CAT Merging: Sun, Li, Geng, Li, "CAT Merging: A Training-Free Approach for Resolving Conflicts
/// in Model Merging", ICML 2025 (PMLR 267:57523-57543, arXiv 2505.06977).
///
/// A task vector T moves the features of a layer f by Df(X; T) = f(X; W + T) - f(X; W): X T^T for a
/// linear weight, x o T for a scale, T for a shift. Phi_k is the trim that protects task k from the
/// vectors of all others. Eq. 8 weighs their shift of the features X_k against their loss on their
/// own features X_i:
///
///     minimise over Phi_k
///
///         sum_{i != k}  ||Df(X_k; Phi_k(T_i))||_F^2  +  lambda ||Df(X_i; T_i - Phi_k(T_i))||_F^2
///                       (inter-task conflict)            (deviation)
///
/// The algorithm, for one parameter, and the header of each step:
///
///     1. T_i = theta_i - theta_0 for every task i                       (merge/vectors.hpp)
///     2. X_i: the rows that enter the layer, or their X_i^T X_i         (features/statistics.hpp)
///     3. linear weight: Phi_k(T) = (I - B_k B_k^T) T, B_k the leading
///        eigenvectors of G_k: the gain in Eq. 8 is tr(B_k^T G_k B_k)    (cat/projection.hpp)
///     4. scale, shift: Phi_k(T) = T - m_k o T, m_k the coordinates
///        with the largest gain                                          (cat/mask.hpp)
///     5. T_i' = Phi_K ... Phi_1 T_i, without Phi_i                      (cat/trim.hpp)
///     6. theta = theta_0 + alpha sum_i T_i'                             (here)
///
/// All choices, lambda among them: cat/options.hpp.
namespace catmerge {

namespace detail {

/// tau = sum_i T_i'. Only: as in trim_vectors.
template <layer_kind Only, class Context, class Bases>
void sum_trimmed(Context& c, const layer_problem<Context>& p, const cat_options& options,
                 const Bases& bases, vector_list<Context> vectors,
                 const typename Context::view& tau, layer_report& report) {
  if (!cat_trims(p)) report.fallback = fallback_rule::sum;
  trim_vectors<Only>(c, p, options, bases, vectors, report);
  sum_vectors(c, vectors, tau);
}

/// Merges by m, a CAT. A parameter that is not trimmed becomes the sum without K vectors in memory.
template <class M, class Context>
layer_report merge_trimmed(const M& m, Context& c, const layer_problem<Context>& p,
                           const typename Context::view& out) {
  validate(m.options);
  if (cat_trims(p)) return merge_vectors(m, c, p, out);
  auto report = task_arithmetic_method{m.factor()}.merge(c, p, out);
  report.fallback = fallback_rule::sum;
  return report;
}

}  // namespace detail

/// CAT Merging as a method (merge/method.hpp): the trims, then the sum. Parameters of kind `other`,
/// and linears and scales without statistics, become theta_0 + alpha sum_i T_i; their report has no
/// trim, and fallback_rule::sum. Bases: as in cat_trim_with.
template <class Bases>
struct cat_with {
  cat_options options{};  ///< checked by validate in each merge
  Bases bases{};          ///< the rule for linear weights

  /// True for linears and scales.
  static constexpr bool needs_statistics(layer_kind kind) {
    return cat_trim::needs_statistics(kind);
  }

  /// alpha.
  double factor() const { return options.alpha; }

  /// tau = sum_i T_i'; fills the report as options ask. Throws catmerge::error if a value is not
  /// finite, for scales with parts, and for statistics that the kind cannot use.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    detail::sum_trimmed<layer_kind::other>(c, p, options, bases, vectors, tau, report);
  }

  /// As merge_vectors, but without K vectors in memory for a parameter that is not trimmed.
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    return detail::merge_trimmed(*this, c, p, out);
  }
};

/// CAT Merging, as in the paper.
using cat_method = cat_with<conflict_bases>;

namespace detail {

/// cat_method for parameters of one kind; compiles faster (see trim_vectors).
template <layer_kind Kind>
struct cat_of {
  cat_options options;

  double factor() const { return options.alpha; }

  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    sum_trimmed<Kind>(c, p, options, conflict_bases{}, vectors, tau, report);
  }

  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    return merge_trimmed(*this, c, p, out);
  }
};

struct cat_group_fn : refused_features {
  using refused_features::operator();

  template <class Bases, class Experts, class Features, class Context>
  auto operator()(const Bases& bases, const Experts& experts, const Features& features,
                  const cat_options& options, Context& c) const {
    static_assert(require_parameter_group<Bases, Experts>());
    using Base = element_t<Bases>;
    static_assert(require_feature_range<Features, Base>());
    static_assert(require_context_for<Context, Base>());
    std::vector<merge_result<result_t<Base>>> results;
    std::vector<std::vector<std::reference_wrapper<const element_t<element_t<Experts>>>>> by_weight;
    by_weight.resize(static_cast<std::size_t>(std::distance(std::begin(bases), std::end(bases))));
    index_t k = 0;
    for (const auto& expert : experts) {
      const auto& weights = unwrap(expert);
      const auto count = std::distance(std::begin(weights), std::end(weights));
      if (count != std::ssize(by_weight))
        throw error("cat_group: expert " + std::to_string(k) + " holds " + std::to_string(count) +
                    " weights and the base " + std::to_string(by_weight.size()));
      std::size_t p = 0;
      for (const auto& weight : weights) by_weight[p++].push_back(std::cref(unwrap(weight)));
      ++k;
    }
    std::size_t p = 0;
    for (const auto& base : bases)
      results.push_back(features_fn<cat_of<layer_kind::linear>, layer_kind::linear>{}(
          unwrap(base), by_weight[p++], features, options, c));
    return results;
  }

  template <class Bases, class Experts, class Features>
  auto operator()(const Bases& bases, const Experts& experts, const Features& features,
                  const cat_options& options = {}) const {
    static_assert(require_parameter_group<Bases, Experts>());
    static_assert(require_features_given<Features, cat_options>());
    auto c = context_of_first(bases);
    return (*this)(bases, experts, features, options, c);
  }
};

}  // namespace detail

/// CAT Merging of one linear weight: theta_0 + alpha sum_i T_i', T_i' = T_i projected off the
/// removal bases B_k of all other tasks, which minimise Eq. 8 (Sun et al., ICML 2025).
/// @code
/// auto [merged, report] = cat_linear(base, experts, features);  // and (..., options[, context])
/// @endcode
/// - base: d_out x d_in;
/// - experts: a range of K weights, d_out x d_in, in base's domain, or of references to such
///   (std::reference_wrapper);
/// - features: a range of K, rows X_k, n_k x d_in, as they enter the layer, or their statistics but
///   no second moments. From an empty range: Task Arithmetic, and report.trim is empty;
/// - options: the paper's by default.
///
/// Returns a merge_result, `merged` of base's family and compute type. Throws catmerge::error if
/// there are no experts, tasks or extents do not match, a value is not finite, and for options as
/// validate says. A whole program: examples/quickstart.cpp.
inline constexpr detail::features_fn<detail::cat_of<layer_kind::linear>, layer_kind::linear>
    cat_linear{};

/// CAT Merging of linear weights that share their input, such as q, k and v.
/// @code
/// auto results = cat_group(bases, experts, features);  // and (..., options[, context])
/// @endcode
/// bases: a range of P weights; experts: for each of K tasks a range of its P weights; features:
/// one entry per task, as for cat_linear. Returns a vector of P merge_results. Throws
/// catmerge::error as cat_linear does, and if an expert's number of weights differs from the
/// base's.
inline constexpr detail::cat_group_fn cat_group{};

/// CAT Merging of the scale of a normalisation: T_i' = T_i without the coordinates of any other
/// task's scale_mask.
/// @code
/// auto [merged, report] = cat_scale(base, experts, features);  // and (..., options[, context])
/// @endcode
/// base: d entries; experts: a range of K of the same; features: a range of K, rows n_k x d of the
/// *normalised* inputs, or statistics in any form. Otherwise as cat_linear. (examples/masks.cpp)
inline constexpr detail::features_fn<detail::cat_of<layer_kind::scale>, layer_kind::scale>
    cat_scale{};

/// CAT Merging of a shift, such as a bias: T_i' = T_i without the coordinates of any other task's
/// shift_mask.
/// @code
/// auto [merged, report] = cat_shift(base, experts);  // and (base, experts, options)
/// auto [again, why] = cat_shift(base, experts, options, context);
/// @endcode
/// base: d entries; experts: a range of K of the same. Features are not used. Otherwise as
/// cat_linear.
inline constexpr detail::vectors_fn<detail::cat_of<layer_kind::shift>, layer_kind::shift>
    cat_shift{};

}  // namespace catmerge
