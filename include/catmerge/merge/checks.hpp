// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/problem.hpp>

/// The checks that every merge makes of its input and its result.
namespace catmerge::detail {

/// Throws unless v has the base's shape, rows x columns. `what` names v.
template <class Context>
void require_base_shape(Context& c, const typename Context::const_view& v, index_t rows,
                        index_t columns, const std::string& what) {
  if (rows != columns && c.rows(v) == columns && c.columns(v) == rows)
    throw error(what + ": expected " + shape_text(rows, columns) + ", found " + shape_text(c, v) +
                ", the shape of the base's transpose: linear weights are d_out x d_in: pass the "
                "other one transposed, as a view (Eigen: .transpose(), xtensor: "
                "xt::transpose(...), PyTorch: .t())");
  require_shape(c, v, rows, columns, what);
}

/// Throws unless experts and statistics fit the base.
template <class Context>
void check_shapes(Context& c, const layer_problem<Context>& p) {
  if (p.experts.empty()) throw error(p.names.who() + ": there are no experts to merge");
  const index_t rows = c.rows(p.base), columns = c.columns(p.base);
  if (p.kind == layer_kind::scale || p.kind == layer_kind::shift)
    require_shape(c, p.base, rows, 1, p.names.base() + " (a " + name_of(p.kind) + ")");
  for (index_t k = 0; k < std::ssize(p.experts); ++k)
    require_base_shape(c, p.experts[static_cast<std::size_t>(k)], rows, columns, p.names.expert(k));
  if (p.parts < 1 || rows % p.parts != 0)
    throw error(p.names.who() + ": " + std::to_string(rows) + " rows cannot be split into " +
                std::to_string(p.parts) + " equal parts");
  if (!p.importance.empty() && p.importance.size() != p.experts.size())
    throw error(p.names.who() + ": importances of " + std::to_string(p.importance.size()) +
                " tasks for " + std::to_string(p.experts.size()) + " experts");
  for (index_t k = 0; k < std::ssize(p.importance); ++k)
    require_shape(c, p.importance[static_cast<std::size_t>(k)], rows, columns,
                  p.names.importance(k));
  if (p.statistics.empty()) return;
  if (p.statistics.size() != p.experts.size())
    throw error(p.names.who() + ": features of " + std::to_string(p.statistics.size()) +
                " tasks for " + std::to_string(p.experts.size()) +
                " experts: pass one for each, in the order of the experts, or none at all");
  for (index_t k = 0; k < std::ssize(p.statistics); ++k) {
    const auto& s = p.statistics[static_cast<std::size_t>(k)];
    if (p.kind == layer_kind::linear) require_inputs(c, s, rows, columns, p.names.features(k));
    if (p.kind == layer_kind::scale) require_width(c, s, rows, p.names.features(k));
  }
}

/// Throws if a result is not finite. The message names the first input that is not finite or, if
/// all inputs are finite, the result. (A non-finite input makes the result non-finite, so a finite
/// result is enough.)
template <class Context>
void check_finite(Context& c, const layer_problem<Context>& p, typename Context::const_view result,
                  const std::string& what = ": the merged parameter") {
  if (c.all_finite(result)) return;
  if (!c.all_finite(p.base))
    throw not_finite_error(p.names.base() + " holds a value that is not finite");
  for (index_t k = 0; k < std::ssize(p.experts); ++k)
    if (!c.all_finite(p.experts[static_cast<std::size_t>(k)]))
      throw not_finite_error(p.names.expert(k) + " holds a value that is not finite");
  throw error(p.names.who() + what + " overflows " + name_of(c.type(result)));
}

/// Throws if statistics are not finite; called before they are used.
template <class Context>
void check_finite_statistics(Context& c, const layer_problem<Context>& p) {
  for (index_t k = 0; k < std::ssize(p.statistics); ++k)
    if (!c.all_finite(p.statistics[static_cast<std::size_t>(k)].data))
      throw error(p.names.features(k) + " hold a value that is not finite");
}

}  // namespace catmerge::detail
