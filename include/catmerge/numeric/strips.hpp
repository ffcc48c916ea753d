// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/tensor/context.hpp>

/// Entrywise methods work on a strip of a parameter's rows at a time, so that their temporaries are
/// small however large the parameter is.
namespace catmerge::detail {

/// A strip of rows of tensors of one shape: strip(v) is the window on these rows of v.
template <class Context>
struct strip {
  Context& c;
  index_t row, rows, columns;  ///< the first row, how many, and how long they are

  template <class View>
  auto operator()(const View& v) const {
    return c.slice(v, row, rows, 0, columns);
  }

  /// A matrix of zeros, shaped like the windows.
  typename Context::matrix make(scalar_type type) const { return c.make(type, rows, columns); }

  /// The sum of the tensors' windows, added in their order, in double.
  template <class Views>
  typename Context::matrix sum(const Views& tensors) const {
    auto total = make(scalar_type::f64);
    for (const auto& t : tensors) c.axpy(1, (*this)(t), total);
    return total;
  }

  /// A double matrix, shaped like the windows, filled with `value` >= 0.
  typename Context::matrix filled(double value) const {
    auto m = make(scalar_type::f64);
    c.map(entry_function::at_least, value, m, m);
    return m;
  }
};

/// Calls f(strip) for all strips of tensors that are shaped like `like`, from the top.
template <class Context, class F>
void for_strips(Context& c, const typename Context::const_view& like, const F& f) {
  // 2 MiB in double. For 8 vectors of 2^23 entries on one thread TATR and PCB take 6 and 18 s; with
  // 2^16 entries 5 and 14 s, with 2^20 10 and 20 s (caches). Smaller strips cost a device
  // more than a host gains: it launches every operation anew and sends the 2 MiB of count_keys.
  constexpr index_t entries = index_t{1} << 18;
  const index_t rows = c.rows(like), columns = c.columns(like);
  if (columns == 0) return;
  const index_t height = (std::max)(index_t{1}, entries / columns);
  for (index_t row = 0; row < rows; row += height)
    f(strip<Context>{c, row, (std::min)(height, rows - row), columns});
}

}  // namespace catmerge::detail
