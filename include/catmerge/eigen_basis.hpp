// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/thin_blocks.hpp>

/// @file
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
  std::vector<double> values;        ///< descending; at most options.count
  typename Context::matrix vectors;  ///< size x values.size(), f64, orthonormal columns
  /// The Ritz values that come after them, descending: not converged, so from below.
  std::vector<double> after;
  double magnitude = 0;   ///< the largest |eigenvalue| that was seen
  double residual = 0;    ///< largest ||G v - theta v|| / magnitude
  index_t products = 0;   ///< products of G with a vector
  bool converged = true;  ///< false: the products were spent, `residual` says how far
};

namespace detail {

/// H = Q^T G Q of a growing basis Q, and its eigenpairs (Ritz values, and vectors in terms of Q).
template <class Matrix>
class ritz_problem {
 public:
  explicit ritz_problem(index_t limit) : h_(limit, limit) {}

  /// Q has grown by as many columns as `side` = Q^T G (new columns) has; symmetrised.
  void extend(const Matrix& side) {
    const index_t fresh = side.cols(), used = side.rows() - fresh;
    for (index_t j = 0; j < fresh; ++j) {
      for (index_t i = 0; i < used; ++i) h_(i, used + j) = h_(used + j, i) = side(i, j);
      for (index_t i = 0; i < fresh; ++i)
        h_(used + i, used + j) = 0.5 * (side(used + i, j) + side(used + j, i));
    }
    used_ = used + fresh;
  }

  /// Q has been replaced by its leading `keep` Ritz vectors.
  void restart(index_t keep) {
    for (index_t j = 0; j < keep; ++j)
      for (index_t i = 0; i < keep; ++i) h_(i, j) = i == j ? value(j) : 0;
    used_ = keep;
  }

  void solve() {
    Matrix h(used_, used_);
    for (index_t j = 0; j < used_; ++j)
      for (index_t i = 0; i < used_; ++i) {
        h(i, j) = h_(i, j);
        if (!std::isfinite(h(i, j)))
          throw error(
              "an eigenproblem overflows, or its operator holds values that are not finite");
      }
    pairs_ = solve_symmetric(h);
  }

  index_t used() const { return used_; }

  /// The Ritz values, descending.
  double value(index_t j) const {
    return pairs_.values[pairs_.values.size() - 1 - static_cast<std::size_t>(j)];
  }
  double smallest() const { return pairs_.values.front(); }

  /// The leading Ritz vectors as combinations of Q's columns, used x count; times their values if
  /// `scaled`.
  Matrix leading(index_t count, bool scaled = false) const {
    const index_t n = pairs_.vectors.rows();
    Matrix s(n, count);
    for (index_t j = 0; j < count; ++j)
      for (index_t i = 0; i < n; ++i)
        s(i, j) = pairs_.vectors(i, n - 1 - j) * (scaled ? value(j) : 1);
    return s;
  }

 private:
  Matrix h_;
  index_t used_ = 0;
  symmetric_pairs pairs_;
};

}  // namespace detail

/// The options.count largest (signed) eigenpairs of a symmetric operator of the given size.
///
/// apply(x, y) writes G x to y for thin f64 blocks (size x b). Throws catmerge::error where what it
/// writes is not finite. The method is block Krylov with
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
  detail::ritz_problem<Eigen::MatrixXd> ritz(limit);
  index_t fresh = block;
  const auto columns = [&](view v, index_t first, index_t count) {
    return c.slice(v, 0, size, first, count);
  };

  while (true) {
    const index_t before = ritz.used();
    fresh = detail::orthonormalise(c, q, before, columns(next, 0, std::min(fresh, limit - before)));
    if (fresh > 0) {
      c.assign(columns(next, 0, fresh), columns(q, before, fresh));
      apply(columns(q, before, fresh), columns(gq, before, fresh));
      result.products += fresh;
      ritz.extend(
          detail::small_product(c, columns(q, 0, before + fresh), columns(gq, before, fresh)));
    }
    ritz.solve();
    const index_t used = ritz.used(), looked = std::min(used, block);
    result.magnitude =
        std::max({result.magnitude, std::abs(ritz.smallest()), std::abs(ritz.value(0))});

    // Residuals of the leading pairs: G Q s - Q s theta.
    const auto residuals = columns(next, 0, looked);
    detail::times_small(c, columns(gq, 0, used), ritz.leading(looked), residuals);
    detail::times_small(c, columns(q, 0, used), ritz.leading(looked, true), residuals, -1, 1);
    const Eigen::MatrixXd squares = detail::small_product(c, residuals, residuals);
    const auto norm = [&](index_t j) { return std::sqrt(squares(j, j)); };

    const double accept = options.tolerance * result.magnitude;
    const index_t have = std::min(wanted, looked);
    double worst = 0;
    for (index_t j = 0; j < have; ++j) worst = std::max(worst, norm(j));
    const bool done = worst <= accept || used == size || fresh == 0;
    if (done || result.products >= options.products) {
      result.converged = worst <= accept || used == size;
      result.residual = result.magnitude > 0 ? worst / result.magnitude : 0;
      for (index_t j = 0; j < have; ++j) result.values.push_back(ritz.value(j));
      for (index_t j = have; j < looked; ++j) result.after.push_back(ritz.value(j));
      detail::times_small(c, columns(q, 0, used), ritz.leading(have),
                          c.slice(view(result.vectors), 0, size, 0, have));
      return result;
    }

    // Expand by the residuals that have not converged, the wanted pairs' first.
    fresh = 0;
    for (index_t j = 0; j < looked; ++j)
      if (norm(j) > accept) {
        if (fresh != j) c.assign(columns(next, j, 1), columns(next, fresh, 1));
        ++fresh;
      }
    if (used + fresh > limit) {
      // Thick restart: half the room for the leading Ritz vectors, whose images need no new
      // product.
      const index_t keep = std::min(used, std::max(looked, limit / 2));
      const Eigen::MatrixXd lead = ritz.leading(keep);
      auto rotated = c.make(scalar_type::f64, size, keep);
      for (view m : {view(q), view(gq)}) {
        detail::times_small(c, columns(m, 0, used), lead, rotated);
        c.assign(rotated, columns(m, 0, keep));
      }
      ritz.restart(keep);
    }
  }
}

}  // namespace catmerge
