// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/compose.hpp>
#include <catmerge/merge/copied_vectors.hpp>
#include <vector>

namespace catmerge {

/// A change of what a method has merged: a calibration, a factor by depth.
///
/// Requirement: `apply(context, problem, vectors, tau, report)`, const, changes tau = theta -
/// theta_0 in place; `vectors` are the task vectors that the method was given, not to be changed.
/// Optional members: those of a vector_method (a scan reads the merged vector, as a list of one),
/// and
/// - `reads_vectors()`, const: false if `vectors` may be empty.
///
/// Models: lines_transform, svc_transform.
template <class T, class Context>
concept merged_transform = requires(const T& t, Context& c, const layer_problem<Context>& p,
                                    vector_list<Context> vectors, typename Context::view tau,
                                    layer_report& report) {
  t.apply(c, p, vectors, tau, report);
};

/// True if t needs the task vectors.
template <class T>
constexpr bool reads_vectors(const T& t) {
  if constexpr (requires { t.reads_vectors(); }) return t.reads_vectors();
  return true;
}

/// A vector_method, followed by a merged_transform of its result, with the method's factor in it.
/// It is a vector_method itself: in a chain, vector_transforms come before both.
///
/// @code
/// auto calibrated = then{task_arithmetic_method{1}, svc_transform{}};
/// auto result = merge_parameter(calibrated, base, experts);
/// @endcode
/// The method's scans come first. The transform's scans read the merged vectors, so each of them
/// costs a merge.
template <class Method, class After>
struct then {
  Method method;  ///< a vector_method
  After after;    ///< a merged_transform

  /// True if either part needs statistics.
  bool needs_statistics(layer_kind kind) const {
    return catmerge::needs_statistics(method, kind) || catmerge::needs_statistics(after, kind);
  }
  /// True if either part wants statistics.
  template <class Context>
  bool wants_statistics(const layer_problem<Context>& p) const {
    return catmerge::wants_statistics(method, p) || catmerge::wants_statistics(after, p);
  }
  /// True if either part needs importances.
  bool needs_importance() const {
    return catmerge::needs_importance(method) || catmerge::needs_importance(after);
  }
  /// True if either part sees matrices.
  bool sees_matrices() const {
    return catmerge::sees_matrices(method) || catmerge::sees_matrices(after);
  }
  /// True if either part needs tables whole.
  bool needs_whole_tables() const {
    return catmerge::needs_whole_tables(method) || catmerge::needs_whole_tables(after);
  }

  bool scan_wanted() const {  ///< true if either part wants a scan
    return catmerge::scan_wanted(method) || catmerge::scan_wanted(after);
  }
  /// Scans for the method until its scans are done, then for the transform.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
    if (catmerge::scan_wanted(method)) return catmerge::scan_parameter(method, c, p, vectors);
    layer_report unused;
    unused.kind = p.kind;
    auto tau = c.make(compute_type(c.type(p.base)), c.rows(p.base), c.columns(p.base));
    detail::combine_scaled(method, c, p, vectors, typename Context::view(tau), unused);
    const typename Context::view merged[] = {tau};
    catmerge::scan_parameter(after, c, p, vector_list<Context>(merged));
  }
  void end_scan() {  ///< ends the pass of the scanned part
    catmerge::scan_wanted(method) ? catmerge::end_scan(method) : catmerge::end_scan(after);
  }

  /// 1: combine has applied the method's factor.
  static constexpr double factor() { return 1; }

  /// Combines by the method, then changes tau.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    std::vector<typename Context::matrix> kept;
    if (reads_vectors(after)) kept = detail::copied_vectors(c, vectors);
    detail::combine_scaled(method, c, p, vectors, tau, report);
    after.apply(c, p, vector_list<Context>(views_of<Context>(kept)), tau, report);
  }
};
/// then{...} without naming types.
template <class Method, class After>
then(Method, After) -> then<Method, After>;

}  // namespace catmerge
