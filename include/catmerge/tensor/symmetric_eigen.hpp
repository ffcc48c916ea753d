// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <catmerge/error.hpp>
#include <catmerge/tensor/detail/gemm.hpp>
#include <catmerge/tensor/detail/same_flags.hpp>
#include <catmerge/tensor/small_matrix.hpp>
#include <cmath>
#include <string>
#include <vector>

namespace catmerge::detail {

/// Eigenvalues, ascending, and the eigenvectors, one per column.
struct symmetric_pairs {
  std::vector<double> values;
  small_matrix vectors;
};

/// z = Q z for Q of a tridiagonalisation A = Q T Q^T. Q is a product of reflections
/// I - h_i v_i v_i^T; v_i has a one in row i + 1 and its rest in column i of `packed`, from row
/// i + 2 on. They are applied in blocks I - V T V^T (Schreiber & Van Loan, SIAM J. Sci. Stat.
/// Comput. 10(1), 1989). (Eigen's own product with Q is a third of a CAT call's compile time.)
template <class Matrix, class Coefficients>
void apply_reflections(const Matrix& packed, const Coefficients& h, Matrix& z) {
  constexpr index_t block = 32;
  const index_t n = z.rows();
  // A row-major matrix of zeros, with the room that add_product needs around a result.
  using room = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const auto make = [](index_t rows, index_t columns) {
    room m(product_rows<double>(rows), product_columns<double>(columns));
    std::fill_n(m.data(), m.size(), 0.0);
    return m;
  };
  const auto multiply = [](const room& x, const double* t, index_t t_stride, bool flipped,
                           double* y, index_t y_stride, index_t m, index_t columns, index_t depth) {
    add_product(x.data(), x.cols(), t, t_stride, flipped, y, y_stride, m, columns, depth);
  };
  auto rows = make(n, n);
  const index_t stride = rows.cols();
  for (index_t j = 0; j < n; ++j)
    for (index_t i = 0; i < n; ++i) rows(i, j) = z(i, j);
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
        t(i, j) = h(start + j) * sum;
      }
    auto image = make(count, n), turned = make(count, n);
    double* const part = rows.data() + below * stride;
    multiply(v, part, stride, false, image.data(), stride, count, n, deep);
    multiply(t, image.data(), stride, false, turned.data(), stride, count, n, count);
    multiply(v_columns, turned.data(), stride, false, part, stride, deep, n, count);
  }
  for (index_t j = 0; j < n; ++j)
    for (index_t i = 0; i < n; ++i) z(i, j) = rows(i, j);
}

/// All eigenpairs of a symmetric matrix on the host; reads the lower triangle. Eigen's solver is
/// instantiated only here. This function and its callers are templates, so that programs that do
/// not call them do not compile it.
template <class Matrix>
symmetric_pairs solve_symmetric(const Matrix& m) {
  const index_t n = m.rows();
  if (n == 0) return {};  // Eigen's solver asks for one row at least
  // A power of two near the largest entry, so that squares neither overflow nor vanish.
  double largest = 0;
  for (index_t j = 0; j < n; ++j)
    for (index_t i = j; i < n; ++i)
      if (std::abs(m(i, j)) > largest) largest = std::abs(m(i, j));
  const double scale = largest > 0 && std::isfinite(largest) ? std::exp2(std::ilogb(largest)) : 1;
  Matrix scaled(n, n);
  for (index_t j = 0; j < n; ++j)
    for (index_t i = 0; i < n; ++i) scaled(i, j) = m(i, j) / scale;

  const Eigen::Tridiagonalization<Matrix> reduced(scaled);
  const Matrix& packed = reduced.packedMatrix();
  Eigen::VectorXd diagonal(n), below(n - 1);
  for (index_t i = 0; i < n; ++i) diagonal(i) = packed(i, i);
  for (index_t i = 0; i + 1 < n; ++i) below(i) = packed(i + 1, i);
  Eigen::SelfAdjointEigenSolver<Matrix> solver(n);
  solver.computeFromTridiagonal(diagonal, below, Eigen::ComputeEigenvectors);
  if (solver.info() != Eigen::Success)
    throw error("the symmetric eigenproblem of size " + std::to_string(n) + " did not converge");

  symmetric_pairs pairs;
  for (index_t i = 0; i < n; ++i) pairs.values.push_back(solver.eigenvalues()(i) * scale);
  pairs.vectors = solver.eigenvectors();
  apply_reflections(packed, reduced.householderCoefficients(), pairs.vectors);
  return pairs;
}

}  // namespace catmerge::detail
