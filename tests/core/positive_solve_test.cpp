// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <Eigen/Cholesky>
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/numeric/positive_solve.hpp>
#include <cmath>
#include <limits>

#include "support/data.hpp"
#include "support/executor.hpp"
#include "support/fake_device.hpp"
#include "support/tolerance.hpp"

// y A^-1 by blocks of the Cholesky factor, against Eigen's in long double.

using namespace test;

namespace {

using host = catmerge::context<catmerge::host>;
using exact = Eigen::Matrix<long double, Eigen::Dynamic, Eigen::Dynamic>;
constexpr index_t sizes[] = {1, 5, 63, 64, 65, 130, 200};

/// A symmetric matrix with eigenvalues from 1 / condition to 1, in equal ratios.
Eigen::MatrixXd positive(generator& g, index_t n, double condition) {
  const Eigen::MatrixXd q = g.orthonormal(n, n);
  Eigen::VectorXd values(n);
  for (index_t j = 0; j < n; ++j)
    values(j) =
        std::pow(condition, n > 1 ? -static_cast<double>(j) / static_cast<double>(n - 1) : 0.0);
  const Eigen::MatrixXd a = q * values.asDiagonal() * q.transpose();
  return (a + a.transpose()) / 2;
}

/// Only the lower triangle of a matrix is read.
Eigen::MatrixXd lower(Eigen::MatrixXd a) {
  for (index_t j = 0; j < a.cols(); ++j)
    a.col(j).head(j).setConstant(std::numeric_limits<double>::quiet_NaN());
  return a;
}

bool divide(host& c, Eigen::MatrixXd a, Eigen::MatrixXd& y) {
  return catmerge::detail::divide_by_positive(c, catmerge::view_of(a), catmerge::view_of(y));
}

}  // namespace

TEST_CASE("positive_solve: y A^-1 is Eigen's in long double, at every size and condition") {
  host c;
  for (const index_t n : sizes)
    for (const double condition : {1.0, 1e3, 1e7, 1e11})
      for (const index_t m : {index_t{1}, index_t{7}, index_t{100}}) {
        CAPTURE(n);
        CAPTURE(condition);
        generator g(static_cast<std::uint64_t>(n));
        const Eigen::MatrixXd a = positive(g, n, condition), b = g.matrix(m, n);
        const exact expected = Eigen::LLT<exact>(a.cast<long double>())
                                   .solve(b.transpose().cast<long double>())
                                   .transpose();
        Eigen::MatrixXd y = b;
        REQUIRE(divide(c, lower(a), y));
        // The computed factor solves (A + D) for a D of at most (3 n + 1) u |L||L^T|, u = eps / 2
        // (Higham, theorem 10.4; sums of at most 64 products enter once more through the inverses
        // of diagonal blocks). Errors of either sign add up to far less than 3 n u, and the norm of
        // |L||L^T| is near that of A: n eps ||A||, so n eps cond(A) in y, holds with room.
        const double error =
            static_cast<double>((y.cast<long double>() - expected).norm() / expected.norm());
        CHECK(error <= static_cast<double>(n) * tolerance::eps<double> * (n > 1 ? condition : 1));
      }
}

TEST_CASE("positive_solve: a matrix that is not positive definite is refused, and y stays") {
  host c;
  for (const index_t n : sizes) {
    CAPTURE(n);
    generator g(static_cast<std::uint64_t>(n));
    const Eigen::MatrixXd a = positive(g, n, 100), b = g.matrix(3, n);
    const auto refused = [&](const Eigen::MatrixXd& matrix) {
      Eigen::MatrixXd y = b;
      return !divide(c, matrix, y) && same_bits(y, b);
    };
    for (const index_t at : {index_t{0}, n / 2, n - 1})
      for (const double value : {-1.0, 0.0, std::numeric_limits<double>::quiet_NaN(),
                                 std::numeric_limits<double>::infinity()}) {
        Eigen::MatrixXd wrong = a;
        wrong(at, at) = value;
        CAPTURE(at);
        CAPTURE(value);
        CHECK(refused(wrong));
      }
    // One eigenvalue below zero, seen at the last pivot or before.
    const Eigen::VectorXd v = g.orthonormal(n, 1);
    CHECK(refused(a - 2 * v * (v.transpose() * a * v) * v.transpose()));
    CHECK(refused(-a));
    CHECK(refused(Eigen::MatrixXd::Zero(n, n)));
  }
}

TEST_CASE("positive_solve: the same bits at any number of threads, and on the device") {
  for (const index_t n : {65, 200}) {
    generator g(7);
    const Eigen::MatrixXd a = positive(g, n, 1e4), b = g.matrix(90, n);
    host alone;
    Eigen::MatrixXd expected = b;
    REQUIRE(divide(alone, a, expected));
    for (const int threads : {1, 2, 3}) {
      host c(scrambled(threads));
      Eigen::MatrixXd y = b;
      REQUIRE(divide(c, a, y));
      CHECK(same_bits(y, expected));
    }
    catmerge::context<fake_device> c;
    auto there = fake_tensor<2>::upload(a), y = fake_tensor<2>::upload(b);
    fake_traffic() = {};
    REQUIRE(catmerge::detail::divide_by_positive(c, there.view(), y.view()));
    CHECK(same_bits(y.download<double>(), expected));
    // Blocks on the diagonal, there and back.
    CHECK(fake_traffic().largest == sizeof(double) * 64 * 64);
    CHECK(fake_traffic().bytes() <= 2 * sizeof(double) * 64 * static_cast<std::size_t>(n));
  }
}
