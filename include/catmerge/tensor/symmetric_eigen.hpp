// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <catmerge/tensor/detail/gemm.hpp>
#include <catmerge/tensor/detail/same_flags.hpp>
#include <catmerge/tensor/detail/tridiagonal_eigen.hpp>
#include <catmerge/tensor/detail/tridiagonal_form.hpp>
#include <catmerge/tensor/small_matrix.hpp>
#include <cmath>
#include <utility>
#include <vector>

namespace catmerge::detail {

/// Eigenvalues, ascending, and the eigenvectors, one per column.
struct symmetric_pairs {
  std::vector<double> values;
  small_matrix vectors;
};

/// x = Q x for Q of a tridiagonal_form, x of n rows, row-major, with room for product_rows(n) x
/// product_columns(columns). The reflections I - h_i v_i v_i^T, v_i in column i of `packed`, are
/// applied in blocks I - V T V^T (Schreiber & Van Loan, SIAM J. Sci. Stat. Comput. 10(1), 1989).
template <class Matrix>
void apply_reflections(const Matrix& packed, const std::vector<double>& h, double* x,
                       index_t stride, index_t columns) {
  constexpr index_t block = 32;
  const index_t n = packed.rows();
  // A row-major matrix of zeros, with the room that add_product needs around a result.
  using room = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const auto make = [](index_t rows, index_t width) {
    room m(product_rows<double>(rows), product_columns<double>(width));
    std::fill_n(m.data(), m.size(), 0.0);
    return m;
  };
  const auto multiply = [](const room& a, const double* t, index_t t_stride, bool flipped,
                           double* y, index_t y_stride, index_t m, index_t width, index_t depth) {
    add_product(a.data(), a.cols(), t, t_stride, flipped, y, y_stride, m, width, depth);
  };
  for (index_t start = (n - 2) / block * block; start >= 0; start -= block) {
    const index_t count = (std::min)(block, n - 1 - start), below = start + 1, deep = n - below;
    auto v = make(count, deep), v_columns = make(deep, count);
    for (index_t j = 0; j < count; ++j)
      for (index_t r = j; r < deep; ++r)
        v(j, r) = v_columns(r, j) = r == j ? 1 : packed(below + r, start + j);
    auto gram = make(count, count), t = make(count, count);
    multiply(v, v.data(), v.cols(), true, gram.data(), gram.cols(), count, count, deep);
    for (index_t j = 0; j < count; ++j)  // -T, upper triangular
      for (index_t i = 0; i <= j; ++i) {
        double sum = i == j ? -1 : 0;
        for (index_t l = i; l < j; ++l) sum -= t(i, l) * gram(l, j);
        t(i, j) = h[static_cast<std::size_t>(start + j)] * sum;
      }
    auto image = make(count, columns), turned = make(count, columns);
    double* const part = x + below * stride;
    multiply(v, part, stride, false, image.data(), image.cols(), count, columns, deep);
    multiply(t, image.data(), image.cols(), false, turned.data(), turned.cols(), count, columns,
             count);
    multiply(v_columns, turned.data(), turned.cols(), false, part, stride, deep, columns, count);
  }
}

/// All eigenvalues, ascending, of a symmetric matrix on the host; reads the lower triangle. The
/// vectors of the `count` largest are written to out: entry i of vector j to `i * row_stride + j *
/// column_stride`. run(n, f) calls f(0) ... f(n - 1), in any order and perhaps at the same time;
/// results don't depend on that. This function and its callers are templates, so that programs that
/// do not call them do not compile it.
template <class Matrix, class Run>
std::vector<double> solve_symmetric(Matrix m, index_t count, double* out, index_t row_stride,
                                    index_t column_stride, const Run& run) {
  const index_t n = m.rows();
  if (n == 0) return {};
  // A power of two near the largest entry, so that squares neither overflow nor vanish.
  double largest = 0;
  for (index_t j = 0; j < n; ++j)
    for (index_t i = j; i < n; ++i)
      if (std::abs(m(i, j)) > largest) largest = std::abs(m(i, j));
  const double scale = largest > 0 && std::isfinite(largest) ? std::exp2(std::ilogb(largest)) : 1;
  for (index_t e = 0; e < m.size(); ++e) m.data()[e] /= scale;

  const tridiagonal_form reduced(m.data(), n);
  const tridiagonal_eigen middle(reduced.diagonal, reduced.below);

  const auto value = [&](index_t i) { return middle.values()[static_cast<std::size_t>(i)]; };
  std::vector<index_t> order;  // of the values, ascending
  for (index_t i = 0; i < n; ++i) order.push_back(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](index_t i, index_t j) { return value(i) < value(j); });
  std::vector<double> values;
  for (const index_t i : order) values.push_back(value(i) * scale);

  // Strips of vectors that begin at nearby places: rotations before the first are left out.
  constexpr index_t strip = 96;  // of 768 rows: half a megabyte, for the second-level cache
  static_assert(strip % tridiagonal_eigen::width() == 0);
  std::vector<std::pair<index_t, index_t>> wanted;  // the place of a value, its column
  for (index_t j = 0; j < count; ++j)
    wanted.emplace_back(order[static_cast<std::size_t>(n - count + j)], j);
  std::sort(wanted.begin(), wanted.end());
  run((count + strip - 1) / strip, [&](index_t s) {
    const auto first = wanted.begin() + s * strip;
    const index_t columns = (std::min)(strip, count - s * strip);
    // Not zeros: tails of vectors would become subnormal numbers, which are slow. In the end all
    // that is not above the size of their sums is zero.
    constexpr double speck = 1e-30, nothing = 1e-25;
    std::vector<double> room(static_cast<std::size_t>(product_rows<double>(n) * strip), speck);
    const auto at = [&](index_t i, index_t j) -> double& {
      return room[static_cast<std::size_t>(i * strip + j)];
    };
    for (index_t j = 0; j < columns; ++j) at(first[j].first, j) = 1;
    constexpr index_t wide = tridiagonal_eigen::width();
    middle.apply(room.data(), strip, (columns + wide - 1) / wide * wide, first->first);
    apply_reflections(m, reduced.factors, room.data(), strip, columns);
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j < columns; ++j)
        out[i * row_stride + first[j].second * column_stride] =
            std::abs(at(i, j)) > nothing ? at(i, j) : 0;
  });
  return values;
}

/// All eigenpairs, on the caller's thread.
template <class Matrix>
symmetric_pairs solve_symmetric(const Matrix& m) {
  const index_t n = m.rows();
  symmetric_pairs pairs{{}, small_matrix(n, n)};
  pairs.values =
      solve_symmetric(Matrix(m), n, pairs.vectors.data(), 1, n, [](index_t count, const auto& f) {
        for (index_t i = 0; i < count; ++i) f(i);
      });
  return pairs;
}

}  // namespace catmerge::detail
