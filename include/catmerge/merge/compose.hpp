// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/run.hpp>
#include <catmerge/merge/tables.hpp>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

/// @file
/// Methods made of methods: a transform before a method, another method for some parameters, other
/// settings for some; the mean of several (mean_of.hpp), a measurement around one (drift.hpp).
/// merge_stream and all other calls take them like any method, and run the scans of their parts.
///
/// @code
/// auto trimmed_ties = chain{cat_trim{}, ties_method{}};
/// auto by_kind = where{[](const auto& p) { return p.kind == layer_kind::linear; },
///                      tsv_m_method{}, weight_average_method{}};
/// auto by_layer = adjusted{task_arithmetic_method{}, [](const auto& p, auto& m) {
///                            if (p.names.parameter.starts_with("layers.0.")) m.alpha = 0.1; }};
/// @endcode
namespace catmerge {

namespace detail {

/// tau = factor tau of m.
template <class Method, class Context>
void combine_scaled(const Method& m, Context& c, const layer_problem<Context>& p,
                    vector_list<Context> vectors, const typename Context::view& tau,
                    layer_report& report) {
  m.combine(c, p, vectors, tau, report);
  if (m.factor() != 1) c.scale(m.factor(), tau);
}

}  // namespace detail

/// Scales each task vector by its task's weight, T_k <- weights[k] T_k, before any vector_method:
/// `chain{task_weights{{1, 0.5}}, ties_method{}}`.
struct task_weights {
  std::vector<double> weights;  ///< one per task

  /// Throws catmerge::error if there are not as many weights as tasks, or one is not finite.
  template <class Context>
  void apply(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
             layer_report&) const {
    if (weights.size() != vectors.size())
      throw error(p.names.who() + ": " + std::to_string(weights.size()) + " task weights for " +
                  std::to_string(vectors.size()) + " experts");
    for (std::size_t k = 0; k < weights.size(); ++k) {
      if (!std::isfinite(weights[k]))
        throw error(p.names.expert(static_cast<index_t>(k)) + ": its task weight is not finite");
      if (weights[k] != 1) c.scale(weights[k], vectors[k]);
    }
  }
};

/// A vector_transform, followed by a vector_method on the transformed vectors. If the second is a
/// transform, too, the chain is a transform. The first's scans come first; the second's scans read
/// the transformed vectors.
template <class First, class Second>
struct chain {
  First first;    ///< a vector_transform
  Second second;  ///< a vector_method, or a vector_transform

  /// True if either part needs statistics.
  bool needs_statistics(layer_kind kind) const {
    return catmerge::needs_statistics(first, kind) || catmerge::needs_statistics(second, kind);
  }
  /// True if either part needs importances.
  bool needs_importance() const {
    return catmerge::needs_importance(first) || catmerge::needs_importance(second);
  }
  /// True if either part sees matrices.
  bool sees_matrices() const {
    return catmerge::sees_matrices(first) || catmerge::sees_matrices(second);
  }
  /// True if either part needs tables whole.
  bool needs_whole_tables() const {
    return catmerge::needs_whole_tables(first) || catmerge::needs_whole_tables(second);
  }

  bool scan_wanted() const {  ///< true if either part wants a scan
    return catmerge::scan_wanted(first) || catmerge::scan_wanted(second);
  }
  /// Scans for the first until its scans are done, then for the second.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
    if (catmerge::scan_wanted(first)) return catmerge::scan_parameter(first, c, p, vectors);
    layer_report unused;
    first.apply(c, p, vectors, unused);
    catmerge::scan_parameter(second, c, p, vectors);
  }
  void end_scan() {  ///< ends the pass of the scanned part
    catmerge::scan_wanted(first) ? catmerge::end_scan(first) : catmerge::end_scan(second);
  }

  /// The second's factor.
  double factor() const requires requires { second.factor(); }
  { return second.factor(); }

  /// Applies the first, then combines by the second.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    first.apply(c, p, vectors, report);
    second.combine(c, p, vectors, tau, report);
  }

  /// Applies both, if the second is a transform.
  template <class Context>
  void apply(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
             layer_report& report) const {
    first.apply(c, p, vectors, report);
    second.apply(c, p, vectors, report);
  }
};
/// chain{...} without naming types.
template <class First, class Second>
chain(First, Second) -> chain<First, Second>;

/// One method for the parameters for which `choose(problem)` is true, another for the rest. Each
/// method scans its own parameters alone: TIES' quantile is taken over these.
template <class Choose, class Method, class Rest>
struct where {
  Choose choose;  ///< bool(const layer_problem<Context>&): may use kind, parts, names, extents
  Method method;  ///< a merging_method
  Rest rest;      ///< a merging_method

  /// True if either part needs statistics.
  bool needs_statistics(layer_kind kind) const {
    return catmerge::needs_statistics(method, kind) || catmerge::needs_statistics(rest, kind);
  }
  /// True if the chosen method wants statistics.
  template <class Context>
  bool wants_statistics(const layer_problem<Context>& p) const {
    return choose(p) ? catmerge::wants_statistics(method, p) : catmerge::wants_statistics(rest, p);
  }
  /// True if either part needs importances.
  bool needs_importance() const {
    return catmerge::needs_importance(method) || catmerge::needs_importance(rest);
  }
  /// True if either part sees matrices.
  bool sees_matrices() const {
    return catmerge::sees_matrices(method) || catmerge::sees_matrices(rest);
  }
  /// True if either part needs tables whole.
  bool needs_whole_tables() const {
    return catmerge::needs_whole_tables(method) || catmerge::needs_whole_tables(rest);
  }

  bool scan_wanted() const {  ///< true if a method with parameters wants a scan
    return (catmerge::scan_wanted(method) && !unused_[0]) ||
           (catmerge::scan_wanted(rest) && !unused_[1]);
  }
  /// Scans the parameter for the chosen method.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
    const bool mine = choose(p);
    seen_[mine ? 0 : 1] = true;
    if (mine && catmerge::scan_wanted(method)) catmerge::scan_parameter(method, c, p, vectors);
    if (!mine && catmerge::scan_wanted(rest)) catmerge::scan_parameter(rest, c, p, vectors);
  }
  void end_scan() {  ///< ends the pass of each method that wants a scan
    for (const int i : {0, 1}) unused_[i] = !seen_[i];
    if (seen_[0] && catmerge::scan_wanted(method)) catmerge::end_scan(method);
    if (seen_[1] && catmerge::scan_wanted(rest)) catmerge::end_scan(rest);
  }

  /// Merges by the chosen method.
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    return choose(p) ? merge_problem(method, c, p, out) : merge_problem(rest, c, p, out);
  }

  /// 1: combine has applied the chosen method's factor.
  static constexpr double factor() { return 1; }

  /// Combines by the chosen method, a vector_method.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    choose(p) ? detail::combine_scaled(method, c, p, vectors, tau, report)
              : detail::combine_scaled(rest, c, p, vectors, tau, report);
  }

  /// @cond state of scans, of method and rest (public, since this is an aggregate)
  bool seen_[2] = {}, unused_[2] = {};
  /// @endcond
};
/// where{...} without naming types.
template <class Choose, class Method, class Rest>
where(Choose, Method, Rest) -> where<Choose, Method, Rest>;

/// A method with settings for each parameter: `adjust(problem, method)` changes a copy of the
/// method, which then merges the parameter. Scans cover the whole model and use the unadjusted
/// settings: adjust nothing that they depend on.
template <class Method, class Adjust>
struct adjusted {
  Method method;  ///< a merging_method
  Adjust adjust;  ///< void(const layer_problem<Context>&, Method&)

  Method& wrapped() { return method; }              ///< supplies the optional members
  const Method& wrapped() const { return method; }  ///< likewise

  /// Merges by the adjusted method.
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    Method mine = method;
    adjust(p, mine);
    return merge_problem(mine, c, p, out);
  }

  /// 1: combine has applied the factor, which may be adjusted.
  static constexpr double factor() { return 1; }

  /// Combines by the adjusted method, a vector_method.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    Method mine = method;
    adjust(p, mine);
    detail::combine_scaled(mine, c, p, vectors, tau, report);
  }
};
/// adjusted{...} without naming types.
template <class Method, class Adjust>
adjusted(Method, Adjust) -> adjusted<Method, Adjust>;

}  // namespace catmerge
