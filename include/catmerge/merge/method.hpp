// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/problem.hpp>
#include <catmerge/merge/report.hpp>
#include <concepts>

/// @file
/// The shape that every merging method has: one parameter of all tasks in, the merged one out.
namespace catmerge {

/// A merging method that needs nothing of the experts but their task vectors: what it merges may be
/// changed before by transforms (compose.hpp), and the library forms the vectors and adds the
/// result to the base. It holds its options, and is called from one thread.
///
/// Requirements, all const:
/// - `combine(context, problem, vectors, tau, report)` writes the merged task vector to `tau`,
/// which
///   holds zeros, and what it did to `report`. It may change the vectors;
/// - `factor()`, a double: theta = theta_0 + factor() tau.
///
/// @code
/// struct sum_of_signs {
///   double factor() const { return 1e-3; }
///   template <class Context>
///   void combine(Context& c, const catmerge::layer_problem<Context>&,
///                catmerge::vector_list<Context> vectors, typename Context::view tau,
///                catmerge::layer_report&) const {
///     for (const auto& t : vectors) c.map(catmerge::entry_function::sign, 0, t, t);
///     catmerge::sum_vectors(c, vectors, tau);
///   }
/// };
/// @endcode
/// (examples/own_method.cpp has a useful one.) Optional members, which methods and transforms that
/// need them have:
/// - `needs_statistics(kind)`, const: true if parameters of a kind can use statistics;
/// - `wants_statistics(problem)`, const, where it differs from needs_statistics of the kind: false
///   if statistics that are missing are not missed;
/// - `needs_importance()`, const: true if importances are used;
/// - `sees_matrices`, static, true: tables and embeddings must come whole, not in pieces of rows;
/// - a scan, if the whole model must be seen before any of it is merged (TIES' thresholds):
///   `scan_wanted()`, const, tells whether all parameters have to pass by (once more),
///   `scan(context, problem, vectors)` sees one, `end_scan()` ends the pass. merge_stream and
///   merge_parameter scan a copy of the method, before they merge.
///
/// Models: all of methods/, with every context.
template <class M, class Context>
concept vector_method = requires(const M& m, Context& c, const layer_problem<Context>& p,
                                 vector_list<Context> vectors, typename Context::view tau,
                                 layer_report& report) {
  m.combine(c, p, vectors, tau, report);
  { m.factor() } -> std::same_as<double>;
};

/// A merging method: a vector_method, or one that has, const,
/// - `merge(context, problem, out)`: writes the merged parameter to `out`, shaped like base, and
///   returns a layer_report.
///
/// A vector_method may have `merge` too, as a shorter way to the same result. The optional members
/// are those of a vector_method.
template <class M, class Context>
concept merging_method = vector_method<M, Context> ||
    requires(const M& m, Context& c, const layer_problem<Context>& p, typename Context::view out) {
  { m.merge(c, p, out) } -> std::same_as<layer_report>;
};

/// What changes task vectors before they are merged: a trim, a filter.
///
/// Requirement: `apply(context, problem, vectors, report)`, const, changes the vectors in place.
/// The optional members are those of a vector_method.
///
/// Models: cat_trim, dare_transform, tatr_filter, ties_trim, task_weights.
template <class T, class Context>
concept vector_transform = requires(const T& t, Context& c, const layer_problem<Context>& p,
                                    vector_list<Context> vectors, layer_report& report) {
  t.apply(c, p, vectors, report);
};

// The optional members of any method or transform, with what stands for them where they are
// missing.

/// Whether m, a method or a transform, can use statistics of parameters of this kind.
template <class M>
constexpr bool needs_statistics(const M& m, layer_kind kind) {
  if constexpr (requires { m.needs_statistics(kind); })
    return m.needs_statistics(kind);
  else
    return false;
}

/// Whether m has a better rule for a parameter with statistics than without.
template <class M, class Context>
bool wants_statistics(const M& m, const layer_problem<Context>& p) {
  if constexpr (requires { m.wants_statistics(p); })
    return m.wants_statistics(p);
  else
    return needs_statistics(m, p.kind);
}

/// Whether m uses importances.
template <class M>
constexpr bool needs_importance(const M& m) {
  if constexpr (requires { m.needs_importance(); })
    return m.needs_importance();
  else
    return false;
}

/// Whether m wants all parameters to pass by (once more) before it merges.
template <class M>
bool scan_wanted(const M& m) {
  if constexpr (requires { m.scan_wanted(); })
    return m.scan_wanted();
  else
    return false;
}

/// Shows m one parameter in a scan.
template <class M, class Context>
void scan_parameter(M& m, Context& c, const layer_problem<Context>& p,
                    vector_list<Context> vectors) {
  if constexpr (requires { m.scan_wanted(); }) m.scan(c, p, vectors);
}

/// Ends a pass of m's scan.
template <class M>
void end_scan(M& m) {
  if constexpr (requires { m.scan_wanted(); }) m.end_scan();
}

namespace detail {

/// The sentence for an M that is no merging method for this context.
template <class M, class Context>
constexpr bool require_method() {
  static_assert(merging_method<M, Context>,
                "catmerge: a merging method needs combine(context, problem, vectors, tau, report) "
                "const and factor() const, which returns a double, or merge(context, problem, out) "
                "const, which returns a catmerge::layer_report");
  return true;
}

}  // namespace detail

}  // namespace catmerge
