// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <catmerge/error.hpp>
#include <catmerge/tensor/gemm.hpp>
#include <cmath>
#include <string>
#include <vector>

namespace catmerge::detail {

/// Eigenvalues, ascending, and the eigenvectors, one per column.
struct symmetric_pairs {
  std::vector<double> values;
  Eigen::MatrixXd vectors;
};

/// z = Q z for the Q of a tridiagonalisation A = Q T Q^T, which is a product of reflections
/// I - h_i v_i v_i^T: v_i has a one in row i + 1 and its rest in column i of `packed`, from row
/// i + 2 on. Some at a time as I - V T V^T (Schreiber & Van Loan, SIAM J. Sci. Stat. Comput. 10(1),
/// 1989). (Eigen's own product with Q would be a third of what a call of CAT takes to compile.)
template <class Matrix, class Coefficients>
void apply_reflections(const Matrix& packed, const Coefficients& h, Matrix& z) {
  using kernel = product_kernel<double>;
  constexpr index_t block = 32;
  const index_t n = z.rows(), stride = (n + kernel::width - 1) / kernel::width * kernel::width;
  constexpr index_t square = (block + kernel::width - 1) / kernel::width * kernel::width;
  const auto room = [](index_t size) {
    return std::vector<double>(static_cast<std::size_t>(size));
  };
  auto rows = room((n + kernel::height) * stride);  // z, row after row
  for (index_t j = 0; j < n; ++j)
    for (index_t i = 0; i < n; ++i) rows[static_cast<std::size_t>(i * stride + j)] = z(i, j);
  for (index_t start = (n - 2) / block * block; start >= 0; start -= block) {
    const index_t count = std::min(block, n - 1 - start), below = start + 1, deep = n - below;
    auto v = room(count * deep), v_columns = room(deep * count);
    for (index_t j = 0; j < count; ++j)
      for (index_t r = j; r < deep; ++r) {
        const double entry = r == j ? 1 : packed(below + r, start + j);
        v[static_cast<std::size_t>(j * deep + r)] = entry;
        v_columns[static_cast<std::size_t>(r * count + j)] = entry;
      }
    auto gram = room((block + kernel::height) * square), t = room(count * count);
    add_product(v.data(), deep, v.data(), deep, true, gram.data(), square, count, count, deep);
    for (index_t j = 0; j < count; ++j)  // -T, upper triangular
      for (index_t i = 0; i <= j; ++i) {
        double sum = i == j ? -1 : 0;
        for (index_t l = i; l < j; ++l)
          sum -= t[static_cast<std::size_t>(i * count + l)] *
                 gram[static_cast<std::size_t>(l * square + j)];
        t[static_cast<std::size_t>(i * count + j)] = h(start + j) * sum;
      }
    auto image = room((block + kernel::height) * stride), turned = image;
    double* const part = rows.data() + below * stride;
    add_product(v.data(), deep, part, stride, false, image.data(), stride, count, n, deep);
    add_product(t.data(), count, image.data(), stride, false, turned.data(), stride, count, n,
                count);
    add_product(v_columns.data(), count, turned.data(), stride, false, part, stride, deep, n,
                count);
  }
  for (index_t j = 0; j < n; ++j)
    for (index_t i = 0; i < n; ++i) z(i, j) = rows[static_cast<std::size_t>(i * stride + j)];
}

/// All eigenpairs of a symmetric matrix on the host; reads the lower triangle. The one place that
/// instantiates Eigen's solver. It and its callers are templates so that a program that does not
/// call them does not pay.
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
