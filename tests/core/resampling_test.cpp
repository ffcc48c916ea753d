// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <Eigen/SVD>
#include <catmerge/cat/resampling.hpp>
#include <catmerge/catmerge.hpp>
#include <cmath>
#include <random>
#include <vector>

#include "support/data.hpp"

// How far removal bases depend on the rows that they were found from.

using namespace test;
using catmerge::layer_kind;

namespace {

using dense = Eigen::MatrixXd;

struct given {
  dense base;
  std::vector<dense> experts, vectors, features;

  given(std::uint64_t seed, index_t d_out, index_t d_in, const std::vector<index_t>& rows) {
    generator g(seed);
    base = g.matrix(d_out, d_in);
    for (const index_t n : rows) {
      experts.push_back(base + g.matrix(d_out, d_in));
      vectors.push_back(experts.back() - base);
      features.push_back(g.matrix(n, d_in));
    }
  }

  auto merge(index_t resamples, const catmerge::cat_options& o) const {
    const catmerge::cat_with<catmerge::resampled_bases<>> method{o, {resamples}};
    return catmerge::merge_parameter(method, layer_kind::linear, base, experts, features);
  }
};

catmerge::cat_options with_rank(index_t rank) {
  catmerge::cat_options o;
  o.linear.lambda = 1;
  o.linear.directions = catmerge::largest{rank};
  return o;
}

/// By the definition: angles of spans, in degrees.
double angle(const dense& a, const dense& b) {
  const Eigen::VectorXd cosines = Eigen::JacobiSVD<dense>(a.transpose() * b).singularValues();
  double sum = 0;
  for (const double x : cosines) sum += std::acos(std::min(1.0, x)) * 180 / std::acos(-1.0);
  return sum / static_cast<double>(cosines.size());
}

}  // namespace

TEST_CASE("resampled bases: the mean angle to the bases of drawn rows") {
  const given l(1, 12, 9, {14, 6, 20});
  for (const index_t rank : {1, 3})
    for (const index_t resamples : {1, 5}) {
      const auto o = with_rank(rank);
      const auto [merged, report] = l.merge(resamples, o);
      std::vector<double> expected(3);
      std::mt19937_64 random(1);
      for (index_t draw = 0; draw < resamples; ++draw) {
        std::vector<dense> drawn;
        for (const auto& x : l.features) {
          drawn.emplace_back(x.rows(), x.cols());
          for (index_t i = 0; i < x.rows(); ++i)
            drawn.back().row(i) =
                x.row(static_cast<index_t>(random() % static_cast<std::uint64_t>(x.rows())));
        }
        for (index_t k = 0; k < 3; ++k)
          expected[at(k)] +=
              angle(catmerge::removal_basis(k, l.vectors, l.features, o.linear).basis,
                    catmerge::removal_basis(k, l.vectors, drawn, o.linear).basis) /
              static_cast<double>(resamples);
      }
      REQUIRE(report.trim);
      for (index_t k = 0; k < 3; ++k) {
        const auto& found = report.trim->protections[at(k)].angle;
        REQUIRE(found);
        CHECK(*found == doctest::Approx(expected[at(k)]).epsilon(1e-6));
        CHECK(*found > 1);
        CHECK(*found < 90);
      }
    }
}

TEST_CASE("resampled bases: the merge is the same bits; rows that are equal determine the bases") {
  given l(2, 10, 7, {5, 5});
  const auto o = with_rank(2);
  const dense plain = catmerge::merge_parameter(catmerge::cat_method{o}, layer_kind::linear, l.base,
                                                l.experts, l.features)
                          .merged;
  CHECK(same_bits(plain, l.merge(3, o).merged));
  CHECK_FALSE(l.merge(0, o).report.trim->protections[0].angle);
  for (auto& x : l.features) x.rowwise() = Eigen::RowVectorXd(x.row(0));
  const auto report = l.merge(4, with_rank(1)).report;
  for (const auto& p : report.trim->protections) CHECK(p.angle.value_or(90) < 1e-4);
}

TEST_CASE("resampled bases: no angle where there are no directions, and for Gram matrices") {
  const given l(3, 8, 6, {9, 9});
  const auto nothing = l.merge(2, with_rank(0)).report;
  for (const auto& p : nothing.trim->protections) CHECK_FALSE(p.angle);
  std::vector<dense> squares;
  std::vector<catmerge::statistics_view<>> grams;
  for (const auto& x : l.features) squares.push_back(x.transpose() * x);
  for (const auto& s : squares)
    grams.push_back({catmerge::statistics_form::gram, catmerge::const_view_of(s), 9});
  const catmerge::cat_with<catmerge::resampled_bases<>> method{with_rank(2), {2}};
  const auto report =
      catmerge::merge_parameter(method, layer_kind::linear, l.base, l.experts, grams).report;
  for (const auto& p : report.trim->protections) CHECK_FALSE(p.angle);
}
