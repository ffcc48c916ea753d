// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <Eigen/SVD>
#include <catmerge/catmerge.hpp>

#include "support/data.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace test;
using catmerge::layer_kind;
using catmerge::statistics_form;

namespace {

oracle::kind oracle_kind(layer_kind kind) {
  return kind == layer_kind::linear  ? oracle::kind::linear
         : kind == layer_kind::scale ? oracle::kind::scale
                                     : oracle::kind::shift;
}

using statistics = catmerge::statistics_view<catmerge::host>;

double shift_of(layer_kind kind, const Eigen::MatrixXd& x, const Eigen::MatrixXd& w,
                const Eigen::MatrixXd& t) {
  return static_cast<double>(oracle::feature_shift(oracle_kind(kind), oracle::exact(x),
                                                   oracle::exact(w), oracle::exact(t)));
}

}  // namespace

TEST_CASE_TEMPLATE("feature_shift is what evaluating the layer twice gives", S, double, float) {
  generator g(1);
  for (const index_t n : {0, 1, 7, 40}) {
    const matrix_of<S> x = g.matrix<S>(n, 6), w = g.matrix<S>(5, 6), t = g.matrix<S>(5, 6);
    const double expected = shift_of(layer_kind::linear, x.template cast<double>(),
                                     w.template cast<double>(), t.template cast<double>());
    CHECK(std::abs(catmerge::feature_shift(layer_kind::linear, x, t) - expected) <=
          tolerance::energy<S>(6 + 5 * 40) * expected);
    const vector_of<S> v = g.vector<S>(6), dv = g.vector<S>(6);
    for (const auto kind : {layer_kind::scale, layer_kind::shift}) {
      const double value = shift_of(kind, x.template cast<double>(), v.template cast<double>(),
                                    dv.template cast<double>());
      CHECK(std::abs(catmerge::feature_shift(kind, x, dv) - value) <=
            tolerance::energy<S>(6 * 40) * value);
    }
  }
}

TEST_CASE("feature_shift: rows, factor and Gram matrix give the same") {
  generator g(2);
  const index_t n = 30, d_in = 8;
  const Eigen::MatrixXd x = g.matrix(n, d_in), t = g.matrix(5, d_in), gram = x.transpose() * x;
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(x);
  const Eigen::MatrixXd factor =
      Eigen::MatrixXd(qr.matrixQR().topRows(d_in)).triangularView<Eigen::Upper>();
  const double expected = catmerge::feature_shift(layer_kind::linear, x, t);
  for (const auto& s :
       {statistics{statistics_form::gram, catmerge::const_view_of(gram), double(n)},
        statistics{statistics_form::factor, catmerge::const_view_of(factor), double(n)}})
    CHECK(std::abs(catmerge::feature_shift(layer_kind::linear, s, t) - expected) <=
          tolerance::reordered * expected);
  const Eigen::VectorXd v = g.vector(d_in),
                        moment = x.array().square().colwise().mean().transpose().matrix();
  const double scale = catmerge::feature_shift(layer_kind::scale, x, v);
  for (const auto& s :
       {statistics{statistics_form::gram, catmerge::const_view_of(gram), double(n)},
        statistics{statistics_form::second_moment, catmerge::const_view_of(moment), double(n)}})
    CHECK(std::abs(catmerge::feature_shift(layer_kind::scale, s, v) - scale) <=
          tolerance::reordered * scale);
}

TEST_CASE("feature_shift: errors, and what is not finite does not come out as a number") {
  const Eigen::MatrixXd x = Eigen::MatrixXd::Ones(3, 4), t = Eigen::MatrixXd::Ones(2, 4);
  CHECK_THROWS_AS(
      catmerge::feature_shift(layer_kind::linear, x, Eigen::MatrixXd::Ones(4, 2).eval()),
      catmerge::error);
  CHECK_THROWS_AS(catmerge::feature_shift(layer_kind::other, x, t), catmerge::error);
  const Eigen::VectorXd moment = Eigen::VectorXd::Ones(4);
  CHECK_THROWS_AS(
      catmerge::feature_shift(
          layer_kind::linear,
          statistics{statistics_form::second_moment, catmerge::const_view_of(moment), 3.0}, t),
      catmerge::error);
  Eigen::MatrixXd bad = t;
  bad(1, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK_FALSE(std::isfinite(catmerge::feature_shift(layer_kind::linear, x, bad)));
  const Eigen::MatrixXd gram = x.transpose() * x;
  const statistics s{statistics_form::gram, catmerge::const_view_of(gram), 3.0};
  CHECK_FALSE(std::isfinite(catmerge::feature_shift(layer_kind::linear, s, bad)));
}

TEST_CASE("conflict_matrix and inter_task_conflict: entry by entry") {
  const auto l = random_linear<double>(3, 6, 5, {4, 7, 2});
  const Eigen::MatrixXd m = catmerge::conflict_matrix(layer_kind::linear, l.features, l.vectors);
  for (index_t k = 0; k < 3; ++k)
    for (index_t i = 0; i < 3; ++i) {
      const double expected =
          shift_of(layer_kind::linear, l.features[at(k)], l.base, l.vectors[at(i)]);
      CHECK(std::abs(m(k, i) - expected) <= tolerance::energy<double>(50) * expected);
    }
  const auto conflict = catmerge::inter_task_conflict(m);
  for (index_t k = 0; k < 3; ++k) {
    double sum = 0;
    for (index_t i = 0; i < 3; ++i) sum += i == k ? 0 : m(k, i);
    CHECK(conflict[at(k)] == doctest::Approx(sum).epsilon(tolerance::reordered));
  }
  CHECK_THROWS_AS(catmerge::conflict_matrix(layer_kind::linear,
                                            std::vector<Eigen::MatrixXd>{l.features[0]}, l.vectors),
                  catmerge::error);
}

TEST_CASE_TEMPLATE("spectral_norm against a singular value decomposition", S, double, float) {
  generator g(4);
  for (const auto& [rows, columns] : {std::pair<index_t, index_t>{1, 1},
                                      {1, 9},
                                      {9, 1},
                                      {12, 30},
                                      {30, 12},
                                      {80, 80},
                                      {130, 70}}) {
    const matrix_of<S> w = g.matrix<S>(rows, columns);
    const Eigen::MatrixXd wide = w.template cast<double>();
    const double expected = Eigen::JacobiSVD<Eigen::MatrixXd>(wide).singularValues()(0);
    CHECK(std::abs(catmerge::spectral_norm(w) - expected) <= tolerance::spectral * expected);
  }
  CHECK(catmerge::spectral_norm(matrix_of<S>::Zero(4, 5).eval()) == 0);
  CHECK(catmerge::spectral_norm(matrix_of<S>(0, 5)) == 0);
  CHECK(catmerge::spectral_norm(matrix_of<S>(5, 0)) == 0);
  matrix_of<S> bad = matrix_of<S>::Ones(4, 5);
  bad(2, 2) = std::numeric_limits<S>::quiet_NaN();
  CHECK_THROWS_AS(catmerge::spectral_norm(bad), catmerge::error);
}

TEST_CASE(
    "lipschitz_bound holds on chains of linear layers, with the constants of the perturbed ones") {
  generator g(5);
  index_t tight = 0;
  for (int trial = 0; trial < 200; ++trial) {
    const index_t depth = g.integer(1, 5);
    std::vector<index_t> width;
    for (index_t l = 0; l <= depth; ++l) width.push_back(g.integer(1, 6));
    const Eigen::MatrixXd x = g.matrix(g.integer(1, 5), width[0]);
    Eigen::MatrixXd clean = x, disturbed = x;
    std::vector<double> gammas, shifts;
    for (index_t l = 0; l < depth; ++l) {
      const double size = std::pow(10, g.uniform() * 4 - 2);  // perturbations small and large
      const Eigen::MatrixXd w = g.matrix(width[at(l + 1)], width[at(l)]),
                            dw = g.matrix(width[at(l + 1)], width[at(l)], size);
      gammas.push_back(catmerge::spectral_norm((w + dw).eval()));
      shifts.push_back(std::sqrt(catmerge::feature_shift(layer_kind::linear, clean, dw)));
      clean = clean * w.transpose();
      disturbed = disturbed * (w + dw).transpose();
    }
    const double moved = (disturbed - clean).norm(),
                 bound = catmerge::lipschitz_bound(1, gammas, shifts);
    CHECK(moved <= bound * (1 + 10 * tolerance::spectral));
    CHECK(catmerge::lipschitz_bound(2.5, gammas, shifts) == 2.5 * bound);
    tight += moved > 0.5 * bound;
  }
  CHECK(tight > 20);  // it bounds, and is not vacuous
}

TEST_CASE("lipschitz_bound: constants of the unperturbed layers do not bound") {
  // W1 = 1, W2 = 0, dW1 = dW2 = x = 1: the output moves from 0 to 2.
  const std::vector<double> shifts{1, 1};  // x dW1 = 1; (x W1) dW2 = 1
  const double moved = (1.0 + 1.0) * (0.0 + 1.0) - 1.0 * 0.0;
  CHECK(catmerge::lipschitz_bound(1, std::vector<double>{2, 1}, shifts) == moved);
  CHECK(catmerge::lipschitz_bound(1, std::vector<double>{1, 0}, shifts) < moved);
  CHECK(catmerge::lipschitz_bound(1, {}, {}) == 0);
  CHECK_THROWS_AS(catmerge::lipschitz_bound(1, std::vector<double>{1}, shifts), catmerge::error);
}
