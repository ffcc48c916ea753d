// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/merge/problem.hpp>
#include <cmath>

namespace catmerge {

/// Frobenius norms of one parameter's base and task vectors.
struct vector_sizes {
  double of_base = 0;              ///< ||theta_0||
  std::vector<double> of_vectors;  ///< ||T_k||, in the order of the tasks
};

namespace detail {

/// ||T_k||_F of every task and ||theta_0||_F, in strips of rows: no task vector is held.
template <class Context>
vector_sizes sizes_of(Context& c, const layer_problem<Context>& p) {
  const index_t rows = c.rows(p.base), columns = c.columns(p.base);
  // 128 KiB of float: a strip stays in the processor's cache between its two passes.
  const index_t height = std::clamp<index_t>((index_t{1} << 15) / (std::max<index_t>)(1, columns),
                                             1, (std::max<index_t>)(1, rows));
  const auto strips = [&](const auto& energy) {
    double sum = 0;
    for (index_t row = 0; row < rows; row += height)
      sum += energy(row, (std::min)(height, rows - row));
    return std::sqrt(sum);
  };
  const auto part = [&](const typename Context::const_view& t, index_t row, index_t count) {
    return c.slice(t, row, count, 0, columns);
  };
  vector_sizes sizes;
  sizes.of_base =
      strips([&](index_t row, index_t count) { return c.squared_norm(part(p.base, row, count)); });
  sizes.of_vectors.resize(p.experts.size());
  c.concurrently(std::ssize(p.experts), [&](index_t k) {
    const auto& expert = p.experts[static_cast<std::size_t>(k)];
    const bool wide = c.type(p.base) == scalar_type::f64 || c.type(expert) == scalar_type::f64;
    auto difference = c.make(wide ? scalar_type::f64 : scalar_type::f32, height, columns);
    sizes.of_vectors[static_cast<std::size_t>(k)] = strips([&](index_t row, index_t count) {
      const typename Context::view t =
          c.slice(typename Context::view(difference), 0, count, 0, columns);
      c.subtract(part(expert, row, count), part(p.base, row, count), t);
      return c.squared_norm(t);
    });
  });
  return sizes;
}

}  // namespace detail
}  // namespace catmerge
