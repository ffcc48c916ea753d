// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <Eigen/Eigenvalues>
#include <Eigen/SVD>
#include <algorithm>
#include <catmerge/catmerge.hpp>
#include <catmerge/numeric/thin_svd.hpp>
#include <cmath>

#include "support/data.hpp"
#include "support/executor.hpp"
#include "support/tolerance.hpp"

// The decomposition of symmetric matrices, and singular vectors and polar factors made of it, in
// sizes of several tiles and strips.

using namespace test;

namespace {

using dense = Eigen::MatrixXd;
using host_context = catmerge::context<catmerge::host>;
constexpr double eps = tolerance::eps<double>;

dense rotated(generator& g, const Eigen::VectorXd& values) {
  const dense q = g.orthonormal(values.size(), values.size());
  return q * values.asDiagonal() * q.transpose();
}

/// Values of every kind for n rows: spread, in clusters, graded, few, of both signs.
std::vector<Eigen::VectorXd> spectra(index_t n) {
  std::vector<Eigen::VectorXd> all(6, Eigen::VectorXd::Zero(n));
  for (index_t i = 0; i < n; ++i) {
    const double share = static_cast<double>(i + 1) / static_cast<double>(n);
    all[0](i) = share;
    all[1](i) = i < n / 2 ? 1 : 2 + 1e-14 * share;
    all[2](i) = std::pow(10.0, -16 * share);
    all[3](i) = i < 3 ? 1.0 + share : 0;
    all[4](i) = i % 2 == 0 ? share : -share;
  }
  return all;  // the last: zero
}

/// Eigenvalues, and the `count` last columns.
struct eigen {
  std::vector<double> values;
  dense vectors;

  eigen(host_context& c, const dense& m, index_t count) {
    dense y = m;
    values = c.symmetric_eigen(catmerge::view_of(y), count);
    vectors = y.rightCols(count);
  }
};

/// Rounding errors of n^2 operations on each number, one beside the other.
double rounding(index_t n) {
  return 4 * static_cast<double>(n) * eps;
}

}  // namespace

TEST_CASE("symmetric_eigen: values, and vectors of the largest, of spectra of every kind") {
  host_context c;
  generator g(1);
  for (const index_t n : {1, 2, 3, 5, 33, 97, 230})
    for (const auto& values : spectra(n)) {
      const dense m = rotated(g, values);
      const double size = values.cwiseAbs().maxCoeff();
      const Eigen::VectorXd exact = Eigen::SelfAdjointEigenSolver<dense>(m).eigenvalues();
      for (const index_t count : {index_t{0}, index_t{1}, n / 3, n}) {
        const eigen found(c, m, count);
        REQUIRE(std::ssize(found.values) == n);
        CHECK(std::is_sorted(found.values.begin(), found.values.end()));
        const Eigen::Map<const Eigen::VectorXd> all(found.values.data(), n);
        CHECK((all - exact).cwiseAbs().maxCoeff() <= rounding(n) * size);
        if (count == 0) continue;
        const auto& v = found.vectors;
        CHECK((m * v - v * all.tail(count).asDiagonal()).norm() <= rounding(n) * size);
        CHECK((v.transpose() * v - dense::Identity(count, count)).norm() <= rounding(n));
      }
    }
}

TEST_CASE("symmetric_eigen: matrices that are diagonal or tridiagonal already, or nearly split") {
  host_context c;
  const index_t n = 120;
  for (const double beside : {0.0, 1e-300, 1e-160, 1e-20, 1e-8, 1.0})
    for (const double step : {0.0, 1e-17, 1e-3}) {
      dense m = dense::Zero(n, n);
      for (index_t i = 0; i < n; ++i) m(i, i) = 1 + step * static_cast<double>((i * 7) % n);
      for (index_t i = 0; i + 1 < n; ++i) m(i, i + 1) = m(i + 1, i) = i % 10 == 3 ? 0 : beside;
      const eigen found(c, m, n);
      const Eigen::Map<const Eigen::VectorXd> all(found.values.data(), n);
      const auto& v = found.vectors;
      CHECK((m * v - v * all.asDiagonal()).norm() <= rounding(n) * m.norm());
      CHECK((v.transpose() * v - dense::Identity(n, n)).norm() <= rounding(n));
    }
}

TEST_CASE("symmetric_eigen: entries that are zero are exact zeros") {
  host_context c;
  dense m = dense::Zero(9, 9);
  for (index_t i = 0; i < 9; ++i) m(i, i) = static_cast<double>((i * 4) % 9);
  const eigen found(c, m, 9);
  for (index_t j = 0; j < 9; ++j) CHECK((found.vectors.col(j).array() == 0).count() == 8);
}

TEST_CASE("symmetric_eigen: what is refused") {
  host_context c;
  dense m = dense::Identity(40, 40);
  m(7, 3) = m(3, 7) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH_AS(eigen(c, m, 40), "the symmetric eigenproblem of size 40 did not converge",
                       catmerge::error);
  Eigen::MatrixXf single = Eigen::MatrixXf::Identity(3, 3);
  CHECK_THROWS_AS(c.symmetric_eigen(catmerge::view_of(single), 3), catmerge::error);
  dense small = dense::Identity(3, 3);
  CHECK_THROWS_AS(c.symmetric_eigen(catmerge::view_of(small), 4), catmerge::error);
}

TEST_CASE("leading singular triplets: values and subspaces of the exact decomposition") {
  host_context c;
  generator g(2);
  for (const auto& [rows, columns] :
       {std::pair<index_t, index_t>{300, 140}, {140, 300}, {260, 260}})
    for (const index_t rank : {index_t{3}, index_t{60}, index_t{140}}) {
      const dense m = g.matrix(rows, rank) * g.matrix(rank, columns);
      const Eigen::BDCSVD<dense> exact(m, Eigen::ComputeThinU | Eigen::ComputeThinV);
      const auto& s = exact.singularValues();
      for (const index_t count : {index_t{1}, index_t{17}, index_t{200}}) {
        const auto svd = catmerge::detail::leading_singular(c, catmerge::const_view_of(m), count);
        const index_t n = std::min(count, rank);
        REQUIRE(std::ssize(svd.values) == n);
        const dense u = c.to_host(svd.left), v = c.to_host(svd.right);
        // Gram matrices square values; their rounding moves a subspace by its share of the gap.
        const double last = s(n - 1) * s(n - 1), next = n < rank ? s(n) * s(n) : 0;
        const double moved = rounding(rows + columns) * s(0) * s(0) / (last - next);
        const dense exact_u = exact.matrixU().leftCols(n), exact_v = exact.matrixV().leftCols(n);
        CHECK((u - exact_u * (exact_u.transpose() * u)).norm() <= moved);
        CHECK((v - exact_v * (exact_v.transpose() * v)).norm() <= moved);
        CHECK((u.transpose() * u - dense::Identity(n, n)).norm() <= rounding(rows));
        CHECK((v.transpose() * v - dense::Identity(n, n)).norm() <= rounding(columns));
        for (index_t j = 0; j < n; ++j)
          CHECK(std::abs(svd.values[at(n - 1 - j)] - s(j)) <=
                rounding(rows + columns) * s(0) * s(0) / s(j));
      }
    }
}

TEST_CASE(
    "polar factors: nearest, orthonormal however bad the condition, partial below full rank") {
  host_context c;
  generator g(3);
  for (const auto& [rows, columns] :
       {std::pair<index_t, index_t>{300, 140}, {140, 300}, {260, 260}})
    for (const index_t rank : {index_t{3}, index_t{60}, index_t{140}})
      for (const double smallest : {0.5, 1e-3, 1e-5}) {
        Eigen::VectorXd s(rank);
        for (index_t j = 0; j < rank; ++j)
          s(j) = std::pow(smallest, static_cast<double>(j) / static_cast<double>(rank - 1));
        const dense u = g.orthonormal(rows, rank), v = g.orthonormal(columns, rank);
        const dense m = u * s.asDiagonal() * v.transpose();
        auto copy = c.make(catmerge::scalar_type::f64, rows, columns);
        c.assign(catmerge::const_view_of(m), copy);
        const catmerge::detail::polar_factors<host_context> found(c, std::move(copy),
                                                                  catmerge::scalar_type::f64);
        const dense polar = c.to_host(found.left) * c.to_host(found.right).transpose();
        REQUIRE(std::ssize(found.values) == rank);
        CHECK((polar * polar.transpose() * polar - polar).norm() <= rounding(rows + columns));
        CHECK((polar - u * v.transpose()).norm() <=
              rounding(rows + columns) / (smallest * smallest));
        // For a result in float: an eighth of its rounding, or as exact as before.
        c.assign(catmerge::const_view_of(m),
                 copy = c.make(catmerge::scalar_type::f64, rows, columns));
        const catmerge::detail::polar_factors<host_context> rough(c, std::move(copy),
                                                                  catmerge::scalar_type::f32);
        const dense other = c.to_host(rough.left) * c.to_host(rough.right).transpose();
        CHECK(Eigen::BDCSVD<dense>(other - polar).singularValues()(0) <= tolerance::eps<float> / 8);
      }
}

TEST_CASE("decompositions give the same bits at any number of threads") {
  generator g(4);
  const dense m = g.matrix(300, 280), gram = m.transpose() * m;
  host_context alone;
  const eigen one(alone, gram, 250);
  const auto svd = catmerge::detail::leading_singular(alone, catmerge::const_view_of(m), 130);
  const dense polar =
      alone.to_host(catmerge::detail::polar_factor(alone, catmerge::const_view_of(m)));
  for (const int threads : {2, 3, 5}) {
    std::atomic<int> calls = 0;
    host_context c(scrambled(threads, &calls));
    const eigen other(c, gram, 250);
    CHECK(same_bits(one.values, other.values));
    CHECK(same_bits(one.vectors, other.vectors));
    const auto again = catmerge::detail::leading_singular(c, catmerge::const_view_of(m), 130);
    CHECK(same_bits(svd.values, again.values));
    CHECK(same_bits(alone.to_host(svd.left), c.to_host(again.left)));
    CHECK(same_bits(alone.to_host(svd.right), c.to_host(again.right)));
    CHECK(same_bits(
        polar, dense(c.to_host(catmerge::detail::polar_factor(c, catmerge::const_view_of(m))))));
    CHECK(calls > 0);
  }
}

TEST_CASE("Gram matrices: half of the tiles give what all of them give") {
  host_context c;
  generator g(5);
  for (const auto& [rows, columns] :
       {std::pair<index_t, index_t>{300, 600}, {600, 300}, {20, 520}}) {
    const dense m = g.matrix(rows, columns), copy = m, old = g.matrix(columns, columns);
    for (const double beta : {0.0, 2.0}) {
      dense y = old, plain = old;
      c.multiply(3, catmerge::const_view_of(m), catmerge::op::transpose, catmerge::const_view_of(m),
                 catmerge::op::none, beta, catmerge::view_of(y));
      c.multiply(3, catmerge::const_view_of(m), catmerge::op::transpose,
                 catmerge::const_view_of(copy), catmerge::op::none, beta, catmerge::view_of(plain));
      CHECK(same_bits(y, plain));
    }
  }
}
