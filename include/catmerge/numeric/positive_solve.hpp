// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/tensor/context.hpp>
#include <cmath>
#include <optional>
#include <vector>

/// Equations with a symmetric positive definite matrix, by coarse operations.
namespace catmerge::detail {

/// The inverse of the lower Cholesky factor of a small symmetric matrix; none if a pivot is not
/// positive and finite. (In plain loops: Eigen's would double the time that this header takes to
/// compile.)
inline std::optional<small_matrix> inverse_cholesky(small_matrix a) {
  const index_t n = a.rows();
  small_matrix inverse = small_matrix::Zero(n, n);
  for (index_t j = 0; j < n; ++j) {
    for (index_t k = 0; k < j; ++k)
      for (index_t i = j; i < n; ++i) a(i, j) -= a(i, k) * a(j, k);
    if (!(a(j, j) > 0) || !std::isfinite(a(j, j))) return std::nullopt;
    const double root = std::sqrt(a(j, j));
    for (index_t i = j; i < n; ++i) a(i, j) /= root;
  }
  for (index_t j = 0; j < n; ++j) {
    inverse(j, j) = 1 / a(j, j);
    for (index_t i = j + 1; i < n; ++i) {
      double sum = 0;
      for (index_t k = j; k < i; ++k) sum += a(i, k) * inverse(k, j);
      inverse(i, j) = -sum / a(i, i);
    }
  }
  return inverse;
}

/// y = y A^-1 for a symmetric positive definite A = L L^T by blocks of the Cholesky factor. a: n x
/// n, double, its lower triangle is read and overwritten; y: m x n, double. Only blocks on the
/// diagonal leave the device. Returns false, with y unchanged, if A is not finite, or not positive
/// definite to rounding. The relative error of y is about n eps times A's condition.
template <class Context>
bool divide_by_positive(Context& c, const typename Context::view& a,
                        const typename Context::view& y) {
  using view = typename Context::view;
  // Products are fast from some 64 columns on; the host's part grows with the square.
  constexpr index_t width = 64;
  const index_t n = c.rows(a), m = c.rows(y);
  std::vector<typename Context::matrix> inverses;  // of the blocks on L's diagonal
  const auto times_inverse = [&](const view& x, std::size_t block, op transposed) {
    auto copy = c.make(scalar_type::f64, c.rows(x), c.columns(x));
    c.assign(x, copy);
    c.multiply(1, copy, op::none, inverses[block], transposed, 0, x);
  };
  for (index_t j = 0; j < n; j += width) {
    const index_t w = (std::min)(width, n - j), below = n - j - w;
    const auto inverse = inverse_cholesky(c.to_host(c.slice(a, j, w, j, w)));
    if (!inverse) return false;
    inverses.push_back(c.make(scalar_type::f64, w, w));
    c.from_host(*inverse, inverses.back());
    if (below == 0) break;
    const view panel = c.slice(a, j + w, below, j, w);
    times_inverse(panel, inverses.size() - 1, op::transpose);
    for (index_t k = j + w; k < n; k += width) {  // the lower triangle, in columns of blocks
      const index_t v = (std::min)(width, n - k);
      c.multiply(-1, c.slice(a, k, n - k, j, w), op::none, c.slice(a, k, v, j, w), op::transpose, 1,
                 c.slice(a, k, n - k, k, v));
    }
  }
  for (index_t j = 0, block = 0; j < n; j += width, ++block) {  // y L^-T
    const index_t w = (std::min)(width, n - j);
    const view part = c.slice(y, 0, m, j, w);
    if (j > 0)
      c.multiply(-1, c.slice(y, 0, m, 0, j), op::none, c.slice(a, j, w, 0, j), op::transpose, 1,
                 part);
    times_inverse(part, static_cast<std::size_t>(block), op::transpose);
  }
  for (index_t block = std::ssize(inverses) - 1; block >= 0; --block) {  // y L^-1
    const index_t j = block * width, w = (std::min)(width, n - j), after = n - j - w;
    const view part = c.slice(y, 0, m, j, w);
    if (after > 0)
      c.multiply(-1, c.slice(y, 0, m, j + w, after), op::none, c.slice(a, j + w, after, j, w),
                 op::none, 1, part);
    times_inverse(part, static_cast<std::size_t>(block), op::none);
  }
  return true;
}

}  // namespace catmerge::detail
