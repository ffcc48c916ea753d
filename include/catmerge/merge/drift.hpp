// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/conflict.hpp>
#include <catmerge/merge/run.hpp>

namespace catmerge {

/// Any method, with the feature drift of LOT Merging (Sun et al., NeurIPS 2025, arXiv 2505.23859)
/// measured after each merge: the distance of the merged parameter from each expert, on the
/// expert's own inputs. Fills report.drift and report.drift_of_base of parameters with statistics,
/// and of shifts, which need none.
template <class Method>
struct with_drift {
  Method method;  ///< a merging_method

  /// True for linears and scales; for other kinds, if the method needs statistics.
  bool needs_statistics(layer_kind kind) const {
    return kind == layer_kind::linear || kind == layer_kind::scale ||
           catmerge::needs_statistics(method, kind);
  }
  Method& wrapped() { return method; }              ///< supplies the optional members
  const Method& wrapped() const { return method; }  ///< likewise

  /// Merges by the method, then measures the drift.
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
