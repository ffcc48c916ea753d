// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <catmerge/merge/compose.hpp>
#include <catmerge/merge/merge_parameter.hpp>
#include <catmerge/methods/breadcrumbs.hpp>
#include <catmerge/methods/task_arithmetic.hpp>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "support/backends/eigen.hpp"
#include "support/fake_device.hpp"

// Model Breadcrumbs against brute force: mergekit's counts, on sorted magnitudes.

using catmerge::breadcrumbs_options;
using catmerge::index_t;

namespace {

template <class S>
using matrix_of = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>;

struct counts {
  std::size_t smallest, kept;
};

/// As `magnitude_outliers` of mergekit's sparsify.py counts (commit 007d093), density below 1.
counts mergekit_counts(std::size_t n, double density, double gamma) {
  const auto whole = [n](double share) {
    return static_cast<std::int64_t>(share * static_cast<double>(n));
  };
  const std::int64_t target = whole(density);
  std::int64_t top = whole(gamma), bottom = static_cast<std::int64_t>(n) - target - top;
  if (bottom < 0) top += bottom, bottom = 0;
  return {static_cast<std::size_t>(bottom), n - static_cast<std::size_t>(bottom + top)};
}

/// The trim of one task vector. Of equal magnitudes all stay if one does.
template <class M>
M trimmed(M t, double density, double gamma) {
  std::vector<double> sizes;
  for (index_t i = 0; i < t.size(); ++i)
    sizes.push_back(std::abs(static_cast<double>(t.reshaped()(i))));
  std::sort(sizes.begin(), sizes.end());
  const counts c = mergekit_counts(sizes.size(), density, gamma);
  for (auto& x : t.reshaped()) {
    const double size = std::abs(static_cast<double>(x));
    if (c.kept == 0 || size < sizes[c.smallest] || size > sizes[c.smallest + c.kept - 1]) x = 0;
  }
  return t;
}

/// Whole numbers of at most `most`: the sums of a few of them are exact in every type, and many of
/// them are equal.
template <class S>
matrix_of<S> whole_numbers(index_t rows, index_t columns, int most, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> number(-most, most);
  matrix_of<S> m(rows, columns);
  for (auto& x : m.reshaped()) x = static_cast<S>(static_cast<float>(number(random)));
  return m;
}

/// 1, 2, 3, ... with either sign, in any order.
Eigen::MatrixXd distinct(index_t rows, index_t columns, unsigned seed) {
  std::vector<double> values(static_cast<std::size_t>(rows * columns));
  std::iota(values.begin(), values.end(), 1.0);
  std::mt19937 random(seed);
  std::shuffle(values.begin(), values.end(), random);
  for (double& v : values) v = random() % 2 == 0 ? v : -v;
  return Eigen::Map<Eigen::MatrixXd>(values.data(), rows, columns);
}

const std::vector<std::pair<double, double>> shares = {
    {0.9, 0.01}, {0.5, 0.2}, {0.3, 0}, {0.85, 0.4}, {0.001, 0.5}, {1, 0.3}, {0.9, 0.1}};

}  // namespace

TEST_CASE("Breadcrumbs: what stays of ten entries") {
  const auto kept = [](const Eigen::RowVectorXd& t, double density, double gamma) {
    const std::vector<Eigen::RowVectorXd> experts = {t};
    return Eigen::RowVectorXd(catmerge::breadcrumbs(Eigen::RowVectorXd::Zero(t.size()).eval(),
                                                    experts, {density, gamma, 1})
                                  .merged);
  };
  const Eigen::RowVectorXd ten{{3, -1, 2, 10, -5, 4, 8, -7, 6, 9}};
  // Five stay, two larger ones and three smaller ones go.
  CHECK(kept(ten, 0.5, 0.2) == Eigen::RowVectorXd{{0, 0, 0, 0, -5, 4, 8, -7, 6, 0}});
  CHECK(kept(ten, 0.5, 0) == Eigen::RowVectorXd{{0, 0, 0, 10, 0, 0, 8, -7, 6, 9}});
  // A gamma that leaves too little for the density counts less.
  CHECK(kept(ten, 0.8, 0.5) == Eigen::RowVectorXd{{3, -1, 2, 0, -5, 4, 8, -7, 6, 0}});
  CHECK(kept(ten, 1, 0.5) == ten);
  CHECK(kept(ten, 0.05, 0.2) == Eigen::RowVectorXd::Zero(10));
  // Entries equal to the smallest or the largest that stays, stay.
  CHECK(kept(Eigen::RowVectorXd{{1, 2, -2, 2, 3, 3, -3, 4}}, 0.25, 0.25) ==
        Eigen::RowVectorXd{{0, 0, 0, 0, 3, 3, -3, 0}});
  CHECK(kept(Eigen::RowVectorXd{{5}}, 0.9, 0.01) == Eigen::RowVectorXd::Zero(1));
}

TEST_CASE_TEMPLATE("Breadcrumbs: sums of trimmed vectors, as brute force has them", S, double,
                   float, catmerge::half, catmerge::bfloat16) {
  using C = catmerge::compute_t<S>;
  const matrix_of<S> base = whole_numbers<S>(13, 17, 20, 1);
  for (const auto& share : shares) {
    const double density = share.first, gamma = share.second;
    CAPTURE(density);
    CAPTURE(gamma);
    std::vector<matrix_of<S>> experts;
    matrix_of<C> expected = base.template cast<C>();
    for (unsigned k = 0; k < 3; ++k) {
      experts.push_back(whole_numbers<S>(13, 17, 20, 2 + k));
      const matrix_of<C> t = experts.back().template cast<C>() - base.template cast<C>();
      expected += C(0.5) * trimmed(t, density, gamma);
    }
    const breadcrumbs_options o{density, gamma, 0.5};
    CHECK(catmerge::breadcrumbs(base, experts, o).merged == expected);

    // On a device, whose memory the library cannot read.
    std::vector<test::fake_tensor<2>> there;
    for (const auto& e : experts) there.push_back(test::fake_tensor<2>::upload(e));
    const auto merged = catmerge::breadcrumbs(test::fake_tensor<2>::upload(base), there, o).merged;
    CHECK(merged.template download<C>() == expected);
  }
}

TEST_CASE("Breadcrumbs: exactly mergekit's counts, however the tensor is cut into strips") {
  for (const auto& [rows, columns] : {std::pair<index_t, index_t>{23, 31}, {600, 500}}) {
    const Eigen::MatrixXd zero = Eigen::MatrixXd::Zero(rows, columns);
    const std::vector<Eigen::MatrixXd> experts = {distinct(rows, columns, 7)};
    for (const auto& [density, gamma] : shares) {
      const auto merged = catmerge::breadcrumbs(zero, experts, {density, gamma, 1}).merged;
      const counts c = mergekit_counts(static_cast<std::size_t>(rows * columns), density, gamma);
      CHECK((merged.array() != 0).count() == static_cast<index_t>(c.kept));
      CHECK(merged == trimmed(experts[0], density, gamma));
    }
  }
}

TEST_CASE("Breadcrumbs: defaults, and the trim before another method") {
  const breadcrumbs_options standard;
  CHECK(standard.density == 0.9);
  CHECK(standard.gamma == 0.01);
  CHECK(standard.alpha == 0.4);
  const Eigen::MatrixXd base = distinct(20, 30, 1);
  const std::vector<Eigen::MatrixXd> experts = {distinct(20, 30, 2), distinct(20, 30, 3)};
  const auto merged = catmerge::breadcrumbs(base, experts).merged;
  const auto by = [&](const auto& first) {
    return catmerge::merge_parameter(catmerge::chain{first, catmerge::task_arithmetic_method{0.4}},
                                     catmerge::layer_kind::other, base, experts)
        .merged;
  };
  CHECK(merged == by(catmerge::breadcrumbs_trim{}));
  // With density 1 nothing is dropped.
  CHECK(catmerge::breadcrumbs(base, experts, {1, 0.01, 0.4}).merged ==
        by(catmerge::task_weights{{1, 1}}));
  CHECK(catmerge::breadcrumbs(Eigen::MatrixXd(0, 5), std::vector{Eigen::MatrixXd(0, 5)})
            .merged.size() == 0);
}

TEST_CASE("Breadcrumbs: options that make no sense") {
  const Eigen::MatrixXd base = Eigen::MatrixXd::Zero(2, 2);
  const std::vector<Eigen::MatrixXd> experts = {base};
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double density : {0.0, -0.1, 1.1, nan})
    CHECK_THROWS_WITH_AS(catmerge::breadcrumbs(base, experts, {density, 0.1, 1}),
                         "Breadcrumbs: density must be above 0 and at most 1", catmerge::error);
  for (const double gamma : {-0.1, 1.0, nan})
    CHECK_THROWS_WITH_AS(catmerge::breadcrumbs(base, experts, {0.9, gamma, 1}),
                         "Breadcrumbs: gamma must be at least 0 and below 1", catmerge::error);
  CHECK_THROWS_WITH_AS(catmerge::breadcrumbs(base, experts, {0.9, 0.1, nan}),
                       "Breadcrumbs: alpha must be a finite number", catmerge::error);
}
