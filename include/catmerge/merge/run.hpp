// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/method.hpp>
#include <catmerge/merge/vectors.hpp>

/// @file
/// Merges of one parameter by a method.
namespace catmerge {

/// merge_problem for a vector_method: out = theta_0 + factor() tau.
template <class Method, class Context>
layer_report merge_vectors(const Method& m, Context& c, const layer_problem<Context>& p,
                           const typename Context::view& out) {
  layer_report report;
  report.kind = p.kind;
  auto tau = c.make(compute_type(c.type(out)), c.rows(out), c.columns(out));
  {
    auto vectors = form_vectors(c, p);
    m.combine(c, p, vector_list<Context>(views_of<Context>(vectors)), tau, report);
  }
  c.assign(p.base, out);
  c.axpy(m.factor(), tau, out);
  detail::check_finite(c, p, out);
  return report;
}

/// Merges one parameter by any merging_method: by its `merge` if it has one, else out = theta_0 +
/// factor() tau. `out` is shaped like base; the problem's shapes have been checked, the method's
/// scans are done. Throws catmerge::error if a value is not finite, and as the method does.
template <class Method, class Context>
layer_report merge_problem(const Method& m, Context& c, const layer_problem<Context>& p,
                           const typename Context::view& out) {
  if constexpr (requires { m.merge(c, p, out); }) {
    return m.merge(c, p, out);
  } else {
    return merge_vectors(m, c, p, out);
  }
}

/// Runs all scans of a method on the only parameter of a call.
template <class Method, class Context>
void scan_problem(Method& m, Context& c, const layer_problem<Context>& p) {
  while (scan_wanted(m)) {
    auto vectors = form_vectors(c, p);
    scan_parameter(m, c, p, vector_list<Context>(views_of<Context>(vectors)));
    end_scan(m);
  }
}

}  // namespace catmerge
