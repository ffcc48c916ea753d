// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/run.hpp>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

/// @file
/// Methods made of methods: a transform before a method, another method for some parameters, other
/// settings for some, a measurement around one. All work in merge_stream and everywhere else that
/// takes a method, with their parts' scans.
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

/// The task vectors times a number each, before anything else is done with them: weights[k] T_k.
/// Every vector_method then merges what the tasks are worth: `chain{task_weights{{1, 0.5}},
/// ties_method{}}`.
struct task_weights {
  std::vector<double> weights;  ///< one per task

  /// Throws catmerge::error where there are not as many weights as tasks, or one is not finite.
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

/// First a vector_transform, then a vector_method on what it leaves; or a second transform, which
/// makes a transform of both. Where the first has a scan, it comes first; the second's scans see
/// what the first makes of the vectors.
template <class First, class Second>
struct chain {
  First first;    ///< a vector_transform
  Second second;  ///< a vector_method, or a vector_transform

  /// Where one of them does.
  bool needs_statistics(layer_kind kind) const {
    return catmerge::needs_statistics(first, kind) || catmerge::needs_statistics(second, kind);
  }
  /// Where one of them does.
  bool needs_importance() const {
    return catmerge::needs_importance(first) || catmerge::needs_importance(second);
  }

  bool scan_wanted() const {  ///< by one of them
    return catmerge::scan_wanted(first) || catmerge::scan_wanted(second);
  }
  /// Shows the parameter to the one whose turn it is.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
    if (catmerge::scan_wanted(first)) return catmerge::scan_parameter(first, c, p, vectors);
    layer_report unused;
    first.apply(c, p, vectors, unused);
    catmerge::scan_parameter(second, c, p, vectors);
  }
  void end_scan() {  ///< of the one whose turn it is
    catmerge::scan_wanted(first) ? catmerge::end_scan(first) : catmerge::end_scan(second);
  }

  /// The second's.
  double factor() const requires requires { second.factor(); }
  { return second.factor(); }

  /// The first's change, then the second's rule.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    first.apply(c, p, vectors, report);
    second.combine(c, p, vectors, tau, report);
  }

  /// Both changes, for a second that is a transform.
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

/// One method for the parameters of which `choose(problem)` is true, another for the rest. What
/// scans see is the parameters that are the method's: TIES' quantile is over those alone.
template <class Choose, class Method, class Rest>
struct where {
  Choose choose;  ///< bool(const layer_problem<Context>&), of kind, parts, names, extents
  Method method;  ///< a merging_method
  Rest rest;      ///< a merging_method

  /// Where one of them does.
  bool needs_statistics(layer_kind kind) const {
    return catmerge::needs_statistics(method, kind) || catmerge::needs_statistics(rest, kind);
  }
  /// Where the one whose it is does.
  template <class Context>
  bool wants_statistics(const layer_problem<Context>& p) const {
    return choose(p) ? catmerge::wants_statistics(method, p) : catmerge::wants_statistics(rest, p);
  }
  /// Where one of them does.
  bool needs_importance() const {
    return catmerge::needs_importance(method) || catmerge::needs_importance(rest);
  }

  bool scan_wanted() const {  ///< by one of them that parameters pass to
    return (catmerge::scan_wanted(method) && !unused_[0]) ||
           (catmerge::scan_wanted(rest) && !unused_[1]);
  }
  /// Shows the parameter to the one whose it is.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
    const bool mine = choose(p);
    seen_[mine ? 0 : 1] = true;
    if (mine && catmerge::scan_wanted(method)) catmerge::scan_parameter(method, c, p, vectors);
    if (!mine && catmerge::scan_wanted(rest)) catmerge::scan_parameter(rest, c, p, vectors);
  }
  void end_scan() {  ///< of both that want one
    for (const int i : {0, 1}) unused_[i] = !seen_[i];
    if (seen_[0] && catmerge::scan_wanted(method)) catmerge::end_scan(method);
    if (seen_[1] && catmerge::scan_wanted(rest)) catmerge::end_scan(rest);
  }

  /// By the one whose it is.
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    return choose(p) ? merge_problem(method, c, p, out) : merge_problem(rest, c, p, out);
  }

  /// 1: the factor of each is in what combine makes.
  static constexpr double factor() { return 1; }

  /// By the one whose it is, both being vector_methods.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    choose(p) ? detail::combine_scaled(method, c, p, vectors, tau, report)
              : detail::combine_scaled(rest, c, p, vectors, tau, report);
  }

  /// @cond by method and rest, in a scan (public, since this is an aggregate)
  bool seen_[2] = {}, unused_[2] = {};
  /// @endcond
};
/// where{...} without naming types.
template <class Choose, class Method, class Rest>
where(Choose, Method, Rest) -> where<Choose, Method, Rest>;

/// A method whose settings depend on the parameter: `adjust(problem, method)` changes a copy,
/// before it merges. Scans are of the whole model and see the settings as they are: adjust nothing
/// that they depend on.
template <class Method, class Adjust>
struct adjusted {
  Method method;  ///< a merging_method
  Adjust adjust;  ///< void(const layer_problem<Context>&, Method&)

  /// As the method's.
  bool needs_statistics(layer_kind kind) const { return catmerge::needs_statistics(method, kind); }
  /// As the method's.
  template <class Context>
  bool wants_statistics(const layer_problem<Context>& p) const {
    return catmerge::wants_statistics(method, p);
  }
  /// As the method's.
  bool needs_importance() const { return catmerge::needs_importance(method); }

  bool scan_wanted() const { return catmerge::scan_wanted(method); }  ///< as the method's
  /// As the method's.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
    catmerge::scan_parameter(method, c, p, vectors);
  }
  void end_scan() { catmerge::end_scan(method); }  ///< as the method's

  /// By the method with the settings of this parameter.
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    Method mine = method;
    adjust(p, mine);
    return merge_problem(mine, c, p, out);
  }

  /// 1: the factor, which may be adjusted, is in what combine makes.
  static constexpr double factor() { return 1; }

  /// By the method with the settings of this parameter, a vector_method.
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
