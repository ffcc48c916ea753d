// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/catmerge.hpp>

#include "support/data.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"
#include "support/windows.hpp"

using namespace test;
using catmerge::feature_statistics;
using catmerge::moment_statistics;
using catmerge::statistics_form;

namespace {

catmerge::context<catmerge::host> c;

Eigen::MatrixXd held(const feature_statistics<>& s) {
  return c.to_host(s.view().data);
}
Eigen::MatrixXd held(const moment_statistics<>& s) {
  return c.to_host(s.view().data);
}

/// The largest |a - b| relative to the largest |b|.
double apart(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b) {
  REQUIRE(a.rows() == b.rows());
  REQUIRE(a.cols() == b.cols());
  return (a - b).cwiseAbs().maxCoeff() / b.cwiseAbs().maxCoeff();
}

Eigen::MatrixXd gram_of(const Eigen::MatrixXd& x) {
  const oracle::matrix e = oracle::exact(x);
  return oracle::times(oracle::flip(e), e).cast<double>();
}

}  // namespace

TEST_CASE_TEMPLATE("task vectors: difference and sum, in place and not", S, double, float) {
  generator g(1);
  const matrix_of<S> base = g.matrix<S>(7, 5), expert = g.matrix<S>(7, 5);
  const matrix_of<S> t = catmerge::task_vector(base, expert);
  CHECK(same_bits(t, matrix_of<S>(expert - base)));
  matrix_of<S> in_place = expert;
  catmerge::subtract_base(base, in_place);
  CHECK(same_bits(in_place, t));
  const matrix_of<S> sum = catmerge::with_task_vector(base, t, 0.5);
  CHECK(same_bits(sum, matrix_of<S>(base + S(0.5) * t)));
  CHECK(same_bits(catmerge::with_task_vector(base, t), matrix_of<S>(base + t)));
  matrix_of<S> parameter = base;
  catmerge::add_task_vector(parameter, t, -2);
  CHECK(same_bits(parameter, matrix_of<S>(base - S(2) * t)));
  // Vectors, whatever their orientation.
  const Eigen::Matrix<S, 1, Eigen::Dynamic> row = base.row(0), other = expert.row(0);
  CHECK(same_bits(catmerge::task_vector(row, other),
                  Eigen::Matrix<S, 1, Eigen::Dynamic>(other - row)));
}

TEST_CASE("task vectors: half types give float, and storage types mix") {
  generator g(2);
  const matrix_of<catmerge::half> base = g.matrix<catmerge::half>(6, 4);
  const matrix_of<catmerge::bfloat16> expert = g.matrix<catmerge::bfloat16>(6, 4);
  const Eigen::MatrixXf t = catmerge::task_vector(base, expert);
  CHECK(same_bits(t, Eigen::MatrixXf(expert.cast<float>() - base.cast<float>())));
  // In place the result is rounded once to what the expert is stored in.
  matrix_of<catmerge::bfloat16> in_place = expert;
  catmerge::subtract_base(base, in_place);
  index_t wrong = 0;
  for (index_t i = 0; i < t.size(); ++i)
    wrong += static_cast<double>(static_cast<float>(in_place.data()[i])) !=
             rounded(scalar_type::bf16, static_cast<double>(t.data()[i]));
  CHECK(wrong == 0);
}

TEST_CASE("task vectors: shapes that differ are an error that says which") {
  const Eigen::MatrixXf a = Eigen::MatrixXf::Zero(3, 4), b = Eigen::MatrixXf::Zero(4, 3);
  Eigen::MatrixXf m = b;
  CHECK_THROWS_WITH_AS(catmerge::task_vector(a, b),
                       "task_vector: expert: expected 3 x 4, found 4 x 3", catmerge::error);
  CHECK_THROWS_AS(catmerge::subtract_base(a, m), catmerge::error);
  CHECK_THROWS_AS(catmerge::add_task_vector(m, a), catmerge::error);
  CHECK_THROWS_AS(catmerge::with_task_vector(a, b), catmerge::error);
}

TEST_CASE_TEMPLATE("features: few rows are kept as they are, whatever the batches", S, double,
                   float, catmerge::half) {
  generator g(3);
  const matrix_of<S> x = g.matrix<S>(20, 24);
  feature_statistics<> whole, parts;
  whole.update(x);
  for (const auto& [first, count] : {std::pair<index_t, index_t>{0, 1}, {1, 0}, {1, 12}, {13, 7}})
    parts.update(matrix_of<S>(x.middleRows(first, count)));
  CHECK(whole.count() == 20);
  CHECK(parts.count() == 20);
  CHECK(parts.width() == 24);
  REQUIRE(whole.view().form == statistics_form::rows);
  REQUIRE(parts.view().form == statistics_form::rows);
  CHECK(parts.view().rows == 20);
  CHECK(same_bits(held(whole), held(parts)));
  const Eigen::MatrixXd exact = x.template cast<double>();
  CHECK(same_bits(held(whole), exact));
}

TEST_CASE("features: rows are kept in the widest type that was seen") {
  generator g(4);
  const Eigen::MatrixXf f = g.matrix<float>(3, 20);
  const Eigen::MatrixXd d = g.matrix(4, 20);
  for (const bool double_first : {false, true}) {
    feature_statistics<> s;
    if (double_first) s.update(d);
    s.update(f);
    if (!double_first) s.update(d);
    s.update(f);
    Eigen::MatrixXd expected(10, 20);
    if (double_first)
      expected << d, f.cast<double>(), f.cast<double>();
    else
      expected << f.cast<double>(), d, f.cast<double>();
    CHECK(same_bits(held(s), expected));
  }
}

TEST_CASE_TEMPLATE("features: more rows than d_in become a Gram matrix", S, double, float) {
  generator g(5);
  const index_t d = 16;
  const matrix_of<S> x = g.matrix<S>(50, d);
  const Eigen::MatrixXd expected = gram_of(x.template cast<double>());
  for (const index_t batch : {1, 7, 16, 17, 50}) {
    feature_statistics<> s;
    for (index_t i = 0; i < 50; i += batch)
      s.update(matrix_of<S>(x.middleRows(i, std::min(batch, 50 - i))));
    REQUIRE(s.view().form == statistics_form::gram);
    CHECK(s.view().rows == 50);
    CHECK(apart(held(s), expected) <= tolerance::reordered);
  }
  // Exactly d_in rows are still rows; one more is not.
  feature_statistics<> s;
  s.update(matrix_of<S>(x.topRows(d)));
  CHECK(s.view().form == statistics_form::rows);
  s.update(matrix_of<S>(x.middleRows(d, 1)));
  REQUIRE(s.view().form == statistics_form::gram);
  CHECK(apart(held(s), gram_of(x.topRows(d + 1).template cast<double>())) <= tolerance::reordered);
}

TEST_CASE("features: two halves give what the whole gives") {
  generator g(6);
  const index_t d = 12;
  for (const auto& [first, second] : {std::pair<index_t, index_t>{4, 5},
                                      {6, 9},
                                      {20, 3},
                                      {3, 20},
                                      {15, 15},
                                      {0, 5},
                                      {5, 0},
                                      {0, 0}}) {
    const Eigen::MatrixXf x = g.matrix<float>(first + second, d);
    feature_statistics<> whole, a, b;
    whole.update(x);
    a.update(Eigen::MatrixXf(x.topRows(first)));
    b.update(Eigen::MatrixXf(x.bottomRows(second)));
    a.combine(b);
    CHECK(a.count() == whole.count());
    if (a.count() == 0) continue;
    REQUIRE(a.view().form == whole.view().form);
    if (a.view().form == statistics_form::rows)
      CHECK(same_bits(held(a), held(whole)));
    else
      CHECK(apart(held(a), held(whole)) <= tolerance::reordered);
    CHECK(b.count() == second);  // the other one is not changed
  }
}

TEST_CASE("features: combining an accumulator with itself doubles it") {
  generator g(7);
  for (const index_t n : {2, 5, 20}) {
    const Eigen::MatrixXd x = g.matrix(n, 9);
    feature_statistics<> s;
    s.update(x);
    s.combine(s);
    Eigen::MatrixXd twice(2 * n, 9);
    twice << x, x;
    CHECK(s.count() == 2 * n);
    CHECK(apart(s.view().form == statistics_form::rows ? gram_of(held(s)) : held(s),
                gram_of(twice)) <= tolerance::reordered);
  }
  moment_statistics<> m;
  m.update(Eigen::MatrixXd::Constant(3, 4, 2.0).eval());
  m.combine(m);
  CHECK(m.count() == 6);
  CHECK(held(m).isApproxToConstant(4.0));
}

TEST_CASE("features: errors") {
  feature_statistics<> s;
  CHECK_THROWS_AS(s.view(), catmerge::error);
  s.update(Eigen::MatrixXf::Zero(0, 5).eval());
  CHECK(s.count() == 0);
  CHECK_THROWS_AS(s.view(), catmerge::error);
  s.update(Eigen::MatrixXf::Zero(2, 5).eval());
  CHECK_THROWS_WITH_AS(s.update(Eigen::MatrixXf::Zero(2, 6).eval()),
                       "feature_statistics: rows of 6 entries after rows of 5", catmerge::error);
  CHECK(s.count() == 2);
  for (const index_t n : {1, 9}) {  // rows, and a Gram matrix
    feature_statistics<> other;
    other.update(Eigen::MatrixXf::Zero(n, 4).eval());
    CHECK_THROWS_AS(s.combine(other), catmerge::error);
  }
  moment_statistics<> m;
  CHECK_THROWS_AS(m.view(), catmerge::error);
  m.update(Eigen::MatrixXf::Ones(2, 5).eval());
  CHECK_THROWS_AS(m.update(Eigen::MatrixXf::Ones(2, 6).eval()), catmerge::error);
  CHECK(held(m).isApproxToConstant(1.0));  // as before the error
  CHECK(m.count() == 2);
}

TEST_CASE_TEMPLATE("second moments: batches, halves and every form of statistics agree", S, double,
                   float, catmerge::bfloat16) {
  generator g(8);
  const index_t n = 70, d = 33;
  const matrix_of<S> x = g.matrix<S>(n, d);
  Eigen::MatrixXd expected(d, 1);
  for (index_t j = 0; j < d; ++j) {
    long double sum = 0;
    for (index_t i = 0; i < n; ++i) {
      const auto v = static_cast<long double>(static_cast<double>(x(i, j)));
      sum += v * v;
    }
    expected(j) = static_cast<double>(sum / n);
  }
  moment_statistics<> whole, parts, rest;
  whole.update(x);
  parts.update(matrix_of<S>(x.topRows(0)));
  parts.update(matrix_of<S>(x.topRows(11)));
  parts.update(matrix_of<S>(x.middleRows(11, 20)));
  rest.update(matrix_of<S>(x.bottomRows(39)));
  parts.combine(rest);
  parts.combine(moment_statistics<>());
  CHECK(apart(held(whole), expected) <= tolerance::reordered);
  CHECK(apart(held(parts), expected) <= tolerance::reordered);
  CHECK(parts.view().rows == n);
  CHECK(parts.view().form == statistics_form::second_moment);

  const Eigen::MatrixXd xd = x.template cast<double>();
  const Eigen::MatrixXd gram = gram_of(xd);
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(xd);
  const Eigen::MatrixXd factor =
      Eigen::MatrixXd(qr.matrixQR().topRows(d)).triangularView<Eigen::Upper>();
  using view = catmerge::statistics_view<catmerge::host>;
  for (const view& s :
       {view{statistics_form::rows, catmerge::const_view_of(x), double(n)},
        view{statistics_form::gram, catmerge::const_view_of(gram), double(n)},
        view{statistics_form::factor, catmerge::const_view_of(factor), double(n)}, whole.view()})
    CHECK(apart(c.to_host(catmerge::detail::second_moment(c, s)), expected) <=
          tolerance::reordered);
}
