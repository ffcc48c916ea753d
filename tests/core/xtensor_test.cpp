// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/adapt/xtensor.hpp>
#include <catmerge/catmerge.hpp>

#include "support/data.hpp"

using namespace test;
using catmerge::const_view_of;
using catmerge::view_of;

namespace {

constexpr auto rows_first = xt::layout_type::row_major;
constexpr auto columns_first = xt::layout_type::column_major;
constexpr auto any_order = xt::layout_type::dynamic;

static_assert(catmerge::any_matrix<xt::xtensor<float, 2>>);
static_assert(!catmerge::any_vector<xt::xtensor<float, 2>>);
static_assert(catmerge::any_vector<xt::xtensor<double, 1>>);
static_assert(!catmerge::any_matrix<xt::xtensor<double, 1>>);
static_assert(catmerge::any_matrix<xt::xarray<float>> && catmerge::any_vector<xt::xarray<float>>);
static_assert(!catmerge::any_tensor<xt::xtensor<float, 3>>);
static_assert(!catmerge::any_tensor<xt::xtensor<int, 2>>);
static_assert(std::is_same_v<catmerge::result_t<xt::xtensor<catmerge::half, 2, columns_first>>,
                             xt::xtensor<float, 2, columns_first>>);
static_assert(std::is_same_v<catmerge::result_t<xt::xarray<double>>, xt::xarray<double>>);
static_assert(std::is_same_v<catmerge::result_t<xt::xarray<catmerge::bfloat16, any_order>>,
                             xt::xarray<float, any_order>>);

template <class X>
X converted(const Eigen::MatrixXf& m, xt::layout_type order = rows_first) {
  const std::vector<std::size_t> extents{at(m.rows()), at(m.cols())};
  X x;
  if constexpr (X::static_layout == any_order)
    x.resize(typename X::shape_type{at(m.rows()), at(m.cols())}, order);
  else
    x.resize({at(m.rows()), at(m.cols())});
  for (index_t i = 0; i < m.rows(); ++i)
    for (index_t j = 0; j < m.cols(); ++j) x(at(i), at(j)) = m(i, j);
  return x;
}

template <class X>
bool shows(X& x) {
  const catmerge::host_const_view v = const_view_of(x);
  if (v.rows != static_cast<index_t>(x.shape()[0])) return false;
  if (x.dimension() == 2 && v.columns != static_cast<index_t>(x.shape()[1])) return false;
  for (index_t i = 0; i < v.rows; ++i)
    for (index_t j = 0; j < v.columns; ++j) {
      const void* element = x.dimension() == 1 ? &x(at(i)) : &x(at(i), at(j));
      if (v.at(i, j) != element) return false;
    }
  return true;
}

/// CAT on xtensors of one kind gives Eigen's bits.
template <class X>
void check_cat(xt::layout_type order = rows_first) {
  const auto l = random_linear<float>(1, 20, 14, {5, 9, 30});
  std::vector<X> experts, features;
  for (const auto& e : l.experts) experts.push_back(converted<X>(e, order));
  for (const auto& f : l.features) features.push_back(converted<X>(f, order));
  const X base = converted<X>(l.base, order);
  const auto expected = catmerge::cat_linear(l.base, l.experts, l.features).merged;
  const auto found = catmerge::cat_linear(base, experts, features).merged;
  static_assert(std::is_same_v<decltype(found), const X>);
  index_t wrong = 0;
  for (index_t i = 0; i < 20; ++i)
    for (index_t j = 0; j < 14; ++j) wrong += found(at(i), at(j)) != expected(i, j);
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("xtensor: CAT gives Eigen's bits on every kind") {
  check_cat<xt::xtensor<float, 2, rows_first>>();
  check_cat<xt::xtensor<float, 2, columns_first>>();
  check_cat<xt::xarray<float, rows_first>>();
  check_cat<xt::xarray<float, columns_first>>();
  check_cat<xt::xarray<float, any_order>>(columns_first);
}

TEST_CASE("xtensor: views show the tensor's own memory, extents of one included") {
  for (const auto& [n, m] : {std::pair<std::size_t, std::size_t>{3, 4}, {1, 4}, {3, 1}, {1, 1}}) {
    xt::xtensor<float, 2, rows_first> a({n, m});
    xt::xtensor<catmerge::half, 2, columns_first> b({n, m});
    auto c = xt::xarray<double, rows_first>::from_shape({n, m});
    auto d = xt::xarray<catmerge::bfloat16, columns_first>::from_shape({n, m});
    CHECK(shows(a));
    CHECK(shows(b));
    CHECK(shows(c));
    CHECK(shows(d));
    CHECK(view_of(a).data == a.data());
    const auto& constant = c;
    CHECK(const_view_of(constant).data == c.data());
  }
  xt::xtensor<float, 1> v({5});
  auto w = xt::xarray<float>::from_shape({5});
  xt::xtensor<float, 1> one({1});
  CHECK(shows(v));
  CHECK(shows(w));
  CHECK(shows(one));
}

TEST_CASE("xtensor: extents of one and none go through the algorithms") {
  using matrix = xt::xtensor<float, 2>;
  matrix base({1, 4}), expert({1, 4}), x({1, 4});
  base.fill(1);
  expert.fill(3);
  x.fill(1);
  const std::vector<matrix> experts{expert, expert}, features{x, x};
  const auto merged = catmerge::cat_linear(base, experts, features).merged;
  CHECK(merged.shape()[0] == 1);
  CHECK(merged.shape()[1] == 4);
  const matrix nothing = matrix::from_shape({0, 4});
  const auto arithmetic =
      catmerge::cat_linear(base, experts, std::vector<matrix>{nothing, nothing}).merged;
  for (std::size_t j = 0; j < 4; ++j) CHECK(arithmetic(0, j) == 1 + 0.4F * 4);

  matrix in_place = expert;
  catmerge::subtract_base(base, in_place);
  for (std::size_t j = 0; j < 4; ++j) CHECK(in_place(0, j) == 2);
}

TEST_CASE("xtensor: vectors of static and dynamic rank") {
  const auto l = random_vector<float>(2, 12, {5, 7});
  const auto expected = catmerge::cat_shift(l.base, l.experts).merged;
  const auto run = [&](auto like) {
    using X = decltype(like);
    const auto put = [](const Eigen::VectorXf& v) {
      X x = X::from_shape({at(v.size())});
      for (index_t i = 0; i < v.size(); ++i) x(at(i)) = v(i);
      return x;
    };
    std::vector<X> experts;
    for (const auto& e : l.experts) experts.push_back(put(e));
    const auto found = catmerge::cat_shift(put(l.base), experts).merged;
    REQUIRE(found.dimension() == 1);
    index_t wrong = 0;
    for (index_t i = 0; i < 12; ++i) wrong += found(at(i)) != expected(i);
    CHECK(wrong == 0);
  };
  run(xt::xtensor<float, 1>());
  run(xt::xarray<float>());
}

TEST_CASE("xtensor: other ranks are refused with a sentence") {
  const auto cube = xt::xarray<float>::from_shape({2, 3, 4});
  CHECK_THROWS_WITH_AS(
      catmerge::task_vector(cube, cube),
      "an xtensor expression of rank 3 is neither a vector nor a matrix: reshape it "
      "to (d_out, rest) first",
      catmerge::error);
  const xt::xarray<float> scalar = 3.0F;
  CHECK_THROWS_AS(catmerge::task_vector(scalar, scalar), catmerge::error);
}
