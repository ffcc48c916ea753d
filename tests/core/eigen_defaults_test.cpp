// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// Under Eigen's macros that give Eigen::MatrixXd another order, and its extents another type: the
// build sets one of them for each program that it makes of this file. Nothing else may change.
#include <doctest/doctest.h>

#include <catmerge/catmerge.hpp>

#include "support/data.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#if defined(EIGEN_DEFAULT_TO_ROW_MAJOR)
static_assert(Eigen::MatrixXd::IsRowMajor);
#else
static_assert(sizeof(Eigen::MatrixXd::Index) == sizeof(int));
#endif
static_assert(!catmerge::small_matrix::IsRowMajor);

using namespace test;
using catmerge::scalar_type;

TEST_CASE("what crosses between context and host stays where it is") {
  generator g(3);
  catmerge::context<catmerge::host> c;
  for (const auto& [rows, columns] : {std::pair<index_t, index_t>{2, 3}, {5, 1}, {1, 7}, {40, 33}})
    for (const auto type : {scalar_type::f64, scalar_type::f32}) {
      // Numbers that float has.
      const Eigen::MatrixXd x = g.matrix<float>(rows, columns).template cast<double>();
      CHECK(Eigen::MatrixXd(c.to_host(catmerge::const_view_of(x))) == x);
      auto there = c.make(type, rows, columns);
      c.from_host(x, there);
      CHECK(Eigen::MatrixXd(c.to_host(there)) == x);
      Eigen::MatrixXd back = Eigen::MatrixXd::Zero(rows, columns);
      c.assign(there, catmerge::view_of(back));
      CHECK(back == x);
      // A window, whose rows and columns do not lie together.
      const auto part = c.slice(catmerge::host_const_view(there), rows / 2, rows - rows / 2,
                                columns / 3, columns - columns / 3);
      CHECK(Eigen::MatrixXd(c.to_host(part)) ==
            x.bottomRightCorner(rows - rows / 2, columns - columns / 3));
    }
}

TEST_CASE("eigenvectors are the columns") {
  const Eigen::MatrixXd m = generator(4).matrix(37, 37), a = m + m.transpose();
  catmerge::context<catmerge::host> c;
  Eigen::MatrixXd vectors = a;
  const auto values = c.symmetric_eigen(catmerge::view_of(vectors), 37);
  const Eigen::VectorXd w = Eigen::Map<const Eigen::VectorXd>(values.data(), 37);
  CHECK((a * vectors - vectors * w.asDiagonal()).norm() <= 1e3 * tolerance::eps<double> * a.norm());
}

TEST_CASE("cat_linear: the oracle's merge, by every way, and its report") {
  // Rows of unequal number, so that no matrix in between is square by chance.
  const auto l = random_linear<double>(5, 14, 11, {20, 2, 9, 5});
  const auto base = oracle::exact(l.base);
  const auto vectors = oracle::exact_all(l.vectors), features = oracle::exact_all(l.features);
  oracle::options o;
  o.rank = 2;
  o.lambda = 0.5L;
  const auto expected = oracle::cat_linear(base, oracle::exact_all(l.experts), features, o);
  REQUIRE(expected.gap > 1e-3);
  double size = 0;
  for (const auto& t : l.vectors) size += t.norm();
  for (const auto way : {catmerge::basis_solver::dense, catmerge::basis_solver::shifts,
                         catmerge::basis_solver::weights}) {
    catmerge::cat_options options;
    options.alpha = 0.4;
    options.linear.lambda = 0.5;
    options.linear.directions = catmerge::largest{2, true};
    options.linear.solver = way;
    const auto [merged, report] = catmerge::cat_linear(l.base, l.experts, l.features, options);
    const oracle::matrix difference = oracle::minus(oracle::exact(merged), expected.merged);
    CHECK(static_cast<double>(std::sqrt(oracle::energy(difference))) <=
          tolerance::merged<double>(expected.gap) * size);
    for (index_t k = 0; k < 4; ++k)
      for (index_t i = 0; i < 4; ++i) {
        const auto before = static_cast<double>(
            oracle::feature_shift(oracle::kind::linear, features[at(k)], base, vectors[at(i)]));
        CHECK(report.trim->conflict_before(k, i) == doctest::Approx(before).epsilon(1e-10));
        const auto &b = expected.bases[at(k)], &d = expected.bases[at(i)];
        REQUIRE(b.cols() == 2);
        REQUIRE(d.cols() == 2);
        const auto shared =
            static_cast<double>(oracle::energy(oracle::times(oracle::flip(b), d))) / 2;
        CHECK(report.trim->overlap(k, i) ==
              doctest::Approx(shared).epsilon(tolerance::subspace(expected.gap)));
      }
  }
}

TEST_CASE("masks: the oracle's coordinates") {
  const auto v = random_vector<double>(6, 15, {3, 1, 4});
  const auto vectors = oracle::exact_all(v.vectors), features = oracle::exact_all(v.features);
  for (index_t k = 0; k < 3; ++k) {
    CHECK(catmerge::scale_mask(k, v.vectors, v.features, {catmerge::largest{4, true}, 0.5}) ==
          oracle::take(oracle::scale_scores(k, vectors, features, 0.5L), 4, true));
    CHECK(catmerge::shift_mask(k, v.vectors) ==
          oracle::take(oracle::shift_scores(k, vectors), 4, true));
  }
}
