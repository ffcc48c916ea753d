// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/tensor/context.hpp>
#include <catmerge/tensor/symmetric_eigen.hpp>
#include <cmath>
#include <cstdint>

/// Algebra on thin blocks (few x size, f64: every row a vector). Blocks stay on their device; only
/// products of two blocks, few x few, come to the host.
namespace catmerge::detail {

/// Numbers in [-1, 1), the same on every machine (splitmix64: Steele, Lea & Flood, OOPSLA 2014).
inline small_matrix seeded_block(index_t rows, index_t columns, std::uint64_t seed) {
  small_matrix m(rows, columns);
  for (index_t j = 0; j < columns; ++j)
    for (index_t i = 0; i < rows; ++i) {
      std::uint64_t z = (seed += 0x9E3779B97F4A7C15);
      z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
      z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
      m(i, j) = static_cast<double>(static_cast<std::int64_t>(z ^ (z >> 31))) * 0x1p-63;
    }
  return m;
}

/// y = alpha m x + beta y for a small m.
template <class Context>
void times_small(Context& c, const small_matrix& m, typename Context::const_view x,
                 typename Context::view y, double alpha = 1, double beta = 0) {
  auto factor = c.make(scalar_type::f64, m.rows(), m.cols());
  c.from_host(m, factor);
  c.multiply(alpha, factor, op::none, x, op::none, beta, y);
}

/// x y^T on the host, for thin x and y.
template <class Context>
small_matrix small_product(Context& c, typename Context::const_view x,
                           typename Context::const_view y) {
  auto product = c.make(scalar_type::f64, c.rows(x), c.rows(y));
  c.multiply(1, x, op::none, y, op::transpose, 0, product);
  return c.to_host(product);
}

// Small matrices on the host are combined in plain loops: Eigen's expressions would more than
// double the time that this header takes to compile.

/// One round of SVQB for a thin block. `gram` is the Gram matrix of its rows; the diagonal of
/// `before` holds the squared lengths by which they are scaled. `transform` times the block has
/// orthonormal rows, the leading directions. Directions of an energy, relative to `before`, of at
/// most `smallest` are left out. `again`: the rows were far from orthonormal, so rounding may have
/// left them so.
template <class Matrix>
struct orthonormal_transform {
  orthonormal_transform(const Matrix& before, const Matrix& gram, double smallest) {
    const index_t n = gram.rows();
    std::vector<double> scale;
    for (index_t j = 0; j < n; ++j)
      scale.push_back(before(j, j) > 0 ? 1 / std::sqrt(before(j, j)) : 0.0);
    const auto scale_of = [&](index_t j) { return scale[static_cast<std::size_t>(j)]; };
    Matrix scaled(n, n);
    for (index_t j = 0; j < n; ++j)
      for (index_t i = 0; i < n; ++i) scaled(i, j) = scale_of(i) * gram(i, j) * scale_of(j);
    const auto pairs = solve_symmetric(scaled);
    const auto energy_of = [&](index_t j) {  // descending
      return pairs.values[static_cast<std::size_t>(n - 1 - j)];
    };
    index_t left = 0;
    while (left < n && energy_of(left) > smallest) ++left;
    transform = Matrix(left, n);
    for (index_t j = 0; j < left; ++j)
      for (index_t i = 0; i < n; ++i)
        transform(j, i) = scale_of(i) * pairs.vectors(i, n - 1 - j) / std::sqrt(energy_of(j));
    // Rounding grows by the root of the energy's inverse: 0.1 costs half a digit of sixteen.
    again = left < n || (left > 0 && energy_of(left - 1) < 0.1);
  }

  Matrix transform;
  bool again = false;
};

/// Orthonormalises the rows of v (f64, thin) against the first `used` rows of `basis` and among
/// themselves. Returns the number of directions left, which are the first rows of v. Only Gram
/// matrices of thin blocks leave the device (SVQB: Stathopoulos & Wu, SIAM J. Sci. Comput. 23(6),
/// 2002). Passes are repeated where one loses digits ("twice is enough").
template <class Context>
index_t orthonormalise(Context& c, typename Context::const_view basis, index_t used,
                       typename Context::view v) {
  const index_t size = c.columns(v);
  index_t kept = c.rows(v);
  bool again = true;
  for (int pass = 0; pass < 4 && kept > 0 && again; ++pass) {
    const auto block = c.slice(v, 0, kept, 0, size);
    // Rows are scaled by their length before this pass: the length left tells signal from noise.
    const small_matrix before = small_product(c, block, block);
    if (used > 0) {
      const auto q = c.slice(basis, 0, used, 0, size);
      auto coefficients = c.make(scalar_type::f64, kept, used);
      c.multiply(1, block, op::none, q, op::transpose, 0, coefficients);
      c.multiply(-1, coefficients, op::none, q, op::none, 1, block);
    }
    // First pass: a direction of length below 1e-7 is rounding noise of the vectors it came from
    // (1e-14 in its square is some ten times the error of the Gram matrix). Later passes start from
    // unit vectors: a direction that loses half its length there was such noise.
    const double smallest = pass == 0 ? 1e-14 * static_cast<double>(kept) : 0.25;
    const orthonormal_transform<small_matrix> next(
        before, used > 0 ? small_product(c, block, block) : before, smallest);
    again = next.again;
    kept = next.transform.rows();
    auto result = c.make(scalar_type::f64, kept, size);
    times_small(c, next.transform, block, result);
    if (kept > 0) c.assign(result, c.slice(v, 0, kept, 0, size));
  }
  return kept;
}

}  // namespace catmerge::detail
