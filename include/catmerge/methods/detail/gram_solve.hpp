// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/merge/vectors.hpp>
#include <catmerge/numeric/diagonal.hpp>
#include <catmerge/numeric/gram_eigen.hpp>
#include <catmerge/numeric/positive_solve.hpp>
#include <catmerge/numeric/strips.hpp>
#include <functional>
#include <vector>

/// The mean of task vectors weighted by Gram matrices: the kernel of LOT, RegMean and WUDI.
namespace catmerge::detail {

/// S = weight X^T X + diag(diagonal), d_in x d_in, by its terms.
template <class Context>
struct weighted_gram {
  typename Context::const_view data;  ///< X, m x d_in, or X^T X, d_in x d_in
  bool formed = false;                ///< true if data is X^T X
  double weight = 1;                  ///< at least 0
  std::vector<double> diagonal{};     ///< d_in numbers, or none
};

/// The largest relative error of storing a number in this type.
constexpr double unit_roundoff(scalar_type type) {
  switch (type) {
    case scalar_type::f64: return 0x1p-53;
    case scalar_type::f32: return 0x1p-24;
    case scalar_type::f16: return 0x1p-11;
    case scalar_type::bf16: return 0x1p-8;
  }
  return 0;
}

/// The share of the way to the minimiser along the eigenvectors of sum_k S_k, by their eigenvalues:
/// ascending, above rounding noise.
using spectral_filter = std::function<std::vector<double>(const std::vector<double>&)>;

/// tau += (sum_k T_k S_k)(sum_k S_k)^+, the minimiser of sum_k tr((tau - T_k) S_k (tau - T_k)^T) of
/// smallest norm, computed in double; or the minimiser with a ridge towards a prior.
template <class Context>
class gram_solver {
  using matrix = typename Context::matrix;
  using view = typename Context::view;
  using const_view = typename Context::const_view;

 public:
  /// vectors: T_k, d_out x d_in; grams: S_k, one for each. Their data must outlive the solver.
  gram_solver(Context& c, vector_list<Context> vectors, std::vector<weighted_gram<Context>> grams)
      : c_(c),
        vectors_(vectors),
        grams_(std::move(grams)),
        d_out_(c.rows(vectors.front())),
        d_in_(c.columns(vectors.front())) {}

  /// Adds the result to tau. Returns false and leaves tau unchanged if sum_k S_k is zero. If all
  /// S_k consist of rows alone, fewer than d_in in all, the eigenproblem is that of X X^T, X all
  /// the rows, instead of X^T X. Both have the same nonzero eigenvalues and the same cut.
  bool add_to(const view& tau) {
    return rows() < d_in_ ? add_from_rows(tau) : add_from_grams(tau, nullptr);
  }

  /// The same with a ridge towards a prior P, d_out x d_in, which must outlive the call:
  ///
  ///     tau += (sum_k T_k S_k + mu P)(sum_k S_k + mu I)^-1
  ///          = P + (sum_k (T_k - P) S_k)(sum_k S_k + mu I)^-1,   mu = share tr(sum_k S_k) / d_in
  ///
  /// by the second line. share: at least 0; for 0 the inverse is the pseudo-inverse. Directions of
  /// zero eigenvalue keep P.
  bool add_with_ridge(const const_view& prior, double share, const view& tau) {
    prior_ = &prior;
    share_ = share;
    const bool added = add_to(tau);
    if (added) c_.axpy(1, prior, tau);
    prior_ = nullptr;
    return added;
  }

  /// Moves tau towards the minimiser: along each eigenvector of sum_k S_k = V diag(l) V^T by the
  /// filter's share f of the way,
  ///
  ///     tau += (sum_k (T_k - tau) S_k) V diag(f / l) V^T
  ///
  /// Returns false and leaves tau unchanged if sum_k S_k is zero.
  bool move(const view& tau, spectral_filter filter) {
    const const_view start = tau;
    prior_ = &start;
    filter_ = std::move(filter);
    const bool moved = add_to(tau);
    prior_ = nullptr;
    return moved;
  }

  /// add_to, then subtracts `base` outside the span of sum_k S_k. The result is the mean of base +
  /// T_k, minus base.
  bool add_without(const const_view& base, const view& tau) { return add_from_grams(tau, &base); }

 private:
  matrix make(index_t rows, index_t columns) { return c_.make(scalar_type::f64, rows, columns); }

  /// The number of rows in all S_k; d_in if they do not consist of rows alone.
  index_t rows() {
    index_t total = 0;
    for (const auto& s : grams_) {
      if (s.formed || !s.diagonal.empty()) return d_in_;
      total += c_.rows(s.data);
    }
    return total;
  }

  /// Calls f(T_k), or f(T_k - P) with a prior.
  template <class F>
  void with_vector(std::size_t k, const F& f) {
    if (prior_ == nullptr) return f(vectors_[k]);
    auto residual = make(d_out_, d_in_);
    c_.subtract(vectors_[k], *prior_, residual);
    f(residual);
  }

  /// y = y (gram + mu I)^-1 by a factorisation, a fifth of the time of eigenvalues, if no
  /// eigenvalue can be small enough to count as zero: all are at least `least` + mu. Their
  /// condition is then 1e9 at most. Else returns false, and y is unchanged.
  bool divide(const view& gram, double least, double noise, const view& y) {
    const index_t n = c_.rows(gram);
    auto entries = make(n, 1);
    c_.add_diagonal(1, gram, entries);
    const double trace = c_.to_host(entries).sum();
    const double mu = prior_ == nullptr ? 0 : share_ * trace / static_cast<double>(d_in_);
    if (filter_ || !(least + mu >= 1e-9 * trace) || !(least + mu > noise) || trace == 0)
      return false;
    auto factored = make(n, n);
    c_.assign(gram, factored);
    add_to_diagonal<Context>(c_, std::vector<double>(static_cast<std::size_t>(n), mu), factored);
    return divide_by_positive(c_, factored, y);
  }

  /// The eigenpairs of a Gram matrix, which is overwritten, with mu added to the values.
  gram_pairs pairs_of(const view& gram, double noise) {
    gram_pairs pairs = eigen_of_gram(c_, gram, d_in_, c_.rows(gram), noise);
    if (prior_ == nullptr) return pairs;
    double trace = 0;
    for (const double x : pairs.values) trace += x;
    for (double& x : pairs.values) x += share_ * trace / static_cast<double>(d_in_);
    return pairs;
  }

  /// X: all rows, each times the root of its weight; Y = [T_1 X_1^T ... T_K X_K^T]. Then sum_k T_k
  /// S_k = Y X and X (X^T X + mu I)^+ = (X X^T + mu I)^+ X.
  bool add_from_rows(const view& tau) {
    const index_t all = rows();
    auto x = make(all, d_in_), y = make(d_out_, all), gram = make(all, all);
    for (index_t k = 0, row = 0; k < std::ssize(grams_); ++k) {
      const auto& s = grams_[static_cast<std::size_t>(k)];
      const index_t n = c_.rows(s.data);
      const view part = c_.slice(view(x), row, n, 0, d_in_);
      c_.assign(s.data, part);
      if (s.weight != 1) c_.scale(std::sqrt(s.weight), part);
      with_vector(static_cast<std::size_t>(k), [&](const const_view& t) {
        c_.multiply(1, t, op::none, part, op::transpose, 0, c_.slice(view(y), 0, d_out_, row, n));
      });
      row += n;
    }
    c_.multiply(1, x, op::none, x, op::transpose, 0, gram);
    if (!divide(gram, 0, 0, y)) {
      const auto pairs = pairs_of(gram, 0);
      if (pairs.values.empty()) return false;
      apply_inverse(pairs, gram, y);
    }
    auto result = make(d_out_, d_in_);
    c_.multiply(1, y, op::none, x, op::none, 0, result);
    c_.axpy(1, result, tau);
    return true;
  }

  bool add_from_grams(const view& tau, const const_view* base) {
    auto sum = make(d_in_, d_in_), weighted = make(d_out_, d_in_);
    double noise = 0;
    std::vector<double> diagonal;
    for (std::size_t k = 0; k < grams_.size(); ++k) {
      const auto& s = grams_[k];
      with_vector(k, [&](const const_view& t) {
        if (s.weight > 0) add_gram(s, t, sum, weighted, noise);
        if (s.diagonal.empty()) return;
        auto scaled = make(d_out_, d_in_);
        c_.assign(t, scaled);
        c_.scale_columns(s.diagonal, scaled);
        c_.axpy(1, scaled, weighted);
      });
      if (s.diagonal.empty()) continue;
      diagonal.resize(s.diagonal.size());
      for (std::size_t j = 0; j < diagonal.size(); ++j) diagonal[j] += s.diagonal[j];
    }
    if (!diagonal.empty()) add_to_diagonal<Context>(c_, diagonal, sum);
    // Gram matrices have no negative eigenvalues: those of the sum are at least its added diagonal.
    const double least = diagonal.empty() ? 0 : *std::min_element(diagonal.begin(), diagonal.end());
    if (divide(sum, least, noise, weighted)) {
      c_.axpy(1, weighted, tau);
      return true;
    }
    const auto pairs = pairs_of(sum, noise);
    if (pairs.values.empty()) return false;
    apply_inverse(pairs, sum, weighted);
    if (base != nullptr && pairs.first > 0) {
      const const_view outside = c_.slice(const_view(sum), 0, d_in_, 0, pairs.first);
      auto lost = make(d_out_, pairs.first);
      c_.multiply(1, *base, op::none, outside, op::none, 0, lost);
      c_.multiply(-1, lost, op::none, outside, op::transpose, 1, weighted);
    }
    c_.axpy(1, weighted, tau);
    return true;
  }

  /// sum += weight X^T X; weighted += weight T X^T X, without forming X^T X for few rows. `noise`
  /// grows by a bound on the shift of an eigenvalue by the rounding of a given X^T X to its type:
  /// the norm of the rounding errors.
  void add_gram(const weighted_gram<Context>& s, const const_view& t, const view& sum,
                const view& weighted, double& noise) {
    if (s.formed) {
      if (c_.type(s.data) != scalar_type::f64)
        noise += s.weight * unit_roundoff(c_.type(s.data)) * std::sqrt(c_.squared_norm(s.data));
      c_.axpy(s.weight, s.data, sum);
      c_.multiply(s.weight, t, op::none, s.data, op::none, 1, weighted);
    } else if (c_.rows(s.data) > d_in_) {
      auto gram = make(d_in_, d_in_);
      c_.multiply(1, s.data, op::transpose, s.data, op::none, 0, gram);
      c_.axpy(s.weight, gram, sum);
      c_.multiply(s.weight, t, op::none, gram, op::none, 1, weighted);
    } else {
      auto image = make(d_out_, c_.rows(s.data));
      c_.multiply(1, t, op::none, s.data, op::transpose, 0, image);
      c_.multiply(s.weight, s.data, op::transpose, s.data, op::none, 1, sum);
      c_.multiply(s.weight, image, op::none, s.data, op::none, 1, weighted);
    }
  }

  /// y = y times the pseudo-inverse of the matrix with these eigenpairs, or y V diag(f / l) V^T.
  /// Scales the kept vectors.
  void apply_inverse(const gram_pairs& pairs, const view& vectors, const view& y) {
    const index_t n = std::ssize(pairs.values);
    const view roots = c_.slice(vectors, 0, c_.rows(vectors), pairs.first, n);
    std::vector<double> factors = inverse_roots(pairs.values);
    if (filter_) {
      const auto shares = filter_(pairs.values);
      for (std::size_t j = 0; j < factors.size(); ++j) factors[j] *= std::sqrt(shares[j]);
    }
    c_.scale_columns(factors, roots);
    for_strips(c_, y, [&](const auto& strip) {
      auto along = make(strip.rows, n);
      c_.multiply(1, strip(y), op::none, roots, op::none, 0, along);
      c_.multiply(1, along, op::none, roots, op::transpose, 0, strip(y));
    });
  }

  Context& c_;
  vector_list<Context> vectors_;
  std::vector<weighted_gram<Context>> grams_;
  index_t d_out_, d_in_;
  const const_view* prior_ = nullptr;  // in add_with_ridge and move
  double share_ = 0;
  spectral_filter filter_{};
};

}  // namespace catmerge::detail
