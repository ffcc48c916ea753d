// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <Eigen/Cholesky>
#include <catmerge/factors/lot.hpp>
#include <catmerge/methods/lot.hpp>
#include <cmath>

#include "support/factors.hpp"
#include "support/tolerance.hpp"

// LOT in the factors against LOT on the dense products, in double, and against its formula.

using namespace test;
using catmerge::index_t;
using dense_matrix = Eigen::MatrixXd;

namespace {

constexpr double eps = tolerance::eps<double>;

catmerge::merge_result<dense_matrix> dense_lot(const std::vector<dense_matrix>& t,
                                               const auto& features,
                                               const catmerge::lot_options& options) {
  const dense_matrix zero = dense_matrix::Zero(t[0].rows(), t[0].cols());
  return catmerge::lot_linear(zero, t, features, options);
}

double sum_of_norms(const std::vector<dense_matrix>& list) {
  double sum = 0;
  for (const auto& t : list) sum += t.norm();
  return sum;
}

}  // namespace

TEST_CASE("LOT in factors equals LOT on the dense vectors") {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    CAPTURE(seed);
    generator g(seed);
    const index_t tasks = g.integer(1, 4), d_out = g.integer(4, 30), d_in = g.integer(4, 30);
    std::vector<index_t> ranks, rows;
    for (index_t k = 0; k < tasks; ++k) {
      ranks.push_back(g.integer(1, 6));
      rows.push_back(g.integer(1, 20));
    }
    const adapters<double> in(seed, d_out, d_in, ranks, rows);
    const auto t = dense_all(in.vectors);
    std::vector<dense_matrix> grams;
    for (const auto& x : in.features) grams.push_back(x.transpose() * x);
    std::vector<catmerge::statistics_view<>> statistics;
    for (std::size_t k = 0; k < grams.size(); ++k)
      statistics.push_back({catmerge::statistics_form::gram, catmerge::const_view_of(grams[k]),
                            static_cast<double>(rows[k])});
    for (const double ridge : {1e-3, 0.1}) {
      const catmerge::lot_options options{0.8, ridge};
      const auto expected = dense_lot(t, in.features, options);
      const auto found = catmerge::lot_factors(in.vectors, in.features, options);
      // The condition of sum_k S_k + mu I is at most d_in / ridge.
      const double bound = 4 * eps * static_cast<double>(d_in * d_in) / ridge;
      CHECK(bound <= 1e-9);
      CHECK(distance(dense(found.merged), expected.merged, sum_of_norms(t)) <= 1e-11);
      CHECK(found.merged.scale == 0.8);
      CHECK(found.report.fallback == catmerge::fallback_rule::none);

      const auto from_grams = catmerge::lot_factors(in.vectors, statistics, options);
      CHECK(distance(dense(from_grams.merged), expected.merged, sum_of_norms(t)) <= bound);

      // By the formula, solved anew.
      dense_matrix sum = dense_matrix::Zero(d_in, d_in);
      for (const auto& s : grams) sum += s;
      const double mu = ridge * sum.trace() / static_cast<double>(d_in);
      const dense_matrix identity = dense_matrix::Identity(d_in, d_in);
      const Eigen::LDLT<dense_matrix> solver(sum + mu * identity);
      index_t first = 0;
      for (std::size_t k = 0; k < t.size(); ++k) {
        const auto& v = in.vectors[k];
        const dense_matrix weighted =
            v.scale * v.a * (grams[k] + mu / static_cast<double>(tasks) * identity);
        const dense_matrix a = solver.solve(weighted.transpose()).transpose();
        const index_t r = v.a.rows();
        CHECK((found.merged.a.middleRows(first, r) - a).norm() <= bound * v.scale * v.a.norm());
        CHECK(found.merged.b.middleCols(first, r) == v.b);
        first += r;
      }
    }
    // The pseudo-inverse of the paper, where the rows are few and well-conditioned.
    const auto expected = dense_lot(t, in.features, {1, 0});
    const auto found = catmerge::lot_factors(in.vectors, in.features, {1, 0});
    CHECK(distance(dense(found.merged), expected.merged, sum_of_norms(t)) <= 1e-6);
  }
}

TEST_CASE_TEMPLATE("LOT in factors of every scalar type", S, float, catmerge::half,
                   catmerge::bfloat16) {
  const adapters<S> in(3, 18, 12, {3, 5}, {20, 9});
  const auto t = dense_all(in.vectors);
  const auto expected = dense_lot(t, all_in_double(in.features), {});
  const auto found = catmerge::lot_factors(in.vectors, in.features);
  CHECK(distance(dense(found.merged), expected.merged, sum_of_norms(t)) <=
        4 * tolerance::eps<catmerge::compute_t<S>>);
}

TEST_CASE("one adapter with enough rows returns itself") {
  const adapters<double> in(3, 18, 12, {4}, {60});
  for (const double ridge : {0.0, 1e-3}) {
    const auto found = catmerge::lot_factors(in.vectors, in.features, {1, ridge});
    const auto t = dense(in.vectors[0]);
    CHECK(distance(dense(found.merged), t, t.norm()) <= 1e-12);
    CHECK(found.merged.b == in.vectors[0].b);
  }
}

TEST_CASE("features that are zero leave the mean, and the report says so") {
  adapters<double> in(3, 18, 12, {4, 2}, {6, 5});
  for (auto& x : in.features) x.setZero();
  const auto found = catmerge::lot_factors(in.vectors, in.features);
  CHECK(found.report.fallback == catmerge::fallback_rule::mean);
  const dense_matrix mean = (dense(in.vectors[0]) + dense(in.vectors[1])) / 2;
  CHECK(distance(dense(found.merged), mean, mean.norm()) <= 1e-14);
}

TEST_CASE("errors of LOT in factors") {
  const adapters<double> in(1, 8, 6, {2, 3}, {4, 5});
  CHECK_THROWS_WITH_AS(catmerge::lot_factors(in.vectors, in.features, {NAN}),
                       "LOT: alpha must be a finite number", catmerge::error);
  CHECK_THROWS_WITH_AS(catmerge::lot_factors(in.vectors, std::vector{in.features[0]}),
                       "the parameter: features of 1 tasks for 2 task vectors", catmerge::error);
  auto features = in.features;
  features[0] = dense_matrix::Ones(6, 8);
  CHECK_THROWS_AS(catmerge::lot_factors(in.vectors, features), catmerge::error);
}
