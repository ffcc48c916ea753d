// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <catmerge/layer.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

/// The few largest eigenpairs of a symmetric matrix that is known only by its products.
namespace catmerge {

/// How eigenpairs are looked for.
struct eigen_options {
  index_t count = 4;  ///< how many of the largest
  /// A pair (theta, v) is accepted once ||G v - theta v|| <= tolerance * max|theta|. The error of
  /// the subspace is at most that over the gap, the error of Eq. 8 its square: 1e-8 leaves Eq. 8
  /// exact to double precision wherever the gap exceeds 1e-8 of the spectrum.
  double tolerance = 1e-8;
  /// Give up after this many products with a vector (result.converged is then false).
  index_t products = 4000;
  std::uint64_t seed = 0x9E3779B97F4A7C15;  ///< of the starting block
};

/// Eigenpairs, largest eigenvalue first.
template <class Context>
struct eigenpairs {
  std::vector<double> values;
  typename Context::matrix vectors;  ///< size x values.size(), f64, orthonormal columns
  double magnitude = 0;              ///< the largest |eigenvalue| that was seen
  double residual = 0;               ///< largest ||G v - theta v|| / magnitude
  index_t products = 0;              ///< products of G with a vector
  bool converged = true;
};

namespace detail {

/// Numbers in [-1, 1), the same on every machine (splitmix64: Steele, Lea & Flood, OOPSLA 2014).
inline Eigen::MatrixXd seeded_block(index_t rows, index_t columns, std::uint64_t seed) {
  Eigen::MatrixXd m(rows, columns);
  for (index_t j = 0; j < columns; ++j)
    for (index_t i = 0; i < rows; ++i) {
      std::uint64_t z = (seed += 0x9E3779B97F4A7C15);
      z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
      z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
      m(i, j) = static_cast<double>(static_cast<std::int64_t>(z ^ (z >> 31))) * 0x1p-63;
    }
  return m;
}

/// y = x * m for a small m.
template <class Context>
void times_small(Context& c, typename Context::const_view x, const Eigen::MatrixXd& m,
                 typename Context::view y) {
  auto small = c.make(scalar_type::f64, m.rows(), m.cols());
  c.from_host(m, small);
  c.multiply(1, x, op::none, small, op::none, 0, y);
}

/// x^T y on the host, for thin x and y.
template <class Context>
Eigen::MatrixXd small_product(Context& c, typename Context::const_view x,
                              typename Context::const_view y) {
  auto product = c.make(scalar_type::f64, c.columns(x), c.columns(y));
  c.multiply(1, x, op::transpose, y, op::none, 0, product);
  return c.to_host(product);
}

/// Orthonormalises the columns of v (f64, thin) against the first `used` columns of `basis` and
/// among themselves, and returns how many directions are left; they are the first columns of v.
/// Gram matrices of thin blocks are the only thing that leaves the device (SVQB: Stathopoulos & Wu,
/// SIAM J. Sci. Comput. 23(6), 2002), repeated because once loses half the digits ("twice is
/// enough").
template <class Context>
index_t orthonormalise(Context& c, typename Context::const_view basis, index_t used,
                       typename Context::view v) {
  const index_t size = c.rows(v);
  index_t kept = c.columns(v);
  for (int pass = 0; pass < 3 && kept > 0; ++pass) {
    const auto block = c.slice(v, 0, size, 0, kept);
    Eigen::VectorXd before = small_product(c, block, block).diagonal();
    if (used > 0) {
      const auto q = c.slice(basis, 0, size, 0, used);
      auto coefficients = c.make(scalar_type::f64, used, kept);
      c.multiply(1, q, op::transpose, block, op::none, 0, coefficients);
      c.multiply(-1, q, op::none, coefficients, op::none, 1, block);
    }
    // Columns are scaled to their length before this pass: what is left of it tells signal from
    // noise.
    Eigen::MatrixXd gram = small_product(c, block, block);
    const Eigen::VectorXd scale =
        before.unaryExpr([](double e) { return e > 0 ? 1 / std::sqrt(e) : 0.0; });
    gram = scale.asDiagonal() * gram * scale.asDiagonal();
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(gram);
    // First pass: a direction of length below 1e-7 is rounding noise of the vectors it came from
    // (1e-14 in its square is some ten times the error of the Gram matrix). Later passes start from
    // unit vectors: what loses half its length there was such noise.
    const double smallest = pass == 0 ? 1e-14 * static_cast<double>(kept) : 0.25;
    index_t left = 0;
    while (left < kept && solver.eigenvalues()(kept - 1 - left) > smallest) ++left;
    Eigen::MatrixXd transform(kept, left);
    for (index_t j = 0; j < left; ++j)
      transform.col(j) = scale.asDiagonal() * solver.eigenvectors().col(kept - 1 - j) /
                         std::sqrt(solver.eigenvalues()(kept - 1 - j));
    auto result = c.make(scalar_type::f64, size, left);
    times_small(c, block, transform, result);
    kept = left;
    if (kept > 0) c.assign(result, c.slice(v, 0, size, 0, kept));
  }
  return kept;
}

}  // namespace detail

/// The options.count largest (signed) eigenpairs of a symmetric operator of the given size.
///
/// apply(x, y) writes G x to y for thin f64 blocks (size x b). The method is block Krylov with
/// Rayleigh-Ritz projection: the basis Q grows by the residuals of the leading Ritz pairs, which
/// spans the same space as block Lanczos, keeps G Q beside Q so that residuals are exact, and is
/// restarted thickly with the leading Ritz vectors (Wu & Simon, SIAM J. Matrix Anal. 22(2), 2000),
/// among which converged pairs stay locked. Deterministic for a given seed, on every domain.
template <class Context, class Apply>
eigenpairs<Context> largest_eigenpairs(Context& c, index_t size, const Apply& apply,
                                       const eigen_options& options) {
  using view = typename Context::view;
  const index_t wanted = std::min(options.count, size);
  eigenpairs<Context> result;
  result.vectors = c.make(scalar_type::f64, size, wanted);
  if (wanted == 0) return result;

  // A few more columns than wanted converge faster (a gap behind the last wanted pair); eight
  // blocks amortise a restart while Q and G Q stay thin.
  const index_t block = std::min(size, wanted + 4);
  const index_t limit = std::min(size, 8 * block);
  auto q = c.make(scalar_type::f64, size, limit), gq = c.make(scalar_type::f64, size, limit);
  auto next = c.make(scalar_type::f64, size, block);
  c.from_host(detail::seeded_block(size, block, options.seed), next);
  Eigen::MatrixXd h(0, 0);  // Q^T G Q
  index_t used = 0, fresh = block;
  const auto columns = [&](view v, index_t first, index_t count) {
    return c.slice(v, 0, size, first, count);
  };

  while (true) {
    fresh = detail::orthonormalise(c, q, used, columns(next, 0, std::min(fresh, limit - used)));
    if (fresh > 0) {
      c.assign(columns(next, 0, fresh), columns(q, used, fresh));
      apply(columns(q, used, fresh), columns(gq, used, fresh));
      result.products += fresh;
      const Eigen::MatrixXd side =
          detail::small_product(c, columns(q, 0, used + fresh), columns(gq, used, fresh));
      h.conservativeResize(used + fresh, used + fresh);
      h.rightCols(fresh) = side;
      h.bottomRows(fresh) = side.transpose();
      h.bottomRightCorner(fresh, fresh) =
          0.5 * (side.bottomRows(fresh) + side.bottomRows(fresh).transpose()).eval();
      used += fresh;
    }
    if (!h.allFinite())
      throw error("an eigenproblem overflows, or its operator holds values that are not finite");
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> ritz(h);
    const index_t looked = std::min(used, block);
    const Eigen::MatrixXd s = ritz.eigenvectors().rightCols(looked).rowwise().reverse();
    const Eigen::VectorXd theta = ritz.eigenvalues().tail(looked).reverse();
    result.magnitude =
        std::max({result.magnitude, std::abs(ritz.eigenvalues()(0)), std::abs(theta(0))});

    // Residuals of the leading pairs: G Q s - Q s theta.
    const auto residuals = columns(next, 0, looked);
    detail::times_small(c, columns(gq, 0, used), s, residuals);
    auto vectors = c.make(scalar_type::f64, size, looked);
    detail::times_small(c, columns(q, 0, used), s, vectors);
    auto shifted = c.make(scalar_type::f64, size, looked);
    detail::times_small(c, vectors, theta.asDiagonal(), shifted);
    c.axpy(-1, shifted, residuals);
    const Eigen::VectorXd norms =
        detail::small_product(c, residuals, residuals).diagonal().cwiseSqrt();

    const double accept = options.tolerance * result.magnitude;
    const index_t have = std::min(wanted, looked);
    const double worst = have > 0 ? norms.head(have).maxCoeff() : 0;
    const bool done = worst <= accept || used == size || fresh == 0;
    if (done || result.products >= options.products) {
      result.converged = done;
      result.residual = result.magnitude > 0 ? worst / result.magnitude : 0;
      result.values.assign(theta.begin(), theta.begin() + have);
      c.assign(c.slice(typename Context::const_view(vectors), 0, size, 0, have), result.vectors);
      return result;
    }

    // Expand by the residuals that have not converged, the wanted pairs' first.
    fresh = 0;
    for (index_t j = 0; j < looked; ++j)
      if (norms(j) > accept) {
        if (fresh != j) c.assign(columns(next, j, 1), columns(next, fresh, 1));
        ++fresh;
      }
    if (used + fresh > limit) {
      // Thick restart: half the room for the leading Ritz vectors, whose images need no new
      // product.
      const index_t keep = std::min(used, std::max(looked, limit / 2));
      const Eigen::MatrixXd lead = ritz.eigenvectors().rightCols(keep).rowwise().reverse();
      auto rotated = c.make(scalar_type::f64, size, keep);
      for (view m : {view(q), view(gq)}) {
        detail::times_small(c, columns(m, 0, used), lead, rotated);
        c.assign(rotated, columns(m, 0, keep));
      }
      h = ritz.eigenvalues().tail(keep).reverse().asDiagonal();
      used = keep;
    }
  }
}

}  // namespace catmerge
