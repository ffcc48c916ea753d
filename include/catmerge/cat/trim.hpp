// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/detail/linear_trim.hpp>
#include <catmerge/cat/detail/mask_trim.hpp>
#include <catmerge/cat/detail/trimmed_vectors.hpp>
#include <catmerge/merge/checks.hpp>

namespace catmerge {

namespace detail {

/// True if CAT uses statistics of parameters of this kind.
constexpr bool cat_needs_statistics(layer_kind kind) {
  return kind == layer_kind::linear || kind == layer_kind::scale;
}

/// True if CAT trims the parameter. Throws for a scale with parts.
template <class Context>
bool cat_trims(const layer_problem<Context>& p) {
  if (p.kind == layer_kind::scale && p.parts != 1)
    throw error(p.names.who() + ": scales are never fused");
  return p.kind != layer_kind::other && (!cat_needs_statistics(p.kind) || !p.statistics.empty());
}

/// Trims every T_i by the protections of all other tasks, if CAT trims the parameter. Only: the
/// parameter's kind, if known at compile time; layer_kind::other for any kind. A known kind saves
/// the compilation of unused code (the masks are 8 % of the time to compile a call for a linear
/// weight).
template <layer_kind Only, class Context, class Bases>
void trim_vectors(Context& c, const layer_problem<Context>& p, const cat_options& options,
                  const Bases& bases, vector_list<Context> vectors, layer_report& report) {
  validate(options);
  if (!cat_trims(p)) return;
  if (cat_needs_statistics(p.kind)) check_finite_statistics(c, p);
  trimmed_vectors<Context> trimmed(c, p, options, vectors, report);
  if constexpr (Only == layer_kind::linear || Only == layer_kind::other)
    if (p.kind == layer_kind::linear) {
      linear_trim<Context, Bases> trim(c, p, options, bases, *report.trim);
      trimmed.run(trim);
    }
  if constexpr (Only != layer_kind::linear)
    if (p.kind != layer_kind::linear) {
      mask_trim<Context> trim(c, p, options, *report.trim);
      trimmed.run(trim);
    }
}

}  // namespace detail

/// CAT's trims alone, as a transform of task vectors (merge/method.hpp), to be followed by any
/// method: `chain{cat_trim{}, tsv_m_method{}}`. T_i of a linear weight is projected off the removal
/// bases of all other tasks, T_i of a scale or shift loses the coordinates of their masks. A
/// parameter of kind `other`, and a linear or scale without statistics, stays as it is;
/// options.alpha plays no part.
///
/// Bases: the rule that finds removal bases of linear weights. Its operator() takes (context,
/// removal_problem) and returns removal_bases. The library's rule is conflict_bases, by Eq. 8; your
/// own may replace it:
/// @code
/// struct my_bases {
///   template <class Context>
///   catmerge::removal_bases<Context> operator()(
///       Context& c, const catmerge::removal_problem<Context>& p) const;  // a B_k for every task
/// };
/// auto method = catmerge::chain{catmerge::cat_trim_with<my_bases>{}, task_arithmetic_method{0.4}};
/// @endcode
template <class Bases>
struct cat_trim_with {
  cat_options options{};  ///< checked by validate in each apply
  Bases bases{};          ///< the rule for linear weights

  /// True for linears and scales.
  static constexpr bool needs_statistics(layer_kind kind) {
    return detail::cat_needs_statistics(kind);
  }

  /// Trims every T_i in place by the protections of all other tasks. report.trim describes this
  /// trim, as far as options ask, and replaces the report of any earlier trim. (After another
  /// transform the deviation is that of both.) Throws catmerge::error if a value is not finite, for
  /// scales with parts, and for statistics that the kind cannot use.
  template <class Context>
  void apply(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
             layer_report& report) const {
    detail::trim_vectors<layer_kind::other>(c, p, options, bases, vectors, report);
  }
};

/// The trim of the paper.
using cat_trim = cat_trim_with<conflict_bases>;

}  // namespace catmerge
