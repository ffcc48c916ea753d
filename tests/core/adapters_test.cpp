// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/catmerge.hpp>
#include <numeric>

#include "support/data.hpp"

using namespace test;
using catmerge::const_view_of;
using catmerge::view_of;

namespace {

/// Whether the window shows the very memory of the tensor, element by element: no copy, right
/// strides.
template <class View, class Element>
bool shows(const View& v, index_t rows, index_t columns, const Element& element) {
  if (v.rows != rows || v.columns != columns) return false;
  const catmerge::host_const_view window = v;
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < columns; ++j)
      if (window.at(i, j) != static_cast<const void*>(element(i, j))) return false;
  return true;
}

template <class T>
bool shows_matrix(T& t) {
  const auto element = [&](index_t i, index_t j) { return &t.coeffRef(i, j); };
  return shows(const_view_of(t), t.rows(), t.cols(), element);
}

template <class T>
constexpr bool is_matrix = catmerge::any_matrix<T> && !catmerge::any_vector<T>;
template <class T>
constexpr bool is_vector = catmerge::any_vector<T> && !catmerge::any_matrix<T>;

using catmerge::bfloat16;
using catmerge::half;
using catmerge::result_t;
using Eigen::Dynamic;

// The kinds of Eigen's types, and the types of their results.
static_assert(is_matrix<Eigen::MatrixXf>);
static_assert(is_matrix<Eigen::Matrix<half, 3, 4>>);
static_assert(is_matrix<Eigen::ArrayXXd>);
static_assert(is_matrix<row_major_of<bfloat16>>);
static_assert(is_vector<Eigen::VectorXf>);
static_assert(is_vector<Eigen::RowVectorXd>);
static_assert(is_vector<Eigen::ArrayXf>);
static_assert(is_vector<Eigen::Matrix<float, 5, 1>>);
static_assert(is_matrix<Eigen::Map<const Eigen::MatrixXf>>);
static_assert(is_matrix<Eigen::Ref<Eigen::MatrixXf>>);
static_assert(is_matrix<Eigen::Block<Eigen::MatrixXf>>);
static_assert(is_vector<Eigen::MatrixXf::ColXpr>);
static_assert(is_vector<Eigen::MatrixXf::RowXpr>);
static_assert(!catmerge::any_tensor<decltype(Eigen::MatrixXf() + Eigen::MatrixXf())>);
static_assert(!catmerge::any_tensor<Eigen::MatrixXi>);
static_assert(!catmerge::any_tensor<Eigen::MatrixXcd>);
static_assert(!catmerge::any_tensor<std::vector<int>>);
static_assert(std::is_same_v<result_t<Eigen::MatrixXf>, Eigen::MatrixXf>);
static_assert(std::is_same_v<result_t<row_major_of<half>>, row_major_of<float>>);
static_assert(std::is_same_v<result_t<Eigen::Matrix<bfloat16, 3, 4>>, Eigen::MatrixXf>);
static_assert(std::is_same_v<result_t<Eigen::ArrayXXd>, Eigen::ArrayXXd>);
static_assert(std::is_same_v<result_t<Eigen::RowVectorXf>, Eigen::RowVectorXf>);
static_assert(std::is_same_v<result_t<Eigen::Array<half, Dynamic, 1>>, Eigen::ArrayXf>);
static_assert(
    std::is_same_v<result_t<Eigen::Map<const row_major_of<double>>>, row_major_of<double>>);
static_assert(std::is_same_v<result_t<Eigen::Block<const Eigen::MatrixXf>>, Eigen::MatrixXf>);
static_assert(std::is_same_v<result_t<Eigen::MatrixXf::RowXpr>, Eigen::RowVectorXf>);
static_assert(
    std::is_same_v<result_t<catmerge::flat_matrix<const half>>, catmerge::flat_array<float>>);
static_assert(std::is_same_v<result_t<std::span<const double>>, std::vector<double>>);
static_assert(std::is_same_v<result_t<std::vector<bfloat16>>, std::vector<float>>);
static_assert(std::is_same_v<result_t<catmerge::host_const_view>, catmerge::host_matrix>);

}  // namespace

TEST_CASE_TEMPLATE("Eigen: views show the tensor's own memory", S, float, double, half, bfloat16) {
  matrix_of<S> m = generator(1).matrix<S>(6, 9);
  row_major_of<S> r = m;
  const matrix_of<S> constant = m;
  CHECK(shows_matrix(m));
  CHECK(shows_matrix(r));
  CHECK(const_view_of(constant).data == constant.data());
  CHECK(view_of(m).data == m.data());
  Eigen::Array<S, Dynamic, Dynamic> a = m.array();
  CHECK(shows_matrix(a));
  Eigen::Matrix<S, 3, 4> fixed = m.template topLeftCorner<3, 4>();
  CHECK(shows_matrix(fixed));
  Eigen::Matrix<S, 3, 4, Eigen::RowMajor> fixed_rows = fixed;
  CHECK(shows_matrix(fixed_rows));

  auto block = m.block(1, 2, 3, 5);
  CHECK(shows_matrix(block));
  auto row_block = r.block(1, 2, 3, 5);
  CHECK(shows_matrix(row_block));
  auto transposed = m.transpose();
  CHECK(shows_matrix(transposed));
  Eigen::Ref<matrix_of<S>> ref = m;
  CHECK(shows_matrix(ref));
  using strided = Eigen::Map<matrix_of<S>, 0, Eigen::Stride<Dynamic, Dynamic>>;
  strided map(m.data(), 2, 3, Eigen::Stride<Dynamic, Dynamic>(18, 2));
  CHECK(shows_matrix(map));
  Eigen::Map<const row_major_of<S>> constant_map(constant.data(), 9, 6);
  CHECK(const_view_of(constant_map).data == constant.data());

  Eigen::Matrix<S, 1, Dynamic> row = m.row(0);
  CHECK(shows(const_view_of(row), 9, 1, [&](index_t i, index_t) { return &row(i); }));
  auto column_of_rows = r.col(2);  // inner stride 9
  CHECK(shows(const_view_of(column_of_rows), 6, 1, [&](index_t i, index_t) { return &r(i, 2); }));
  auto row_of_columns = m.row(2);
  CHECK(shows(const_view_of(row_of_columns), 9, 1, [&](index_t i, index_t) { return &m(2, i); }));
  auto thin = m.block(2, 3, 1, 4);  // one row, known only at run time
  CHECK(shows_matrix(thin));
}

TEST_CASE_TEMPLATE("flat arrays, spans and vectors: views show their memory", S, float, double,
                   half, bfloat16) {
  std::vector<S> v(12, S(1.0F));
  const auto element = [&](index_t i, index_t j) { return &v[at(i * 4 + j)]; };
  const catmerge::flat_matrix<S> writable({v.data(), v.size()}, 3, 4);
  const catmerge::flat_matrix<const S> constant({v.data(), v.size()}, 3, 4);
  CHECK(shows(const_view_of(writable), 3, 4, element));
  CHECK(shows(const_view_of(constant), 3, 4, element));
  const auto single = [&](index_t i, index_t) { return &v[at(i)]; };
  CHECK(shows(const_view_of(v), 12, 1, single));
  CHECK(shows(const_view_of(std::span<const S>(v)), 12, 1, single));
  std::span<S> span(v);
  CHECK(view_of(span).data == v.data());

  using matrix = catmerge::flat_matrix<S>;
  const std::span<S> values(v);
  CHECK_THROWS_AS(matrix(values, 3, 5), catmerge::error);
  CHECK_THROWS_AS(matrix(values, -3, -4), catmerge::error);
  CHECK_THROWS_AS(matrix(values, index_t{1} << 62, 4), catmerge::error);
  CHECK_THROWS_WITH_AS(matrix(values, 2, 5), "flat_matrix: 12 values for 2 x 5", catmerge::error);
  CHECK_NOTHROW(matrix({}, 0, 7));
}

TEST_CASE("one call takes any mix of host types, and gives the base's family") {
  generator g(2);
  const Eigen::MatrixXf base = g.matrix<float>(5, 4);
  const row_major_of<double> expert = (base + g.matrix<float>(5, 4)).cast<double>();
  const auto t = catmerge::task_vector(base, expert);
  static_assert(std::is_same_v<decltype(t), const Eigen::MatrixXf>);
  CHECK(t.isApprox(expert.cast<float>() - base));
  const auto s = catmerge::task_vector(expert, base);
  static_assert(std::is_same_v<decltype(s), const row_major_of<double>>);
  CHECK(same_bits(s, row_major_of<double>(base.cast<double>() - expert)));

  const std::vector<float> memory(base.data(), base.data() + base.size());
  const catmerge::flat_matrix<const float> flat({memory.data(), memory.size()}, 4, 5);
  const auto zero = catmerge::task_vector(flat, Eigen::MatrixXf(base.transpose()));
  static_assert(std::is_same_v<decltype(zero), const catmerge::flat_array<float>>);
  for (const float x : zero.values()) CHECK(x == 0.0F);
}

TEST_CASE("every Eigen kind can be base, expert, feature and result of CAT") {
  generator g(3);
  const auto l = random_linear<float>(4, 8, 6, {5, 7});
  const auto expected = catmerge::cat_linear(l.base, l.experts, l.features).merged;

  const Eigen::Matrix<float, 8, 6> fixed = l.base;
  std::vector<Eigen::Map<const Eigen::MatrixXf>> maps;
  for (const auto& e : l.experts) maps.emplace_back(e.data(), 8, 6);
  CHECK(same_bits(catmerge::cat_linear(fixed, maps, l.features).merged, expected));

  std::vector<std::reference_wrapper<const Eigen::MatrixXf>> wrapped(l.experts.begin(),
                                                                     l.experts.end());
  std::vector<std::reference_wrapper<const Eigen::MatrixXf>> rows(l.features.begin(),
                                                                  l.features.end());
  CHECK(same_bits(catmerge::cat_linear(l.base, wrapped, rows).merged, expected));

  Eigen::MatrixXf big = Eigen::MatrixXf::Constant(20, 20, 9);
  big.block(3, 4, 8, 6) = l.base;
  CHECK(same_bits(catmerge::cat_linear(big.block(3, 4, 8, 6), l.experts, l.features).merged,
                  expected));

  const Eigen::ArrayXXf array = l.base.array();
  const auto from_array = catmerge::cat_linear(array, l.experts, l.features).merged;
  CHECK(same_bits(Eigen::MatrixXf(from_array.matrix()), expected));

  const catmerge::host_const_view untyped(const_view_of(l.base));
  const auto owned = catmerge::cat_linear(untyped, l.experts, l.features).merged;
  const Eigen::Map<const row_major_of<float>> seen(owned.data<float>(), 8, 6);
  CHECK(same_bits(Eigen::MatrixXf(seen), expected));

  const auto v = random_vector<float>(5, 9, {5, 7});
  const auto expected_scale = catmerge::cat_scale(v.base, v.experts, v.features).merged;
  const Eigen::RowVectorXf row_base = v.base.transpose();
  std::vector<std::span<const float>> spans;
  for (const auto& e : v.experts) spans.emplace_back(e.data(), at(e.size()));
  const auto row_result = catmerge::cat_scale(row_base, spans, v.features).merged;
  static_assert(std::is_same_v<decltype(row_result), const Eigen::RowVectorXf>);
  CHECK(same_bits(Eigen::VectorXf(row_result.transpose()), expected_scale));
}

TEST_CASE("in-place operations write through every writable kind") {
  generator g(6);
  const Eigen::MatrixXf base = g.matrix<float>(4, 3), expert = g.matrix<float>(4, 3);
  const Eigen::MatrixXf difference = expert - base;
  Eigen::MatrixXf m = expert;
  Eigen::Map<Eigen::MatrixXf> map(m.data(), 4, 3);
  catmerge::subtract_base(base, map);
  CHECK(same_bits(m, difference));
  Eigen::MatrixXf big = Eigen::MatrixXf::Constant(9, 9, 5);
  big.block(2, 3, 4, 3) = expert;
  auto block = big.block(2, 3, 4, 3);
  catmerge::subtract_base(base, block);
  CHECK(same_bits(Eigen::MatrixXf(big.block(2, 3, 4, 3)), difference));
  big.block(2, 3, 4, 3).setConstant(5);
  CHECK((big.array() == 5).all());  // nothing was written beside the block
  row_major_of<float> r = expert;
  Eigen::Ref<row_major_of<float>> ref = r;
  catmerge::subtract_base(base, ref);
  CHECK(same_bits(Eigen::MatrixXf(r), difference));
  std::vector<float> v(expert.data(), expert.data() + 12);
  catmerge::flat_matrix<float> flat({v.data(), 12}, 3, 4);
  catmerge::subtract_base(Eigen::MatrixXf(base.transpose()), flat);
  CHECK(same_bits(v, std::vector<float>(difference.data(), difference.data() + 12)));
}
