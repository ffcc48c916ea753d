// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/catmerge.hpp>
#include <catmerge/methods/lot.hpp>
#include <catmerge/methods/regmean.hpp>
#include <string>

#include "support/data.hpp"
#include "support/fake_device.hpp"
#include "support/gram.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

// Weights and features of any size: G_k has four of their entries as factors, which leave float
// long before weights or features do.

using namespace test;
using catmerge::basis_solver;
using catmerge::layer_kind;

namespace {

constexpr double sizes[] = {1e-30, 1e-20, 1e-10, 1, 1e10, 1e20, 1e30};
constexpr basis_solver every_way[] = {basis_solver::dense, basis_solver::shifts,
                                      basis_solver::weights};

/// A linear weight whose base and task vectors are of one size and its features of another.
template <class S>
layer<matrix_of<S>> linear_of_size(std::uint64_t seed, double weights, double features,
                                   index_t d_out = 24, index_t rows = 5) {
  generator g(seed);
  layer<matrix_of<S>> l;
  l.base = g.matrix<S>(d_out, 16, weights);
  for (int k = 0; k < 3; ++k) {
    l.experts.push_back(l.base + g.matrix<S>(d_out, 16, 0.1 * weights));
    l.vectors.push_back(l.experts.back() - l.base);
    l.features.push_back(g.matrix<S>(rows, 16, features));
  }
  return l;
}

/// The error of a, relative to the size of b.
double relative_error(const oracle::matrix& a, const oracle::matrix& b) {
  return static_cast<double>(std::sqrt(oracle::energy(oracle::minus(a, b)) / oracle::energy(b)));
}
double relative_error(double found, oracle::real expected) {
  return static_cast<double>(std::abs(found - expected) / std::abs(expected));
}

/// Checks a merge and its report against the oracle's.
template <class S>
void check_merge(const layer<matrix_of<S>>& l, const catmerge::merge_result<matrix_of<S>>& found,
                 double digits = 1) {
  const auto base = oracle::exact(l.base);
  const auto experts = oracle::exact_all(l.experts), x = oracle::exact_all(l.features);
  const auto vectors = oracle::exact_all(l.vectors);
  const auto expected = oracle::cat_linear(base, experts, x, {});
  REQUIRE(expected.gap > 1e-3);
  CHECK(relative_error(oracle::minus(oracle::exact(found.merged), base),
                       oracle::minus(expected.merged, base)) <
        digits * (tolerance::merged<S>(expected.gap) + 100 * tolerance::eps<S>));
  const double loose = digits * 16 * 18 * tolerance::eps<S>;  // products of 16, squared
  for (index_t k = 0; k < 3; ++k) {
    const auto spectrum =
        oracle::decompose(oracle::gram(k, vectors, x, catmerge::cat_options{}.linear.lambda));
    const auto& p = found.report.trim->protections[at(k)];
    REQUIRE(p.eigenvalues.size() == 4);
    for (std::size_t j = 0; j < 4; ++j)
      CHECK(std::abs(static_cast<double>(
                (p.eigenvalues[j] - spectrum.values[j]) /
                std::max(std::abs(spectrum.values.front()), std::abs(spectrum.values.back())))) <
            loose + 2e-6);
    for (index_t i = 0; i < 3; ++i) {
      const auto before = oracle::energy(oracle::times(x[at(k)], oracle::flip(vectors[at(i)])));
      CHECK(relative_error(found.report.trim->conflict_before(k, i), before) < loose);
    }
    CHECK(found.report.trim->conflict_after.row(k).sum() > 0);
    CHECK(std::isfinite(found.report.trim->conflict_after.row(k).sum()));
    CHECK(found.report.trim->deviation[at(k)] > 0);
    CHECK(found.report.trim->energy_removed[at(k)] > 0);
  }
}

/// The message of f's exception.
template <class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const catmerge::error& e) {
    return e.what();
  }
  return "nothing was thrown";
}

bool says(const std::string& message, std::initializer_list<const char*> parts) {
  bool all = true;
  for (const char* part : parts) all = all && message.find(part) != std::string::npos;
  if (!all) MESSAGE(message);
  return all;
}

}  // namespace

TEST_CASE_TEMPLATE("linear weights and features of any size, every way", S, float, double) {
  for (const double weights : sizes)
    for (const double features : sizes)
      for (const basis_solver way : every_way) {
        CAPTURE(weights);
        CAPTURE(features);
        CAPTURE(static_cast<int>(way));
        const auto l = linear_of_size<S>(3, weights, features);
        catmerge::cat_options options;
        options.linear.solver = way;
        check_merge(l, catmerge::cat_linear(l.base, l.experts, l.features, options));
      }
}

TEST_CASE_TEMPLATE("the largest and smallest numbers of float", S, float) {
  for (const double weights : {1e-36, 1e36})
    for (const double features : {1e-37, 1e37})
      for (const basis_solver way : every_way) {
        CAPTURE(weights);
        CAPTURE(features);
        CAPTURE(static_cast<int>(way));
        const auto l = linear_of_size<S>(5, weights, features);
        catmerge::cat_options options;
        options.linear.solver = way;
        check_merge(l, catmerge::cat_linear(l.base, l.experts, l.features, options));
      }
}

TEST_CASE_TEMPLATE("Gram matrices of features of any size", S, float, double) {
  for (const double features : sizes)
    for (const basis_solver way : {basis_solver::dense, basis_solver::weights}) {
      CAPTURE(features);
      CAPTURE(static_cast<int>(way));
      const auto l = linear_of_size<S>(4, 1e-20, features, 24, 18);  // more rows than d_in
      std::vector<catmerge::feature_statistics<>> statistics(3);
      for (std::size_t k = 0; k < 3; ++k) {
        statistics[k].update(l.features[k]);
        REQUIRE(statistics[k].view().form == catmerge::statistics_form::gram);
      }
      catmerge::cat_options options;
      options.linear.solver = way;
      check_merge(l, catmerge::cat_linear(l.base, l.experts, statistics, options));
    }
}

TEST_CASE_TEMPLATE("task vectors of different sizes each have their directions", S, float, double) {
  // G_0 is made of the small ones alone.
  for (const double large : {1e10, 1e20})
    for (const basis_solver way : every_way) {
      CAPTURE(large);
      CAPTURE(static_cast<int>(way));
      auto l = linear_of_size<S>(6, 1, 1);
      l.vectors[0] *= S(large);
      l.vectors[1] /= S(large);
      l.vectors[2] /= S(large);
      const auto vectors = oracle::exact_all(l.vectors), x = oracle::exact_all(l.features);
      catmerge::projection_options options;
      options.solver = way;
      for (index_t k = 0; k < 3; ++k) {
        const auto found = catmerge::removal_basis(k, l.vectors, l.features, options);
        const auto spectrum = oracle::decompose(oracle::gram(k, vectors, x, options.lambda));
        const auto expected = oracle::leading(spectrum, 4);
        const double gap = oracle::gap(spectrum, expected.cols());
        CAPTURE(k);
        CAPTURE(gap);
        REQUIRE(found.basis.cols() == expected.cols());
        CHECK((oracle::onto(oracle::exact(found.basis)) - oracle::onto(expected)).norm() <
              100 * tolerance::subspace(gap) + tolerance::gram<S>(64) / gap);
      }
    }
}

TEST_CASE_TEMPLATE("vectors and features that never meet are no reason for another arithmetic", S,
                   float) {
  // Task 0's features see nothing of the others' vectors: G_0 has no gain; and with lambda = 0 it
  // is zero. What is found for the others has the bits that it has without task 0's peculiarity.
  auto l = linear_of_size<S>(7, 1, 1);
  for (std::size_t i = 1; i < 3; ++i) l.vectors[i].leftCols(8).setZero();
  l.features[0].rightCols(8).setZero();
  catmerge::projection_options options;
  options.lambda = 0;
  options.solver = basis_solver::dense;
  CHECK(catmerge::removal_basis(0, l.vectors, l.features, options).basis.cols() == 0);
  catmerge::context<catmerge::host> c;
  const auto views = catmerge::detail::read_all<catmerge::context<catmerge::host>>(l.vectors);
  const auto statistics = catmerge::detail::as_statistics_list(l.features);
  const auto g = test::make_gram(test::gram_way::shifts, c,
                                 {views, statistics, 0, catmerge::row_weight::sum, {0, 1, 2}});
  CHECK(g->type() == catmerge::scalar_type::f32);
  CHECK(g->single());
  CHECK(g->shift_energy(0, 1) == 0);
}

TEST_CASE_TEMPLATE("in the usual range, and for zeros, float stays float", S, float) {
  using context = catmerge::context<catmerge::host>;
  context c;
  // Fine-tuned weights move by 1e-6 to 1; features are 1e-4 to 1e4.
  for (const double vectors : {1e-6, 1e-3, 1.0})
    for (const double features : {0.0, 1e-4, 1.0, 1e4})
      for (const auto way : {test::gram_way::shifts, test::gram_way::weights}) {
        auto l = linear_of_size<S>(8, vectors, features);
        l.vectors[1].setZero();
        l.features[2].setZero();
        const auto g = test::make_gram(way, c,
                                       {catmerge::detail::read_all<context>(l.vectors),
                                        catmerge::detail::as_statistics_list(l.features),
                                        5,
                                        catmerge::row_weight::sum,
                                        {0, 1, 2}});
        CHECK(g->type() == catmerge::scalar_type::f32);
        CHECK(g->single());
        CHECK(g->searchable());
      }
  // Powers of two within it change no bit, so nothing was rounded on the way.
  const auto l = linear_of_size<S>(9, 1, 1, 40);
  auto larger = l.features;
  for (auto& x : larger) x *= S(0x1p12);
  for (const basis_solver way : every_way) {
    catmerge::cat_options options;
    options.linear.solver = way;
    CHECK(same_bits(catmerge::cat_linear(l.base, l.experts, l.features, options).merged,
                    catmerge::cat_linear(l.base, l.experts, larger, options).merged));
  }
}

TEST_CASE_TEMPLATE("scales and shifts of any size", S, float, double) {
  for (const double weights : sizes)
    for (const double features : sizes) {
      CAPTURE(weights);
      CAPTURE(features);
      generator g(10);
      const vector_of<S> base = g.vector<S>(20, weights);
      std::vector<vector_of<S>> experts, vectors;
      std::vector<matrix_of<S>> x;
      for (int k = 0; k < 3; ++k) {
        experts.push_back(base + g.vector<S>(20, 0.1 * weights));
        vectors.push_back(experts.back() - base);
        x.push_back(g.matrix<S>(6, 20, features));
      }
      const auto exact = oracle::exact_all(vectors), inputs = oracle::exact_all(x);
      const catmerge::cat_options options;
      for (const layer_kind kind : {layer_kind::scale, layer_kind::shift}) {
        std::vector<std::vector<oracle::size>> masks;
        for (index_t k = 0; k < 3; ++k)
          masks.push_back(
              kind == layer_kind::scale
                  ? oracle::take(oracle::scale_scores(k, exact, inputs, options.scale.lambda), 4,
                                 true)
                  : oracle::take(oracle::shift_scores(k, exact), 4, true));
        const auto expected = oracle::combine(oracle::exact(base), options.alpha,
                                              oracle::trim_masked(exact, masks, false));
        const auto found = kind == layer_kind::scale ? catmerge::cat_scale(base, experts, x)
                                                     : catmerge::cat_shift(base, experts);
        CHECK(relative_error(oracle::exact(found.merged), expected) < 8 * tolerance::eps<S>);
        for (index_t k = 0; k < 3; ++k) {
          CHECK(found.report.trim->protections[at(k)].coordinates ==
                std::vector<index_t>(masks[at(k)].begin(), masks[at(k)].end()));
          for (index_t i = 0; i < 3; ++i) {
            const auto before = kind == layer_kind::scale
                                    ? oracle::feature_shift(oracle::kind::scale, inputs[at(k)],
                                                            0 * exact[at(i)], exact[at(i)])
                                    : oracle::energy(exact[at(i)]);
            CHECK(relative_error(found.report.trim->conflict_before(k, i), before) < 1e-12);
          }
        }
      }
    }
}

TEST_CASE_TEMPLATE("feature shifts, conflicts and statistics of any size", S, float, double) {
  for (const double weights : sizes)
    for (const double features : sizes) {
      CAPTURE(weights);
      CAPTURE(features);
      const auto l = linear_of_size<S>(11, weights, features);
      const auto conflicts = catmerge::conflict_matrix(layer_kind::linear, l.features, l.vectors);
      for (index_t k = 0; k < 3; ++k)
        for (index_t i = 0; i < 3; ++i) {
          const auto expected = oracle::energy(oracle::times(
              oracle::exact(l.features[at(k)]), oracle::flip(oracle::exact(l.vectors[at(i)]))));
          CHECK(relative_error(conflicts(k, i), expected) < 16 * 18 * tolerance::eps<S>);
          catmerge::feature_statistics<> statistics;
          for (int batch = 0; batch < 4; ++batch) statistics.update(l.features[at(k)]);
          REQUIRE(statistics.view().form == catmerge::statistics_form::gram);
          CHECK(relative_error(
                    catmerge::feature_shift(layer_kind::linear, statistics, l.vectors[at(i)]),
                    4 * expected) < 16 * 18 * tolerance::eps<S>);
        }
      catmerge::moment_statistics<> moments;
      moments.update(l.features[0]);
      const Eigen::MatrixXd moment =
          catmerge::context<catmerge::host>().to_host(moments.view().data);
      const auto x = oracle::exact(l.features[0]);
      for (index_t j = 0; j < 16; ++j)
        CHECK(relative_error(moment(j, 0), oracle::energy(x.col(j)) / oracle::real(5)) < 1e-14);
    }
  // A shift of zero is zero, and what is zero is not looked for in double for ever.
  const auto l = linear_of_size<S>(12, 1, 0);
  CHECK(catmerge::feature_shift(layer_kind::linear, l.features[0], l.vectors[0]) == 0);
}

TEST_CASE_TEMPLATE("the size of features plays no part in LOT and RegMean", S, float, double) {
  const auto l = linear_of_size<S>(13, 1, 1);
  const auto lot = catmerge::lot_linear(l.base, l.experts, l.features).merged;
  const auto regmean = catmerge::regmean_linear(l.base, l.experts, l.features).merged;
  for (const int power : {-100, -66, 66, 100}) {
    auto x = l.features;
    for (auto& m : x) m *= static_cast<S>(std::exp2(power));
    CHECK(same_bits(catmerge::lot_linear(l.base, l.experts, x).merged, lot));
    CHECK(same_bits(catmerge::regmean_linear(l.base, l.experts, x).merged, regmean));
  }
}

TEST_CASE("on a device the arithmetic is the host's, whatever the size") {
  for (const double size : {1e-20, 1e20}) {
    const auto l = linear_of_size<float>(14, size, size);
    std::vector<fake_tensor<2>> experts, features;
    for (std::size_t k = 0; k < 3; ++k) {
      experts.push_back(fake_tensor<2>::upload(l.experts[k]));
      features.push_back(fake_tensor<2>::upload(l.features[k]));
    }
    for (const basis_solver way : every_way) {
      catmerge::cat_options options;
      options.linear.solver = way;
      const auto found =
          catmerge::cat_linear(fake_tensor<2>::upload(l.base), experts, features, options);
      CHECK(same_bits(found.merged.download<float>(),
                      catmerge::cat_linear(l.base, l.experts, l.features, options).merged));
    }
  }
}

TEST_CASE("what leaves double is named, with the size and the way out") {
  using catmerge::cat_linear;
  const auto merge = [](double weights, double features) {
    return message_of([&] {
      const auto l = linear_of_size<double>(15, weights, features);
      cat_linear(l.base, l.experts, l.features);
    });
  };
  CHECK(says(merge(1e90, 1e80), {"the parameter", "G_k of task 0 overflows float64", "about 1e81",
                                 "about 1e90", "features of all tasks by one power of two"}));
  CHECK(says(merge(1, 1e160), {"G_k", "overflows float64", "above 1e154"}));
  CHECK(says(merge(1e-80, 1e-80), {"G_k of task 0 vanishes in float64", "about 1e-79"}));
  CHECK(says(merge(1e170, 1),
             {"expert 'task 0'", "the norm of its task vector overflows float64", "power of two"}));
  CHECK(says(merge(1e-150, 1),
             {"expert 'task 0'", "the square of its task vector vanishes", "power of two"}));
  CHECK(merge(1e60, 1e60) == "nothing was thrown");
  CHECK(merge(1e-60, 1e-60) == "nothing was thrown");

  const auto big = linear_of_size<double>(16, 1e90, 1e80);
  CHECK(says(message_of([&] {
               catmerge::feature_shift(layer_kind::linear, big.features[0], big.vectors[0]);
             }),
             {"feature_shift", "overflows float64", "power of two"}));
  const Eigen::VectorXd base = Eigen::VectorXd::Zero(3);
  const std::vector<Eigen::VectorXd> experts(2, Eigen::VectorXd::Ones(3));
  const std::vector<Eigen::MatrixXd> x(2, Eigen::MatrixXd::Constant(2, 3, 1e160));
  CHECK(says(message_of([&] { catmerge::cat_scale(base, experts, x); }),
             {"features of 'task 0'", "squares overflow float64", "power of two"}));
}

TEST_CASE("layouts that are confused are told where the extents show it") {
  const Eigen::MatrixXd w = Eigen::MatrixXd::Random(4, 6), t = w.transpose();
  const std::vector<Eigen::MatrixXd> experts(2, w), turned{w, t};
  const auto merge = [&](const auto& e, index_t rows, index_t columns) {
    return message_of([&] {
      catmerge::cat_linear(w, e, std::vector<Eigen::MatrixXd>(2, Eigen::MatrixXd(rows, columns)));
    });
  };
  CHECK(says(merge(turned, 3, 6), {"expert 'task 1': expected 4 x 6, found 6 x 4",
                                   "the base's transpose", ".transpose()"}));
  CHECK(
      says(merge(experts, 3, 4), {"features of 'task 0'", "expected rows of 6 entries, found 3 x 4",
                                  "as wide as d_out", "Conv1D", "transposed"}));
  CHECK(says(merge(experts, 6, 3),
             {"expected rows of 6 entries, found 6 x 3", "a row for each token", "transposed"}));
  CHECK(says(merge(experts, 3, 5), {"expected rows of 6 entries, found 3 x 5"}));
  CHECK_FALSE(merge(experts, 3, 5).find("transposed") != std::string::npos);
  CHECK(says(message_of([&] { catmerge::cat_linear(w, experts, std::vector<Eigen::MatrixXd>{w}); }),
             {"features of 1 tasks for 2 experts", "in the order of the experts"}));
  CHECK(says(
      message_of([&] { catmerge::removal_basis(0, experts, std::vector<Eigen::MatrixXd>(2, t)); }),
      {"removal_basis: features 0", "as wide as d_out"}));
  CHECK(says(message_of([&] { catmerge::feature_shift(layer_kind::linear, t, w); }),
             {"feature_shift", "as wide as d_out"}));
}
