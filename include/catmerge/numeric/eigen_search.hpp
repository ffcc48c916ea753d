// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/numeric/eigen_options.hpp>
#include <catmerge/numeric/thin_blocks.hpp>
#include <optional>

/// @file
/// The few largest eigenpairs of a symmetric matrix that is known only by its products.
namespace catmerge {

/// Eigenpairs, largest eigenvalue first.
template <class Context>
struct eigenpairs {
  std::vector<double> values;        ///< descending; at most the count asked for
  typename Context::matrix vectors;  ///< size x values.size(), f64, orthonormal columns
  /// The next Ritz values, descending. They are not converged: lower bounds.
  std::vector<double> after;
  double magnitude = 0;   ///< the largest |eigenvalue| that was seen
  double residual = 0;    ///< largest ||G v - theta v|| / magnitude
  index_t products = 0;   ///< products of G with a vector
  bool converged = true;  ///< false: the products were spent; see `residual`
};

namespace detail {

/// H = Q G Q^T of a growing basis, the rows of Q, and its eigenpairs (Ritz values, and vectors in
/// terms of Q).
template <class Matrix>
class ritz_problem {
 public:
  /// Adds new rows to Q, one per column of `side` = Q (new rows G)^T. Symmetrises H.
  void extend(const Matrix& side) {
    const index_t fresh = side.cols(), used = side.rows() - fresh;
    Matrix h(used + fresh, used + fresh);
    for (index_t j = 0; j < used; ++j)
      for (index_t i = 0; i < used; ++i) h(i, j) = h_(i, j);
    for (index_t j = 0; j < fresh; ++j) {
      for (index_t i = 0; i < used; ++i) h(i, used + j) = h(used + j, i) = side(i, j);
      for (index_t i = 0; i < fresh; ++i)
        h(used + i, used + j) = 0.5 * (side(used + i, j) + side(used + j, i));
    }
    h_ = std::move(h);
  }

  /// Replaces Q by its leading `keep` Ritz vectors.
  void restart(index_t keep) {
    h_ = Matrix(keep, keep);
    for (index_t j = 0; j < keep; ++j)
      for (index_t i = 0; i < keep; ++i) h_(i, j) = i == j ? value(j) : 0;
    solve();
  }

  void solve() {
    for (index_t e = 0; e < h_.size(); ++e)
      if (!std::isfinite(h_.data()[e]))
        throw error("an eigenproblem overflows, or its operator holds values that are not finite");
    pairs_ = solve_symmetric(h_);
  }

  /// The Ritz values, descending.
  double value(index_t j) const {
    return pairs_.values[pairs_.values.size() - 1 - static_cast<std::size_t>(j)];
  }
  double smallest() const { return pairs_.values.front(); }

  /// The leading Ritz vectors as combinations of Q's rows, count x used; times their values if
  /// `scaled`.
  Matrix leading(index_t count, bool scaled = false) const {
    const index_t n = pairs_.vectors.rows();
    Matrix s(count, n);
    for (index_t j = 0; j < count; ++j)
      for (index_t i = 0; i < n; ++i)
        s(j, i) = pairs_.vectors(i, n - 1 - j) * (scaled ? value(j) : 1);
    return s;
  }

 private:
  Matrix h_;
  symmetric_pairs pairs_;
};

}  // namespace detail

/// The search for the `count` largest (signed) eigenpairs of a symmetric matrix G of the
/// given size, in steps, so that searches for several matrices can share their products:
///
///     while (!search.done()) { ... search.product() = search.block() G ...; search.advance(); }
///
/// Blocks are f64, b x size, every row a vector. The method is block Krylov with Rayleigh-Ritz
/// projection. The basis Q grows by the residuals of the leading Ritz pairs, which spans the same
/// space as block Lanczos. Q G is kept beside Q, so that residuals are exact. Thick restarts keep
/// the leading Ritz vectors (Wu & Simon, SIAM J. Matrix Anal. 22(2), 2000); converged pairs stay
/// locked among them. Deterministic for a given seed, on every domain.
template <class Context>
class eigen_search {
  using view = typename Context::view;
  using const_view = typename Context::const_view;
  using matrix = typename Context::matrix;

 public:
  /// Begins with the rows of `start`, or with a block made from the seed. `magnitude`: the largest
  /// |eigenvalue| known before. `c` must outlive the search.
  eigen_search(Context& c, index_t size, index_t count, const eigen_options& options,
               const std::optional<const_view>& start = {}, double magnitude = 0)
      : c_(&c),
        size_(size),
        options_(options),
        wanted_((std::min)(count, size)),
        // One column per wanted pair: a wider block takes more products to the same residual. (Four
        // at least: fewer make less use of each pass over a matrix.)
        block_((std::min)(size, (std::max<index_t>)(wanted_, 4))),
        // A basis of this size seldom needs a restart, which costs products. (CAT's layers take 30
        // to 100, and some 200 where tasks have similar features: with restarts at 96 that would be
        // 400 to 900.)
        limit_((std::min)(size, (std::max<index_t>)(8 * block_, 256))),
        magnitude_(magnitude) {
    if (options_.tolerance == 0) options_.tolerance = default_tolerance(scalar_type::f64);
    if (wanted_ == 0) return;
    const index_t first = start ? (std::min)(c.rows(*start), limit_) : block_;
    grow((std::max)(first, block_));
    if (start)
      c.assign(c.slice(*start, 0, first, 0, size_), rows(*q_, 0, first));
    else
      c.from_host(detail::seeded_block(block_, size_, options_.seed), rows(*q_, 0, first));
    fresh_ = detail::orthonormalise(c, *q_, 0, rows(*q_, 0, first));
    converged_ = false;
  }

  /// True if no product is left to compute.
  bool done() const { return fresh_ == 0; }

  /// The block to multiply by G: b x size, with orthonormal rows.
  const_view block() { return rows(*q_, used_, fresh_); }
  /// The place for the product, of the same shape.
  view product() { return rows(*gq_, used_, fresh_); }

  /// Processes the product. Throws catmerge::error if it is not finite.
  void advance() {
    products_ += fresh_;
    ritz_.extend(detail::small_product(*c_, rows(*q_, 0, used_ + fresh_), product()));
    used_ += fresh_;
    look();
  }

  double magnitude() const { return magnitude_; }  ///< as in result()
  double residual() const { return residual_; }    ///< likewise
  index_t products() const { return products_; }   ///< likewise

  /// The leading Ritz vectors, at most as many as are wanted, as the rows of a matrix.
  matrix leading() { return ritz_vectors(wanted_); }

  /// The Ritz vectors that a restart keeps, likewise: a good start of another search.
  matrix kept() { return ritz_vectors(restart_size()); }

  /// The eigenpairs found.
  eigenpairs<Context> result() {
    const index_t have = (std::min)(wanted_, used_), seen = (std::min)(have + 4, used_);
    eigenpairs<Context> found;
    for (index_t j = 0; j < have; ++j) found.values.push_back(ritz_.value(j));
    for (index_t j = have; j < seen; ++j) found.after.push_back(ritz_.value(j));
    found.vectors = c_->make(scalar_type::f64, size_, have);
    if (have > 0) c_->transpose(leading(), found.vectors);
    found.magnitude = magnitude_;
    found.residual = residual_;
    found.products = products_;
    found.converged = converged_;
    return found;
  }

 private:
  view rows(matrix& m, index_t first, index_t count) {
    return c_->slice(view(m), first, count, 0, size_);
  }

  matrix ritz_vectors(index_t count) {
    const index_t have = (std::min)(count, used_);
    auto lead = c_->make(scalar_type::f64, have, size_);
    if (have > 0) detail::times_small(*c_, ritz_.leading(have), rows(*q_, 0, used_), lead);
    return lead;
  }

  /// Room for `count` rows.
  void grow(index_t count) {
    const index_t room = q_ ? c_->rows(*q_) : 0;
    if (count <= room) return;
    const index_t wider = (std::min)(limit_, (std::max)(count, 2 * room));
    for (auto* m : {&q_, &gq_}) {
      auto larger = c_->make(scalar_type::f64, wider, size_);
      if (used_ > 0) c_->assign(rows(**m, 0, used_), rows(larger, 0, used_));
      *m = std::move(larger);
    }
  }

  /// Rayleigh-Ritz: accepts the leading pairs, or makes the next block of their residuals.
  void look() {
    fresh_ = 0;
    ritz_.solve();
    magnitude_ = (std::max)({magnitude_, std::abs(ritz_.smallest()), std::abs(ritz_.value(0))});

    // Residuals of the leading pairs: s Q G - theta s Q.
    const index_t looked = (std::min)(used_, block_), have = (std::min)(wanted_, looked);
    auto residuals = c_->make(scalar_type::f64, looked, size_);
    detail::times_small(*c_, ritz_.leading(looked), rows(*gq_, 0, used_), residuals);
    detail::times_small(*c_, ritz_.leading(looked, true), rows(*q_, 0, used_), residuals, -1, 1);
    const small_matrix squares = detail::small_product(*c_, residuals, residuals);
    const auto norm = [&](index_t j) { return std::sqrt(squares(j, j)); };
    const double accept = options_.tolerance * magnitude_;
    double worst = 0;
    for (index_t j = 0; j < have; ++j) worst = (std::max)(worst, norm(j));
    residual_ = magnitude_ > 0 ? worst / magnitude_ : 0;
    converged_ = (worst <= accept && have == wanted_) || used_ == size_;
    if (converged_ || products_ >= options_.products) return;

    // Expand by the residuals that have not converged, the wanted pairs' first.
    index_t count = 0;
    for (index_t j = 0; j < looked; ++j)
      if (norm(j) > accept) {
        if (count != j) c_->assign(rows(residuals, j, 1), rows(residuals, count, 1));
        ++count;
      }
    if (used_ + count > limit_ && limit_ < size_) restart();  // else this is the whole space
    count = (std::min)(count, limit_ - used_);
    grow(used_ + count);
    count = detail::orthonormalise(*c_, *q_, used_, rows(residuals, 0, count));
    if (count > 0) c_->assign(rows(residuals, 0, count), rows(*q_, used_, count));
    fresh_ = count;  // none: the space cannot grow, the current pairs are the result
    if (fresh_ == 0) converged_ = worst <= accept;
  }

  /// How many Ritz vectors outlive a restart: an eighth of the room. (With half of it searches that
  /// restart take up to twice as many products.)
  index_t restart_size() const { return (std::max)(2 * block_, limit_ / 8); }

  /// Thick restart with the leading Ritz vectors, whose images need no new product.
  void restart() {
    const index_t keep = (std::min)(used_, restart_size());
    const small_matrix lead = ritz_.leading(keep);
    auto rotated = c_->make(scalar_type::f64, keep, size_);
    for (matrix* m : {&*q_, &*gq_}) {
      detail::times_small(*c_, lead, rows(*m, 0, used_), rotated);
      c_->assign(rotated, rows(*m, 0, keep));
    }
    ritz_.restart(keep);
    used_ = keep;
  }

  Context* c_;
  index_t size_;
  eigen_options options_;
  index_t wanted_, block_, limit_;
  detail::ritz_problem<small_matrix> ritz_;
  std::optional<matrix> q_, gq_;  // rows: the basis Q and Q G, then the next block and its product
  index_t used_ = 0, fresh_ = 0, products_ = 0;
  double magnitude_, residual_ = 0;
  bool converged_ = true;
};

/// The `count` largest (signed) eigenpairs of a symmetric operator of the given size.
///
/// apply(x, y) writes x G to y for thin f64 blocks (b x size, every row a vector). Throws
/// catmerge::error if y is not finite then. The method is that of eigen_search.
template <class Context, class Apply>
eigenpairs<Context> largest_eigenpairs(Context& c, index_t size, index_t count, const Apply& apply,
                                       const eigen_options& options = {}) {
  eigen_search<Context> search(c, size, count, options);
  while (!search.done()) {
    apply(search.block(), search.product());
    search.advance();
  }
  return search.result();
}

}  // namespace catmerge
