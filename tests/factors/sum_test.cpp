// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <Eigen/SVD>
#include <catmerge/factors/core_merges.hpp>
#include <catmerge/factors/sum.hpp>
#include <cmath>
#include <functional>

#include "support/factors.hpp"
#include "support/tolerance.hpp"

// Sums of factored vectors, their compression against Eigen's Jacobi SVD of the dense product, and
// merges by singular directions against the dense methods.

using namespace test;
using catmerge::compress;
using catmerge::concatenate;
using catmerge::index_t;
using dense_matrix = Eigen::MatrixXd;

namespace {

double sum_of_norms(const std::vector<dense_matrix>& list) {
  double sum = 0;
  for (const auto& t : list) sum += t.norm();
  return sum;
}

/// The best approximation of this rank, by Jacobi's method, which is right for small values too.
struct truncated {
  truncated(const dense_matrix& t, index_t rank) {
    const Eigen::JacobiSVD<dense_matrix> svd(t, Eigen::ComputeThinU | Eigen::ComputeThinV);
    const auto& s = svd.singularValues();
    const index_t n = std::min<index_t>(rank, s.size());
    best =
        svd.matrixU().leftCols(n) * s.head(n).asDiagonal() * svd.matrixV().leftCols(n).transpose();
    error = s.tail(s.size() - n).norm() / s.norm();
    gap = n < s.size() ? (s(n - 1) - s(n)) / s(0) : 1;
  }
  dense_matrix best;
  double error = 0, gap = 0;
};

/// A factored vector of these singular values, up to 64 rows and columns.
catmerge::factored_vector<dense_matrix, dense_matrix> with_values(generator& g, index_t d_out,
                                                                  index_t d_in,
                                                                  const Eigen::VectorXd& s) {
  // A random matrix between the factors, which makes both ill-conditioned.
  const index_t r = s.size();
  const dense_matrix turn = g.orthonormal(r, r);
  return {g.orthonormal(d_out, r) * s.cwiseSqrt().asDiagonal() * turn,
          turn.transpose() * s.cwiseSqrt().asDiagonal() * g.orthonormal(d_in, r).transpose(), 2.0};
}

}  // namespace

TEST_CASE_TEMPLATE("a concatenation is the sum of the dense vectors", S, double, float,
                   catmerge::half, catmerge::bfloat16) {
  const adapters<S> in(7, 20, 30, {4, 1, 6}, {1, 1, 1});
  const auto t = dense_all(in.vectors);
  const std::vector<double> weights{0.5, -2, 0.25};
  const auto sum = concatenate(in.vectors, weights);
  static_assert(
      std::is_same_v<std::remove_cvref_t<decltype(sum.b)>, matrix_of<catmerge::compute_t<S>>>);
  CHECK(sum.b.cols() == 11);
  CHECK(sum.a.rows() == 11);
  CHECK(sum.scale == 1);
  const dense_matrix expected = 0.5 * t[0] - 2 * t[1] + 0.25 * t[2];
  CHECK(distance(dense(sum), expected, sum_of_norms(t)) <=
        2 * tolerance::eps<catmerge::compute_t<S>>);
  CHECK(same_bits(concatenate(in.vectors).a, sum.a));
}

TEST_CASE_TEMPLATE("equal weights leave every factor as it is", S, double, float, catmerge::half) {
  adapters<S> in(8, 9, 7, {2, 3}, {1, 1});
  in.vectors[0].scale = in.vectors[1].scale = 0.3;
  const auto sum = concatenate(in.vectors, {0.7, 0.7});
  CHECK(sum.scale == 0.7 * 0.3);
  CHECK(in_double(sum.b).leftCols(2) == in_double(in.vectors[0].b));
  CHECK(in_double(sum.b).rightCols(3) == in_double(in.vectors[1].b));
  CHECK(in_double(sum.a).topRows(2) == in_double(in.vectors[0].a));
  CHECK(in_double(sum.a).bottomRows(3) == in_double(in.vectors[1].a));

  const auto one = concatenate(std::vector{in.vectors[1]});
  CHECK(in_double(one.b) == in_double(in.vectors[1].b));
  CHECK(in_double(one.a) == in_double(in.vectors[1].a));
  CHECK(one.scale == 0.3);
}

TEST_CASE("a compression is Jacobi's truncation of the dense sum") {
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    generator g(seed);
    const index_t d_out = g.integer(5, 40), d_in = g.integer(5, 40);
    const adapters<double> in(seed, d_out, d_in, {g.integer(1, 6), g.integer(1, 6)}, {1, 1});
    const auto sum = concatenate(in.vectors);
    const auto t = dense(sum);
    for (index_t rank = 1; rank <= 13; rank += 3) {
      CAPTURE(rank);
      const auto [vector, error] = compress(sum, rank);
      const truncated expected(t, rank);
      CHECK(std::abs(error - expected.error) <= 1e-12);
      CHECK(std::abs((dense(vector) - t).norm() / t.norm() - error) <= 1e-13);
      CHECK(vector.b.cols() == vector.a.rows());
      CHECK(vector.b.cols() <= rank);
      CHECK((vector.b.transpose() * vector.b -
             dense_matrix::Identity(vector.b.cols(), vector.b.cols()))
                .norm() <= 1e-13);
      if (expected.gap < 1e-3) continue;
      CHECK(distance(dense(vector), expected.best, t.norm()) <= 1e-11);
      ++compared;
    }
  }
  CHECK(compared > 50);
}

TEST_CASE("the error of a compression is right where singular values fall by sixteen digits") {
  generator g(3);
  for (const double ratio : {0.5, 0.1, 1e-2, 1e-4}) {
    Eigen::VectorXd s(12);
    for (index_t j = 0; j < 12; ++j) s(j) = std::pow(ratio, j);
    const auto v = with_values(g, 40, 30, s);
    for (index_t rank = 1; rank <= 12; ++rank) {
      CAPTURE(ratio);
      CAPTURE(rank);
      const auto [vector, error] = compress(v, rank);
      // The factors' own rounding moves a singular value by some eps of the largest.
      const double expected = s.tail(12 - rank).norm() / s.norm();
      CHECK(std::abs(error - expected) <= 1e-12);
      CHECK(std::abs((dense(vector) - dense(v)).norm() / (2 * s.norm()) - expected) <= 1e-12);
    }
  }
}

TEST_CASE("a compression to the full rank returns the vector") {
  const adapters<float> in(5, 24, 18, {7}, {1});
  const auto [vector, error] = compress(in.vectors[0], 7);
  CHECK(vector.b.cols() == 7);
  CHECK(error <= 1e-14);
  const auto t = dense(in.vectors[0]);
  CHECK(distance(dense(vector), t, t.norm()) <= 4 * tolerance::eps<float>);
}

TEST_CASE("compressions of zero, of small ranks, and with a rank above both extents") {
  adapters<double> in(5, 6, 5, {9, 2}, {1, 1});  // r > d_out > d_in
  const auto t = dense(in.vectors[0]);
  const auto all = compress(in.vectors[0], 9);
  CHECK(all.vector.b.cols() == 5);
  CHECK(distance(dense(all.vector), t, t.norm()) <= 1e-14);

  in.vectors[1].b.setZero();
  const auto nothing = compress(in.vectors[1], 2);
  CHECK(nothing.error == 0);
  CHECK(nothing.vector.b.cols() == 1);
  CHECK(dense(nothing.vector).norm() == 0);

  // Opposite weights cancel to rounding, relative to the parts.
  const auto cancelled = concatenate(std::vector{in.vectors[0], in.vectors[0]}, {1, -1});
  CHECK(dense(compress(cancelled, 3).vector).norm() <= 1e-14 * t.norm());
}

TEST_CASE("TSV-M in factors equals TSV-M on the dense vectors") {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    CAPTURE(seed);
    generator g(50 + seed);
    const index_t tasks = g.integer(2, 4);
    std::vector<index_t> ranks, rows(at(tasks), 1);
    for (index_t k = 0; k < tasks; ++k) ranks.push_back(g.integer(1, 5));
    // From less than one direction for each task to more than the ranks.
    const adapters<double> in(seed, g.integer(3, 30), g.integer(3, 30), ranks, rows);
    const auto t = dense_all(in.vectors);
    const dense_matrix zero = dense_matrix::Zero(t[0].rows(), t[0].cols());
    const auto expected = catmerge::tsv_m(zero, t, {0.7});
    const auto found = catmerge::tsv_m_factors(in.vectors, {0.7});
    // Vectors of the dense product's singular values are off by eps (s_1 / s)^2.
    CHECK(distance(dense(found.merged), expected.merged, expected.merged.norm()) <= 1e-8);
    CHECK(found.report.fallback == expected.report.fallback);
    CHECK(found.merged.scale == 0.7);
  }
}

TEST_CASE("isotropic merging of cores is the dense one with the mean over the span") {
  const adapters<double> in(4, 30, 24, {3, 5, 2}, {1, 1, 1});
  const auto t = dense_all(in.vectors);
  const dense_matrix zero = dense_matrix::Zero(30, 24);
  const auto expected = catmerge::iso(zero, t);
  const auto found = catmerge::core_iso(in.vectors);
  const dense_matrix raised = expected.merged * 24 / 10;
  CHECK(distance(dense(found.merged), raised, raised.norm()) <= 1e-10);
  CHECK(found.merged.b.cols() == 10);
  const Eigen::JacobiSVD<dense_matrix> svd(dense(found.merged));
  const auto& s = svd.singularValues();
  CHECK(std::abs(s(0) - s(9)) <= 1e-10 * s(0));
  CHECK(s(10) <= 1e-12 * s(0));
}

TEST_CASE("factored vectors enter a network") {
  adapters<float> in(6, 8, 5, {3}, {1});
  generator g(2);
  Eigen::MatrixXd theta = g.matrix(8, 5);
  const Eigen::MatrixXd before = theta;
  catmerge::add_factors(theta, in.vectors[0], 0.25);
  CHECK((theta - before - 0.25 * dense(in.vectors[0])).norm() <= 1e-14);
  const Eigen::MatrixXf t = catmerge::dense_vector(in.vectors[0]);
  CHECK((t.cast<double>() - dense(in.vectors[0])).norm() <= 1e-6);

  // A network in half precision is rounded once.
  matrix_of<catmerge::half> small = before.cast<catmerge::half>();
  catmerge::add_factors(small, in.vectors[0], 0.25);
  const Eigen::MatrixXd once = in_double(matrix_of<catmerge::half>(before.cast<catmerge::half>())) +
                               0.25 * dense(in.vectors[0]);
  CHECK((in_double(small) - once).cwiseAbs().maxCoeff() <=
        tolerance::eps<catmerge::half> * once.cwiseAbs().maxCoeff());

  // References in place of copies.
  const catmerge::factored_vector referred{std::cref(in.vectors[0].b), std::cref(in.vectors[0].a),
                                           in.vectors[0].scale};
  CHECK(same_bits(catmerge::dense_vector(referred), t));
  const std::vector list{referred, referred};
  CHECK((dense(concatenate(list)) - 2 * dense(in.vectors[0])).norm() <= 1e-5);
}

TEST_CASE("errors of sums") {
  const adapters<double> in(1, 6, 5, {2, 3}, {1, 1});
  const auto vectors = in.vectors;
  using list = std::vector<adapters<double>::factored>;
  CHECK_THROWS_WITH_AS(concatenate(list{}), "the parameter: there are no task vectors to merge",
                       catmerge::error);
  CHECK_THROWS_WITH_AS(concatenate(vectors, {1}), "the parameter: 1 weights for 2 task vectors",
                       catmerge::error);
  CHECK_THROWS_WITH_AS(concatenate(vectors, {1, NAN}),
                       "the parameter: the weight of 'task 1' must be a finite number",
                       catmerge::error);
  CHECK_THROWS_WITH_AS(compress(vectors[0], 0), "compress: the rank must be at least 1, found 0",
                       catmerge::error);

  auto wrong = vectors;
  wrong[1].a = dense_matrix::Zero(4, 5);
  CHECK_THROWS_WITH_AS(concatenate(wrong),
                       "the parameter: the factors of 'task 1': B is 6 x 3 and A is 4 x 5: B is "
                       "d_out x r and A is r x d_in, of one rank r",
                       catmerge::error);
  wrong = vectors;
  wrong[1].a = dense_matrix::Zero(3, 4);
  CHECK_THROWS_WITH_AS(concatenate(wrong),
                       "the parameter: A of 'task 1': expected 3 x 5, found 3 x 4",
                       catmerge::error);
  wrong[1] = {dense_matrix::Zero(7, 3), dense_matrix::Zero(3, 5)};
  CHECK_THROWS_WITH_AS(concatenate(wrong),
                       "the parameter: B of 'task 1': expected 6 x 3, found 7 x 3",
                       catmerge::error);
  wrong = vectors;
  wrong[0].b(1, 1) = NAN;
  CHECK_THROWS_WITH_AS(concatenate(wrong),
                       "the parameter: B of 'task 0' holds a value that is not finite",
                       catmerge::not_finite_error);
  wrong = vectors;
  wrong[0].scale = INFINITY;
  CHECK_THROWS_WITH_AS(concatenate(wrong),
                       "the parameter: the scale of 'task 0' must be a finite number",
                       catmerge::not_finite_error);
  wrong = vectors;
  wrong[0].b *= 1e-200;
  CHECK_THROWS_WITH_AS(
      compress(wrong[0], 1),
      "the parameter: B of 'task 0': its squared norm vanishes in float64: multiply "
      "it by a power of two and the vector's scale by its inverse",
      catmerge::error);
  wrong[0].b = vectors[0].b * 1e200;
  CHECK_THROWS_WITH_AS(compress(wrong[0], 1),
                       "the parameter: B of 'task 0': its squared norm overflows float64: multiply "
                       "it by a power of two and the vector's scale by its inverse",
                       catmerge::error);
  Eigen::MatrixXd theta(5, 6);
  CHECK_THROWS_WITH_AS(catmerge::add_factors(theta, vectors[0]),
                       "add_factors: parameter: expected 6 x 5, found 5 x 6", catmerge::error);
}
