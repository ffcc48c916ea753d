// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/problem.hpp>
#include <catmerge/merge/report.hpp>
#include <concepts>

/// @file
/// Concepts of merging methods: one parameter of all tasks in, the merged parameter out.
namespace catmerge {

/// A merging method that reads the experts by their task vectors alone. The library forms the
/// vectors and adds the result to the base; transforms (compose.hpp) may change the vectors before.
/// A method holds its options and is called from one thread.
///
/// Requirements, all const:
/// - `combine(context, problem, vectors, tau, report)` writes the merged vector to `tau`, which
///   holds zeros, and fills `report`. It may change the vectors;
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
/// A useful method: examples/own_method.cpp. Optional members of methods and transforms:
/// - `needs_statistics(kind)`, const: true if statistics of parameters of this kind are used;
/// - `wants_statistics(problem)`, const: false if missing statistics of this parameter change
///   nothing; by default needs_statistics(kind);
/// - `needs_importance()`, const: true if importances are used;
/// - `sees_matrices()`, const: true if tables are merged as matrices. A table of tokens (a row per
///   token, at the input or the output; model::parameter_kind::token_table) is no linear map: give
///   it the mean, whatever alpha, by `where{is_token_table, weight_average_method{}, method}`;
/// - `needs_whole_tables()`, const: true if tables must come whole, not in pieces of rows; by
///   default sees_matrices();
/// - a scan, if the method reads the whole model before it merges any parameter (TIES' thresholds):
///   `scan_wanted()`, const, is true if another pass over all parameters is needed, `scan(context,
///   problem, vectors)` reads one parameter, `end_scan()` ends the pass. merge_stream and
///   merge_parameter scan a copy of the method, then merge by it.
///
/// Models: all of methods/, with every context.
template <class M, class Context>
concept vector_method = requires(const M& m, Context& c, const layer_problem<Context>& p,
                                 vector_list<Context> vectors, typename Context::view tau,
                                 layer_report& report) {
  m.combine(c, p, vectors, tau, report);
  { m.factor() } -> std::same_as<double>;
};

/// A merging method: a vector_method, or a type with, const,
/// - `merge(context, problem, out)`: writes the merged parameter to `out`, shaped like base, and
///   returns a layer_report.
///
/// A vector_method may also have `merge`, a shorter way to the same result. Optional members: those
/// of a vector_method.
template <class M, class Context>
concept merging_method = vector_method<M, Context> ||
    requires(const M& m, Context& c, const layer_problem<Context>& p, typename Context::view out) {
  { m.merge(c, p, out) } -> std::same_as<layer_report>;
};

/// A change of task vectors before they are merged: a trim, a filter.
///
/// Requirement: `apply(context, problem, vectors, report)`, const, changes the vectors in place.
/// Optional members: those of a vector_method.
///
/// Models: cat_trim, dare_transform, tatr_filter, ties_trim, task_weights.
template <class T, class Context>
concept vector_transform = requires(const T& t, Context& c, const layer_problem<Context>& p,
                                    vector_list<Context> vectors, layer_report& report) {
  t.apply(c, p, vectors, report);
};

/// A method around another one: `wrapped()`, const and not, returns it. The inner method supplies
/// optional members that the wrapper lacks. Models: adjusted, with_drift, consensus_method.
template <class M>
concept method_wrapper = requires(const M& m) {
  m.wrapped();
};

/// True if methods of this type may have a scan.
template <class M>
constexpr bool has_scan() {
  if constexpr (requires(M & m) { m.scan_wanted(); }) return true;
  if constexpr (method_wrapper<M>)
    return has_scan<std::remove_cvref_t<decltype(std::declval<M&>().wrapped())>>();
  return false;
}

/// True if m, a method or a transform, uses statistics of parameters of this kind.
template <class M>
constexpr bool needs_statistics(const M& m, layer_kind kind) {
  if constexpr (requires { m.needs_statistics(kind); }) return m.needs_statistics(kind);
  if constexpr (method_wrapper<M>) return needs_statistics(m.wrapped(), kind);
  return false;
}

/// True if m merges this parameter better with statistics than without.
template <class M, class Context>
bool wants_statistics(const M& m, const layer_problem<Context>& p) {
  if constexpr (requires { m.wants_statistics(p); }) return m.wants_statistics(p);
  if constexpr (method_wrapper<M>) return wants_statistics(m.wrapped(), p);
  return needs_statistics(m, p.kind);
}

/// True if m uses importances.
template <class M>
constexpr bool needs_importance(const M& m) {
  if constexpr (requires { m.needs_importance(); }) return m.needs_importance();
  if constexpr (method_wrapper<M>) return needs_importance(m.wrapped());
  return false;
}

/// True if m needs a pass (another pass) over all parameters before it merges.
template <class M>
bool scan_wanted(const M& m) {
  if constexpr (requires { m.scan_wanted(); }) return m.scan_wanted();
  if constexpr (method_wrapper<M>) return scan_wanted(m.wrapped());
  return false;
}

/// Scans one parameter for m.
template <class M, class Context>
void scan_parameter(M& m, Context& c, const layer_problem<Context>& p,
                    vector_list<Context> vectors) {
  if constexpr (requires { m.scan_wanted(); }) return m.scan(c, p, vectors);
  if constexpr (method_wrapper<M>) scan_parameter(m.wrapped(), c, p, vectors);
}

/// Ends a pass of m's scan.
template <class M>
void end_scan(M& m) {
  if constexpr (requires { m.scan_wanted(); }) return m.end_scan();
  if constexpr (method_wrapper<M>) end_scan(m.wrapped());
}

namespace detail {

/// Stops compilation, with a sentence, unless M is a merging_method for this context.
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
