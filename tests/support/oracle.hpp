// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

/// The method written a second time, straight from its formulas: long double, plain loops, nothing
/// of catmerge. Slow, and meant to be read beside the paper.
namespace oracle {

using real = long double;
using matrix = Eigen::Matrix<real, Eigen::Dynamic, Eigen::Dynamic>;
using size = std::ptrdiff_t;

inline std::size_t at(size i) {
  return static_cast<std::size_t>(i);
}

template <class M>
matrix exact(const M& m) {
  matrix r(m.rows(), m.cols());
  for (size j = 0; j < m.cols(); ++j)
    for (size i = 0; i < m.rows(); ++i) r(i, j) = static_cast<real>(static_cast<double>(m(i, j)));
  return r;
}

template <class Range>
std::vector<matrix> exact_all(const Range& range) {
  std::vector<matrix> all;
  for (const auto& m : range) all.push_back(exact(m));
  return all;
}

inline matrix times(const matrix& a, const matrix& b) {
  matrix r = matrix::Zero(a.rows(), b.cols());
  for (size j = 0; j < b.cols(); ++j)
    for (size k = 0; k < a.cols(); ++k)
      for (size i = 0; i < a.rows(); ++i) r(i, j) += a(i, k) * b(k, j);
  return r;
}

inline matrix flip(const matrix& a) {
  matrix r(a.cols(), a.rows());
  for (size j = 0; j < a.cols(); ++j)
    for (size i = 0; i < a.rows(); ++i) r(j, i) = a(i, j);
  return r;
}

inline real energy(const matrix& a) {
  real sum = 0;
  for (size j = 0; j < a.cols(); ++j)
    for (size i = 0; i < a.rows(); ++i) sum += a(i, j) * a(i, j);
  return sum;
}

inline matrix minus(const matrix& a, const matrix& b) {
  matrix r(a.rows(), a.cols());
  for (size j = 0; j < a.cols(); ++j)
    for (size i = 0; i < a.rows(); ++i) r(i, j) = a(i, j) - b(i, j);
  return r;
}

inline matrix plus(const matrix& a, real alpha, const matrix& b) {
  matrix r(a.rows(), a.cols());
  for (size j = 0; j < a.cols(); ++j)
    for (size i = 0; i < a.rows(); ++i) r(i, j) = a(i, j) + alpha * b(i, j);
  return r;
}

// Layers on their inputs, row by row. Stored weights are d_out x d_in.
enum class kind { linear, scale, shift };

inline matrix forward(kind what, const matrix& x, const matrix& w) {
  if (what == kind::linear) return times(x, flip(w));
  matrix y(x.rows(), x.cols());
  for (size j = 0; j < x.cols(); ++j)
    for (size i = 0; i < x.rows(); ++i)
      y(i, j) = what == kind::scale ? x(i, j) * w(j, 0) : x(i, j) + w(j, 0);
  return y;
}

/// ||f(X; W + T) - f(X; W)||^2, by evaluating the layer twice.
inline real feature_shift(kind what, const matrix& x, const matrix& w, const matrix& t) {
  return energy(minus(forward(what, x, plus(w, 1, t)), forward(what, x, w)));
}

/// Eq. 8 for a given trim, by brute force on feature matrices: `trimmed` holds Phi_k(T_i).
inline real eq8(kind what, size k, const std::vector<matrix>& vectors,
                const std::vector<matrix>& trimmed, const std::vector<matrix>& features,
                real lambda, bool mean = false) {
  real value = 0;
  for (size i = 0; i < static_cast<size>(vectors.size()); ++i) {
    if (i == k) continue;
    const matrix zero = matrix::Zero(vectors[at(i)].rows(), vectors[at(i)].cols());
    real conflict = feature_shift(what, features[at(k)], zero, trimmed[at(i)]);
    real deviation =
        feature_shift(what, features[at(i)], zero, minus(vectors[at(i)], trimmed[at(i)]));
    if (mean) {
      conflict /= static_cast<real>(features[at(k)].rows());
      deviation /= static_cast<real>(features[at(i)].rows());
    }
    value += conflict + lambda * deviation;
  }
  return value;
}

/// (I - B B^T), formed.
inline matrix projector(const matrix& b) {
  const matrix bbt = times(b, flip(b));
  matrix p = matrix::Zero(b.rows(), b.rows());
  for (size i = 0; i < p.rows(); ++i) p(i, i) = 1;
  return minus(p, bbt);
}

/// B B^T, in double.
inline Eigen::MatrixXd onto(const matrix& b) {
  return times(b, flip(b)).cast<double>();
}

/// Eq. 8 of the projection by B.
inline real eq8_of_basis(size k, const std::vector<matrix>& vectors,
                         const std::vector<matrix>& features, real lambda, const matrix& b,
                         bool mean = false) {
  std::vector<matrix> trimmed;
  for (const auto& t : vectors) trimmed.push_back(times(projector(b), t));
  return eq8(kind::linear, k, vectors, trimmed, features, lambda, mean);
}

/// G_k in the stored layout, sum_{i != k} T_i (X_k^T X_k - lambda X_i^T X_i) T_i^T, symmetrised.
inline matrix gram(size k, const std::vector<matrix>& vectors, const std::vector<matrix>& features,
                   real lambda, bool mean = false) {
  const size d = vectors[0].rows();
  matrix g = matrix::Zero(d, d);
  const auto s = [&](size i) {
    const matrix& x = features[at(i)];
    matrix r = times(flip(x), x);
    if (mean && x.rows() > 0) r /= static_cast<real>(x.rows());
    return r;
  };
  for (size i = 0; i < static_cast<size>(vectors.size()); ++i) {
    if (i == k) continue;
    const matrix middle = plus(s(k), -lambda, s(i));
    g = plus(g, 1, times(times(vectors[at(i)], middle), flip(vectors[at(i)])));
  }
  return plus(g, 1, flip(g)) / real(2);
}

/// The same in the paper's layout, W = T^T (d_in x d_out): sum W_i^T (...) W_i.
inline matrix gram_paper_layout(size k, const std::vector<matrix>& weights,
                                const std::vector<matrix>& features, real lambda) {
  const size d = weights[0].cols();
  matrix g = matrix::Zero(d, d);
  for (size i = 0; i < static_cast<size>(weights.size()); ++i) {
    if (i == k) continue;
    const matrix own = times(features[at(i)], weights[at(i)]);    // X_i W_i
    const matrix other = times(features[at(k)], weights[at(i)]);  // X_k W_i
    g = plus(g, 1, times(flip(other), other));
    g = plus(g, -lambda, times(flip(own), own));
  }
  return g;
}

struct spectrum {
  std::vector<real> values;  // largest first
  matrix vectors;            // the same order
};

inline spectrum decompose(const matrix& g) {
  const Eigen::SelfAdjointEigenSolver<matrix> solver(g);
  spectrum s;
  const size d = g.rows();
  s.vectors = matrix(d, d);
  for (size j = 0; j < d; ++j) {
    s.values.push_back(solver.eigenvalues()(d - 1 - j));
    s.vectors.col(j) = solver.eigenvectors().col(d - 1 - j);
  }
  return s;
}

/// The c leading eigenvectors; of those only the positive ones unless told otherwise.
inline matrix leading(const spectrum& s, size c, bool positive_only = true) {
  size take = std::min<size>(c, s.vectors.cols());
  const real threshold =
      real(1e-12) * std::max(std::abs(s.values.front()), std::abs(s.values.back()));
  if (positive_only)
    while (take > 0 && s.values[at(take - 1)] <= threshold) --take;
  return s.vectors.leftCols(take);
}

/// The gap behind the c-th eigenvalue that is taken, relative to ||G||: what decides how well B B^T
/// is defined.
inline double gap(const spectrum& s, size taken) {
  const real norm = std::max(std::abs(s.values.front()), std::abs(s.values.back()));
  if (taken == 0 || taken == static_cast<size>(s.values.size())) return 1;
  return static_cast<double>((s.values[at(taken - 1)] - s.values[at(taken)]) / norm);
}

struct options {
  real alpha = real(0.4);
  real lambda = 5;
  size rank = 4;
  bool positive_only = true;
  bool joint = false;
  bool mean = false;
  bool rescale = false;
};

struct result {
  matrix merged;
  std::vector<matrix> trimmed;
  std::vector<matrix> bases;
  double gap = 1;  // the smallest of all tasks'
};

/// (I - P) T with P the projector on the span of all columns, by Gram-Schmidt done twice.
inline matrix without_span(const matrix& columns, matrix t) {
  matrix q(columns.rows(), 0);
  for (size j = 0; j < columns.cols(); ++j) {
    matrix v = columns.col(j);
    const real before = std::sqrt(energy(v));
    for (int pass = 0; pass < 2; ++pass) v = minus(v, times(q, times(flip(q), v)));
    const real length = std::sqrt(energy(v));
    if (length < real(1e-9) * before) continue;
    q.conservativeResize(Eigen::NoChange, q.cols() + 1);
    q.col(q.cols() - 1) = v / length;
  }
  return minus(t, times(q, times(flip(q), t)));
}

inline matrix combine(const matrix& base, real alpha, const std::vector<matrix>& vectors) {
  matrix merged = base;
  for (const auto& t : vectors) merged = plus(merged, alpha, t);
  return merged;
}

/// CAT Merging of one linear weight.
inline result cat_linear(const matrix& base, const std::vector<matrix>& experts,
                         const std::vector<matrix>& features, const options& o) {
  result r;
  std::vector<matrix> vectors;
  for (const auto& e : experts) vectors.push_back(minus(e, base));
  const auto tasks = static_cast<size>(vectors.size());
  for (size k = 0; k < tasks; ++k) {
    const spectrum s = decompose(gram(k, vectors, features, o.lambda, o.mean));
    r.bases.push_back(leading(s, o.rank, o.positive_only));
    r.gap = std::min(r.gap, gap(s, r.bases.back().cols()));
  }
  for (size i = 0; i < tasks; ++i) {
    matrix t = vectors[at(i)];
    matrix all(base.rows(), 0);
    for (size k = 0; k < tasks; ++k) {
      if (k == i) continue;
      const matrix& b = r.bases[at(k)];
      if (!o.joint) t = times(projector(b), t);
      all.conservativeResize(Eigen::NoChange, all.cols() + b.cols());
      all.rightCols(b.cols()) = b;
    }
    if (o.joint) t = without_span(all, t);
    const real after = std::sqrt(energy(t));
    if (o.rescale && after > 0) t *= std::sqrt(energy(vectors[at(i)])) / after;
    r.trimmed.push_back(t);
  }
  r.merged = combine(base, o.alpha, r.trimmed);
  return r;
}

/// Eq. 8 averaged over rows for a mask of a scale.
inline real scale_objective(size k, const std::vector<matrix>& vectors,
                            const std::vector<matrix>& features, real lambda,
                            const std::vector<bool>& mask) {
  std::vector<matrix> trimmed = vectors;
  for (auto& t : trimmed)
    for (size j = 0; j < t.rows(); ++j)
      if (mask[at(j)]) t(j, 0) = 0;
  return eq8(kind::scale, k, vectors, trimmed, features, lambda, true);
}

/// The masks of at most (exact_count: exactly) c coordinates with the smallest objective, by trying
/// all.
template <class Objective>
std::pair<std::vector<bool>, real> best_mask(size d, size c, bool exact_count,
                                             const Objective& objective) {
  std::pair<std::vector<bool>, real> best{{}, 0};
  for (unsigned bits = 0; bits < (1U << d); ++bits) {
    std::vector<bool> mask(at(d));
    size count = 0;
    for (size j = 0; j < d; ++j)
      if ((bits >> j & 1U) != 0) mask[at(j)] = true, ++count;
    if (exact_count ? count != c : count > c) continue;
    const real value = objective(mask);
    if (best.first.empty() || value < best.second) best = {mask, value};
  }
  return best;
}

/// The score of each coordinate of a scale, and of a shift.
inline std::vector<real> scale_scores(size k, const std::vector<matrix>& vectors,
                                      const std::vector<matrix>& features, real lambda) {
  const auto moment = [&](size i, size j) {
    real sum = 0;
    const matrix& x = features[at(i)];
    for (size r = 0; r < x.rows(); ++r) sum += x(r, j) * x(r, j);
    return x.rows() > 0 ? sum / static_cast<real>(x.rows()) : 0;
  };
  std::vector<real> s(at(vectors[0].rows()));
  for (size j = 0; j < vectors[0].rows(); ++j)
    for (size i = 0; i < static_cast<size>(vectors.size()); ++i)
      if (i != k) {
        const real t = vectors[at(i)](j, 0);
        s[at(j)] += moment(k, j) * t * t - lambda * moment(i, j) * t * t;
      }
  return s;
}

inline std::vector<real> shift_scores(size k, const std::vector<matrix>& vectors) {
  std::vector<real> s(at(vectors[0].rows()));
  for (size j = 0; j < vectors[0].rows(); ++j)
    for (size i = 0; i < static_cast<size>(vectors.size()); ++i)
      if (i != k) s[at(j)] += vectors[at(i)](j, 0) * vectors[at(i)](j, 0);
  return s;
}

/// The c largest, the lower position first among equals, ascending.
inline std::vector<size> take(const std::vector<real>& scores, size c, bool positive_only) {
  std::vector<size> taken;
  std::vector<bool> used(scores.size());
  for (size n = 0; n < c && n < static_cast<size>(scores.size()); ++n) {
    size best = -1;
    for (size j = 0; j < static_cast<size>(scores.size()); ++j)
      if (!used[at(j)] && (best < 0 || scores[at(j)] > scores[at(best)])) best = j;
    if (positive_only && !(scores[at(best)] > 0)) break;
    used[at(best)] = true;
    taken.push_back(best);
  }
  std::sort(taken.begin(), taken.end());
  return taken;
}

/// CAT Merging of a scale or a shift: the trimmed vectors.
inline std::vector<matrix> trim_masked(const std::vector<matrix>& vectors,
                                       const std::vector<std::vector<size>>& masks, bool rescale) {
  std::vector<matrix> trimmed = vectors;
  for (size i = 0; i < static_cast<size>(vectors.size()); ++i) {
    for (size k = 0; k < static_cast<size>(vectors.size()); ++k)
      if (k != i)
        for (const size j : masks[at(k)]) trimmed[at(i)](j, 0) = 0;
    const real after = std::sqrt(energy(trimmed[at(i)]));
    if (rescale && after > 0) trimmed[at(i)] *= std::sqrt(energy(vectors[at(i)])) / after;
  }
  return trimmed;
}

}  // namespace oracle
