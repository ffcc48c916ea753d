// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/error.hpp>
#include <catmerge/tensor/scalar.hpp>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"  // packets as template arguments
#endif

namespace catmerge::detail {

/// All eigenvalues of a symmetric tridiagonal matrix T = G diag(values) G^T, and any of its
/// eigenvectors: QR steps with Wilkinson's shift (Golub & Van Loan, Matrix Computations, 2013,
/// algorithm 8.3.2). G is a product of plane rotations. They are kept (some n^2 pairs of numbers)
/// and applied afterwards, the last first, to the columns of the identity that are wanted: a few
/// vectors cost little, and many columns at a time go through registers. (Applied in each step to
/// all vectors they take most of the time of a whole decomposition. Van Zee, van de Geijn &
/// Quintana-Orti, ACM Trans. Math. Softw. 40(3), 2014.)
class tridiagonal_eigen {
 public:
  /// From T's diagonal and the n - 1 entries below it, which are about 1 in size: their squares
  /// neither overflow nor vanish. Throws catmerge::error if the steps do not converge.
  tridiagonal_eigen(std::vector<double> diagonal, std::vector<double> below)
      : d_(std::move(diagonal)), e_(std::move(below)) {
    const index_t n = std::ssize(d_);
    rotations_.reserve(static_cast<std::size_t>(n * n));
    index_t steps = 0;
    for (index_t end = n - 1; end > 0;) {
      split(end);
      if (e(end - 1) == 0) {
        --end;
        continue;
      }
      if (++steps > 30 * n || !std::isfinite(d(end)))
        throw error("the symmetric eigenproblem of size " + std::to_string(n) +
                    " did not converge");
      index_t start = end - 1;
      while (start > 0 && e(start - 1) != 0) --start;
      step(start, end);
    }
  }

  /// The eigenvalues, in no order.
  const std::vector<double>& values() const { return d_; }

  /// The number of columns that apply takes at a time.
  static constexpr index_t width() { return packets * packet_size; }

  /// x = G x, for row-major x of n rows and `columns` columns, a multiple of width(); rows are
  /// `stride` numbers apart. Rows of x before number `first` count as zero.
  void apply(double* x, index_t stride, index_t columns, index_t first) const {
    // Rows of a step end no earlier than those of the next.
    std::size_t count = sweeps_.size();
    while (count > 0 && sweeps_[count - 1].end < first) --count;
    for (index_t j = 0; j < columns; j += width())
      for (std::size_t i = count; i > 0; --i) {
        // Two sweeps of nearly the same rows: read and written once.
        const sweep &late = sweeps_[i - 1], &early = sweeps_[i > 1 ? i - 2 : 0];
        const bool both = i > 1 && late.start == early.start && early.end <= late.end + 4;
        if (both) --i;
        both ? turn_twice(late, early, x + j, stride) : turn(late, x + j, stride);
      }
  }

 private:
  using packet = Eigen::internal::packet_traits<double>::type;
  static constexpr index_t packet_size = Eigen::internal::unpacket_traits<packet>::size;
  static constexpr index_t packets = 4;  // independent sums hide the latency of an addition

  /// The rotations of one step, the first of rows start and start + 1.
  struct sweep {
    index_t start, end;         ///< the rows of the step
    std::size_t begin, beyond;  ///< its rotations
  };
  struct rotation {
    double c, s;
  };

  double& d(index_t i) { return d_[static_cast<std::size_t>(i)]; }
  double& e(index_t i) { return e_[static_cast<std::size_t>(i)]; }

  static constexpr double eps = std::numeric_limits<double>::epsilon();
  /// A rotation by less changes no number, and its square is far above the smallest number.
  static constexpr double nothing = 1e-100;

  /// Sets entries below the diagonal that are rounding errors to zero, up to row `end`: of their
  /// neighbours, or of the largest entries, which are about 1.
  void split(index_t end) {
    for (index_t i = 0; i < end; ++i)
      if (std::abs(e(i)) <= eps * (std::abs(d(i)) + std::abs(d(i + 1))) + eps / 4) e(i) = 0;
  }

  void step(index_t start, index_t end) {
    const double half = (d(end - 1) - d(end)) / 2, last = e(end - 1);
    const double shift =
        d(end) - last / (half + std::copysign(std::hypot(half, last), half)) * last;
    double x = d(start) - shift, z = e(start);
    const std::size_t begin = rotations_.size();
    for (index_t k = start; k < end && std::abs(z) > nothing; ++k) {
      const double inverse = 1 / std::sqrt(x * x + z * z), c = x * inverse, s = -z * inverse;
      const double upper = s * d(k) + c * e(k), lower = s * e(k) + c * d(k + 1);
      d(k) = c * (c * d(k) - s * e(k)) - s * (c * e(k) - s * d(k + 1));
      d(k + 1) = s * upper + c * lower;
      e(k) = c * upper - s * lower;
      if (k > start) e(k - 1) = c * e(k - 1) - s * z;
      x = e(k);
      if (k + 1 < end) {
        z = -s * e(k + 1);
        e(k + 1) *= c;
      }
      rotations_.push_back({c, s});
    }
    sweeps_.push_back({start, end, begin, rotations_.size()});
  }

  /// width() columns of a row.
  struct segment {
    explicit segment(const double* from) {
      for (index_t p = 0; p < packets; ++p)
        part[p] = Eigen::internal::ploadu<packet>(from + p * packet_size);
    }
    void store(double* to) const {
      for (index_t p = 0; p < packets; ++p) Eigen::internal::pstoreu(to + p * packet_size, part[p]);
    }
    packet part[static_cast<std::size_t>(packets)];
  };

  /// Turns two rows.
  static void turn(const rotation& by, segment& above, segment& below) {
    using namespace Eigen::internal;
    const packet c = pset1<packet>(by.c), s = pset1<packet>(by.s);
    for (index_t p = 0; p < packets; ++p) {
      const packet sum = pmadd(c, above.part[p], pmul(s, below.part[p]));
      below.part[p] = psub(pmul(c, below.part[p]), pmul(s, above.part[p]));
      above.part[p] = sum;
    }
  }

  /// The rotation of rows k and k + 1 in a sweep.
  rotation at(const sweep& of, index_t k) const {
    const std::size_t i = of.begin + static_cast<std::size_t>(k - of.start);
    return k >= of.start && i < of.beyond ? rotations_[i] : rotation{1, 0};
  }

  /// Applies a sweep to width() columns, its last rotation first.
  void turn(const sweep& of, double* x, index_t stride) const {
    segment below(x + of.end * stride);
    for (index_t k = of.end; k-- > of.start;) {
      segment above(x + k * stride);
      turn(at(of, k), above, below);
      below.store(x + (k + 1) * stride);
      below = above;
    }
    below.store(x + of.start * stride);
  }

  /// Applies a sweep and then another. They start in the same row.
  void turn_twice(const sweep& one, const sweep& other, double* x, index_t stride) const {
    const index_t end = (std::max)(one.end, other.end), start = one.start;
    segment below(x + end * stride), above(x + (end - 1) * stride);
    turn(at(one, end - 1), above, below);
    for (index_t k = end - 1; k-- > start;) {  // `one` turns k and k + 1, `other` the next two
      segment next(x + k * stride);
      turn(at(one, k), next, above);
      turn(at(other, k + 1), above, below);
      below.store(x + (k + 2) * stride);
      below = above;
      above = next;
    }
    turn(at(other, start), above, below);
    below.store(x + (start + 1) * stride);
    above.store(x + start * stride);
  }

  std::vector<double> d_, e_;
  std::vector<rotation> rotations_;
  std::vector<sweep> sweeps_;
};

}  // namespace catmerge::detail

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
