// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/conflict.hpp>
#include <catmerge/merge/run.hpp>

namespace catmerge {

/// Any method, and how far what it merges is from each expert, layer by layer, on the expert's own
/// inputs: report.drift and report.drift_of_base, where there are statistics (and for shifts, which
/// need none). The same measure for every method: the feature drift of LOT Merging (Sun et al.,
/// NeurIPS 2025, arXiv 2505.23859).
template <class Method>
struct with_drift {
  Method method;  ///< a merging_method

  /// For linears and scales.
  bool needs_statistics(layer_kind kind) const {
    return kind == layer_kind::linear || kind == layer_kind::scale ||
           catmerge::needs_statistics(method, kind);
  }
  /// Where the method itself does: what is only measured is not missed.
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

  /// By the method, then the measurement.
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    layer_report report = merge_problem(method, c, p, out);
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
