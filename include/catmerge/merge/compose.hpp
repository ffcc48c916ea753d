// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/conflict.hpp>
#include <catmerge/merge/method.hpp>
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

  /// Never: statistics play no part.
  static constexpr bool needs_statistics(layer_kind) { return false; }

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
    return first.needs_statistics(kind) || second.needs_statistics(kind);
  }
  /// Where one of them does.
  bool needs_importance() const {
    return detail::needs_importance(first) || detail::needs_importance(second);
  }

  bool scan_wanted() const {  ///< by one of them
    return detail::scan_wanted(first) || detail::scan_wanted(second);
  }
  /// Shows the parameter to the one whose turn it is.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
    if (detail::scan_wanted(first)) return detail::scan(first, c, p, vectors);
    layer_report unused;
    first.apply(c, p, vectors, unused);
    detail::scan(second, c, p, vectors);
  }
  void end_scan() {  ///< of the one whose turn it is
    detail::scan_wanted(first) ? detail::end_scan(first) : detail::end_scan(second);
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

  /// As every vector_method's.
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const requires requires {
    second.factor();
  }
  { return detail::merge_vectors(*this, c, p, out); }
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
    return method.needs_statistics(kind) || rest.needs_statistics(kind);
  }
  /// Where the one whose it is does.
  template <class Context>
  bool wants_statistics(const layer_problem<Context>& p) const {
    return choose(p) ? detail::wants_statistics(method, p) : detail::wants_statistics(rest, p);
  }
  /// Where one of them does.
  bool needs_importance() const {
    return detail::needs_importance(method) || detail::needs_importance(rest);
  }

  bool scan_wanted() const {  ///< by one of them that parameters pass to
    return (detail::scan_wanted(method) && !unused_[0]) ||
           (detail::scan_wanted(rest) && !unused_[1]);
  }
  /// Shows the parameter to the one whose it is.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
    const bool mine = choose(p);
    seen_[mine ? 0 : 1] = true;
    if (mine && detail::scan_wanted(method)) detail::scan(method, c, p, vectors);
    if (!mine && detail::scan_wanted(rest)) detail::scan(rest, c, p, vectors);
  }
  void end_scan() {  ///< of both that want one
    for (const int i : {0, 1}) unused_[i] = !seen_[i];
    if (seen_[0] && detail::scan_wanted(method)) detail::end_scan(method);
    if (seen_[1] && detail::scan_wanted(rest)) detail::end_scan(rest);
  }

  /// By the one whose it is.
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    return choose(p) ? method.merge(c, p, out) : rest.merge(c, p, out);
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
  bool needs_statistics(layer_kind kind) const { return method.needs_statistics(kind); }
  /// As the method's.
  template <class Context>
  bool wants_statistics(const layer_problem<Context>& p) const {
    return detail::wants_statistics(method, p);
  }
  /// As the method's.
  bool needs_importance() const { return detail::needs_importance(method); }

  bool scan_wanted() const { return detail::scan_wanted(method); }  ///< as the method's
  /// As the method's.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
    detail::scan(method, c, p, vectors);
  }
  void end_scan() { detail::end_scan(method); }  ///< as the method's

  /// By the method with the settings of this parameter.
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    Method mine = method;
    adjust(p, mine);
    return mine.merge(c, p, out);
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

/// Any method, and how far what it merges is from each expert, layer by layer, on the expert's own
/// inputs: report.drift and report.drift_of_base, where there are statistics (and for shifts, which
/// need none). The same measure for every method: the feature drift of LOT Merging (Sun et al.,
/// NeurIPS 2025, arXiv 2505.23859).
template <class Method>
struct with_drift {
  Method method;  ///< a merging_method

  /// For linears and scales.
  bool needs_statistics(layer_kind kind) const {
    return kind == layer_kind::linear || kind == layer_kind::scale || method.needs_statistics(kind);
  }
  /// Where the method itself does: what is only measured is not missed.
  template <class Context>
  bool wants_statistics(const layer_problem<Context>& p) const {
    return detail::wants_statistics(method, p);
  }
  /// As the method's.
  bool needs_importance() const { return detail::needs_importance(method); }

  bool scan_wanted() const { return detail::scan_wanted(method); }  ///< as the method's
  /// As the method's.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
    detail::scan(method, c, p, vectors);
  }
  void end_scan() { detail::end_scan(method); }  ///< as the method's

  /// By the method, then the measurement.
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    layer_report report = method.merge(c, p, out);
    const bool shift = p.kind == layer_kind::shift;
    if (!shift && (p.kind == layer_kind::other || p.statistics.empty())) return report;
    auto difference = c.make(compute_type(c.type(out)), c.rows(p.base), c.columns(p.base));
    for (std::size_t k = 0; k < p.experts.size(); ++k) {
      const auto energy = [&](typename Context::const_view from) {
        c.subtract(from, p.experts[k], difference);
        return shift ? c.squared_norm(difference)  // per row
                     : detail::shift_energy(c, p.kind, p.statistics[k], difference);
      };
      report.drift.push_back(energy(out));
      report.drift_of_base.push_back(energy(p.base));
    }
    return report;
  }
};
/// with_drift{...} without naming types.
template <class Method>
with_drift(Method) -> with_drift<Method>;

}  // namespace catmerge
