// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/detail/trimmed_vectors.hpp>
#include <catmerge/methods/task_arithmetic.hpp>

/// @file
/// CAT Merging: Sun, Li, Geng, Li, "CAT Merging: A Training-Free Approach for Resolving Conflicts
/// in Model Merging", ICML 2025 (PMLR 267:57523-57543, arXiv 2505.06977).
///
///     theta = theta_0 + alpha sum_i T_i',   T_i' = T_i trimmed to protect every other task k != i
namespace catmerge {

namespace detail {

/// CAT's trim of a kind that is known when the program is compiled (scales and shifts are one): a
/// call for one parameter compiles no more than it uses.
template <layer_kind Kind>
struct cat_trim_kind {
  const cat_options& options;

  template <class Context>
  void apply(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
             layer_report& report) const {
    trimmed_vectors<Context> trimmed(c, p, options, vectors, report);
    if constexpr (Kind == layer_kind::linear)
      trimmed.template run<linear_trim<Context>>();
    else
      trimmed.template run<mask_trim<Context>>();
  }
};

/// Whether CAT can use statistics of a parameter of this kind.
constexpr bool cat_needs_statistics(layer_kind kind) {
  return kind == layer_kind::linear || kind == layer_kind::scale;
}

/// Whether CAT has nothing to trim a parameter by. Throws for a scale with parts.
template <class Context>
bool cat_falls_back(const layer_problem<Context>& p) {
  if (p.kind == layer_kind::scale && p.parts != 1)
    throw error(p.names.who() + ": scales are never fused");
  return p.kind == layer_kind::other || (cat_needs_statistics(p.kind) && p.statistics.empty());
}

/// Whether CAT trims a parameter: throws for what makes no sense or is not finite.
template <class Context>
bool cat_trims(Context& c, const layer_problem<Context>& p) {
  if (cat_falls_back(p)) return false;
  if (cat_needs_statistics(p.kind)) check_finite_statistics(c, p);
  return true;
}

/// Merges by Method what it trims, and the rest by Task Arithmetic, without K vectors in memory.
template <class Method, class Context>
layer_report cat_merge(const Method& m, Context& c, const layer_problem<Context>& p,
                       const typename Context::view& out) {
  if (!cat_falls_back(p)) return merge_vectors(m, c, p, out);
  auto report = task_arithmetic_method{m.factor()}.merge(c, p, out);
  report.fallback = fallback_rule::sum;
  return report;
}

}  // namespace detail

/// CAT's trims alone, as a transform of task vectors (method.hpp), to be followed by any method:
/// `chain{cat_trim{}, tsv_m_method{}}`. Leaves parameters of kind `other`, and linears and scales
/// without statistics, as they are; options.alpha plays no part.
struct cat_trim {
  cat_options options{};  ///< what validate refuses, apply refuses

  /// For linears and scales.
  static constexpr bool needs_statistics(layer_kind kind) {
    return detail::cat_needs_statistics(kind);
  }

  /// Trims every T_i, in place, by what protects all the other tasks; the report has everything
  /// that options ask for, of this trim in place of any before it. (After another transform the
  /// deviation is what both have taken.) Throws catmerge::error as cat_method does.
  template <class Context>
  void apply(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
             layer_report& report) const {
    validate(options);
    if (!detail::cat_trims(c, p)) return;
    if (p.kind == layer_kind::linear)
      detail::cat_trim_kind<layer_kind::linear>{options}.apply(c, p, vectors, report);
    else
      detail::cat_trim_kind<layer_kind::shift>{options}.apply(c, p, vectors, report);
  }
};

namespace detail {

/// CAT for one kind.
template <layer_kind Kind>
struct cat_kind {
  cat_options options;

  static constexpr bool needs_statistics(layer_kind kind) { return cat_needs_statistics(kind); }
  double factor() const { return options.alpha; }

  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    if (cat_trims(c, p)) cat_trim_kind<Kind>{options}.apply(c, p, vectors, report);
    sum_vectors(c, vectors, tau);
  }

  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    return cat_merge(*this, c, p, out);
  }
};

}  // namespace detail

/// CAT Merging as a method (method.hpp): trims what has statistics, then sums. Parameters of kind
/// `other`, and linears and scales without statistics, become theta_0 + alpha sum_i T_i, and their
/// report says trimmed = false and fallback_rule::sum.
struct cat_method {
  cat_options options{};  ///< what validate refuses, merge refuses

  /// For linears and scales.
  static constexpr bool needs_statistics(layer_kind kind) {
    return detail::cat_needs_statistics(kind);
  }

  /// alpha.
  double factor() const { return options.alpha; }

  /// tau = sum_i T_i', and the report has everything that options ask for. Throws catmerge::error
  /// where a value is not finite, for scales with parts, and for statistics that the kind cannot
  /// use.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    if (detail::cat_falls_back(p)) report.fallback = fallback_rule::sum;
    cat_trim{options}.apply(c, p, vectors, report);
    detail::sum_vectors(c, vectors, tau);
  }

  /// out = base + alpha sum_i T_i', shaped like base.
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    validate(options);
    return detail::cat_merge(*this, c, p, out);
  }
};

namespace detail {

/// cat_linear, cat_scale and cat_shift differ in the kind alone.
template <layer_kind Kind>
struct cat_fn : std::conditional_t<Kind == layer_kind::shift, braced_experts, refused_features> {
  using std::conditional_t<Kind == layer_kind::shift, braced_experts, refused_features>::operator();

  template <class Base, class Experts, class Features, class Context>
  auto operator()(const Base& base, const Experts& experts, const Features& features,
                  const cat_options& options, Context& c) const {
    static_assert(require_parameters<Base, Experts>());
    if constexpr (Kind == layer_kind::linear)
      static_assert(require_matrix<Base>());
    else
      static_assert(require_vector<Base>());
    static_assert(require_feature_range<Features, Base>());
    static_assert(require_context_for<Context, Base>());
    validate(options);
    layer_problem<Context> problem;
    problem.kind = Kind;
    problem.statistics = as_statistics_list(features);
    return merge_one(c, cat_kind<Kind>{options}, std::move(problem), base, experts);
  }

  template <class Base, class Experts, class Features>
  requires(Kind != layer_kind::shift) auto operator()(const Base& base, const Experts& experts,
                                                      const Features& features,
                                                      const cat_options& options = {}) const {
    static_assert(require_parameters<Base, Experts>());
    static_assert(require_features_given<Features, cat_options>());
    auto c = context_of(base);
    return (*this)(base, experts, features, options, c);
  }

  template <class Base, class Experts>
  requires(Kind == layer_kind::shift) auto operator()(const Base& base, const Experts& experts,
                                                      const cat_options& options = {}) const {
    static_assert(require_parameters<Base, Experts>());
    auto c = context_of(base);
    return (*this)(base, experts, options, c);
  }

  template <class Base, class Experts, class Context>
  requires(Kind == layer_kind::shift) auto operator()(const Base& base, const Experts& experts,
                                                      const cat_options& options,
                                                      Context& c) const {
    static_assert(require_parameters<Base, Experts>());
    return (*this)(base, experts, std::vector<statistics_view<domain_t<Base>>>{}, options, c);
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
      results.push_back(
          cat_fn<layer_kind::linear>{}(unwrap(base), by_weight[p++], features, options, c));
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
///   no second moments. From an empty range: Task Arithmetic, and the report says trimmed = false;
/// - options: the paper's by default.
///
/// Returns a merge_result, `merged` of base's family and compute type. Throws catmerge::error where
/// there are no experts, tasks or extents do not match, a value is not finite, and for options as
/// validate says. A whole program: examples/quickstart.cpp.
inline constexpr detail::cat_fn<layer_kind::linear> cat_linear{};

/// The same for linear weights that share their input, such as q, k and v.
/// @code
/// auto results = cat_group(bases, experts, features);  // and (..., options[, context])
/// @endcode
/// bases: a range of P weights; experts: for each of K tasks a range of its P weights; features:
/// one entry per task, as for cat_linear. Returns a vector of P merge_results. Throws
/// catmerge::error as cat_linear does, and where an expert's number of weights differs from the
/// base's.
inline constexpr detail::cat_group_fn cat_group{};

/// CAT Merging of the scale of a normalisation: T_i' = T_i without the coordinates that scale_mask
/// takes for any other task.
/// @code
/// auto [merged, report] = cat_scale(base, experts, features);  // and (..., options[, context])
/// @endcode
/// base: d entries; experts: a range of K of the same; features: a range of K, rows n_k x d of the
/// *normalised* inputs, or statistics in any form. Otherwise as cat_linear. (examples/masks.cpp)
inline constexpr detail::cat_fn<layer_kind::scale> cat_scale{};

/// CAT Merging of a shift, such as a bias: T_i' = T_i without the coordinates that shift_mask takes
/// for any other task.
/// @code
/// auto [merged, report] = cat_shift(base, experts);  // and (base, experts, options)
/// auto [again, why] = cat_shift(base, experts, options, context);
/// @endcode
/// base: d entries; experts: a range of K of the same. Features play no part. Otherwise as
/// cat_linear.
inline constexpr detail::cat_fn<layer_kind::shift> cat_shift{};

}  // namespace catmerge
