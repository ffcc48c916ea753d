// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/checks.hpp>

namespace catmerge::detail {

/// Throws if an importance is negative or not finite.
template <class Context>
void check_importance(Context& c, const layer_problem<Context>& p) {
  for (index_t k = 0; k < std::ssize(p.importance); ++k) {
    const auto& x = p.importance[static_cast<std::size_t>(k)];
    if (!c.all_finite(x)) throw error(p.names.importance(k) + " hold a value that is not finite");
    auto size = c.make(compute_type(c.type(x)), c.rows(x), c.columns(x));
    c.map(entry_function::absolute, 0, x, size);
    c.axpy(-1, x, size);  // zero unless x is negative
    if (c.squared_norm(size) > 0) throw error(p.names.importance(k) + " hold a negative value");
  }
}

}  // namespace catmerge::detail
