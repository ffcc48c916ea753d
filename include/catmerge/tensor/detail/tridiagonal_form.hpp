// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <catmerge/tensor/scalar.hpp>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"  // packets as template arguments
#endif

namespace catmerge::detail {

/// Reduces a symmetric matrix A to tridiagonal form Q^T A Q by reflections (Golub & Van Loan,
/// Matrix Computations, 2013, algorithm 8.3.1). A step ends with A -= v w^T + w v^T, and the next
/// begins with A x. Both are done in one pass over A, which memory limits: two thirds of the time
/// of a pass each.
class tridiagonal_form {
 public:
  /// From A of n x n, stored without gaps; reads and overwrites its lower triangle, column by
  /// column. A's entries are about 1 in size: their squares neither overflow nor vanish.
  tridiagonal_form(double* a, index_t n) : a_(a), n_(n) {
    const auto size = static_cast<std::size_t>(n);
    for (auto* room : {&v_, &w_, &x_, &p_}) room->assign(size, 0.0);
    diagonal.resize(size);
    factors.assign(size, 0.0);
    for (index_t i = 0; i < n; ++i) {
      for (index_t r = i; r < n; ++r) updated(r, i);
      diagonal[static_cast<std::size_t>(i)] = entry(i, i);
      if (i + 1 == n) return;
      const double factor = reflect(i);
      multiply(i + 1);
      double along = 0;
      for (index_t r = i + 1; r < n; ++r) along += (at(p_, r) *= factor) * at(x_, r);
      for (index_t r = i + 1; r < n; ++r) at(p_, r) -= factor / 2 * along * at(x_, r);
      v_.swap(x_);
      w_.swap(p_);
    }
  }

  std::vector<double> diagonal;  ///< n entries
  std::vector<double> below;     ///< the n - 1 entries below them
  /// Q is the product of the reflections I - factors[i] u u^T, i = 0 first. u has a one in row
  /// i + 1 and its rest in column i of the given matrix, from row i + 2 on.
  std::vector<double> factors;

 private:
  using packet = Eigen::internal::packet_traits<double>::type;
  static constexpr index_t packet_size = Eigen::internal::unpacket_traits<packet>::size;
  static constexpr index_t group = 4;  // columns that share the reads of v, w, x and A x

  static double& at(std::vector<double>& of, index_t i) { return of[static_cast<std::size_t>(i)]; }
  double& entry(index_t i, index_t j) { return a_[i + j * n_]; }

  /// The entry after the last step's update.
  double updated(index_t i, index_t j) {
    return entry(i, j) -= at(v_, i) * at(w_, j) + at(w_, i) * at(v_, j);
  }

  /// Makes x of column i, a reflection that leaves one entry below the diagonal. Returns its
  /// factor.
  double reflect(index_t i) {
    const double first = entry(i + 1, i);
    double rest = 0;
    for (index_t r = i + 2; r < n_; ++r) rest += entry(r, i) * entry(r, i);
    double factor = 0, left = first;
    if (rest > (std::numeric_limits<double>::min)()) {
      left = -std::copysign(std::sqrt(first * first + rest), first);
      factor = (left - first) / left;
      for (index_t r = i + 2; r < n_; ++r) entry(r, i) /= first - left;
    } else {
      for (index_t r = i + 2; r < n_; ++r) entry(r, i) = 0;
    }
    at(x_, i + 1) = 1;
    for (index_t r = i + 2; r < n_; ++r) at(x_, r) = entry(r, i);
    below.push_back(left);
    return at(factors, i) = factor;
  }

  /// Updates A from column `first` on; p = A x there.
  void multiply(index_t first) {
    std::fill(p_.begin() + first, p_.end(), 0.0);
    for (index_t j = first; j < n_; j += group) {
      const index_t beyond = (std::min)(j + group, n_);
      for (index_t c = j; c < beyond; ++c) {
        at(p_, c) += updated(c, c) * at(x_, c);
        for (index_t r = c + 1; r < beyond; ++r) {
          const double e = updated(r, c);
          at(p_, r) += e * at(x_, c);
          at(p_, c) += e * at(x_, r);
        }
      }
      if (beyond < n_) multiply_below(j);
    }
  }

  /// The same for the rows below columns j ... j + group - 1.
  void multiply_below(index_t j) {
    using namespace Eigen::internal;
    constexpr auto columns = static_cast<std::size_t>(group);
    packet minus_v[columns], minus_w[columns], x[columns], sum[columns];
    for (index_t c = 0; c < group; ++c) {
      minus_v[c] = pset1<packet>(-at(v_, j + c));
      minus_w[c] = pset1<packet>(-at(w_, j + c));
      x[c] = pset1<packet>(at(x_, j + c));
      sum[c] = pset1<packet>(0);
    }
    index_t r = j + group;
    for (; r + packet_size <= n_; r += packet_size) {
      const packet v_r = ploadu<packet>(&at(v_, r)), w_r = ploadu<packet>(&at(w_, r)),
                   x_r = ploadu<packet>(&at(x_, r));
      packet p_r = ploadu<packet>(&at(p_, r));
      for (index_t c = 0; c < group; ++c) {
        double* const place = &entry(r, j + c);
        const packet e = pmadd(v_r, minus_w[c], pmadd(w_r, minus_v[c], ploadu<packet>(place)));
        pstoreu(place, e);
        p_r = pmadd(e, x[c], p_r);
        sum[c] = pmadd(e, x_r, sum[c]);
      }
      pstoreu(&at(p_, r), p_r);
    }
    for (index_t c = 0; c < group; ++c) {
      at(p_, j + c) += predux(sum[c]);
      for (index_t i = r; i < n_; ++i) {
        const double e = updated(i, j + c);
        at(p_, i) += e * at(x_, j + c);
        at(p_, j + c) += e * at(x_, i);
      }
    }
  }

  double* a_;
  index_t n_;
  std::vector<double> v_, w_, x_, p_;
};

}  // namespace catmerge::detail

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
