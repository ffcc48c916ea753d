// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include "support/backends/xtensor.hpp"
#include "support/suite/algorithms.hpp"

using namespace test;
using catmerge::bfloat16;
using catmerge::half;

TEST_CASE_TEMPLATE("xtensor: xtensor", B, xtensor_backend<double>, xtensor_backend<float>,
                   xtensor_backend<half>, xtensor_backend<bfloat16>) {
  suite::everything<B>();
}

TEST_CASE_TEMPLATE("xtensor: column-major xtensor, xarray, xview, adapted buffers", B,
                   xtensor_backend<float, xt::layout_type::column_major>, xarray_backend<double>,
                   xview_backend<float>, xadapt_backend<half>) {
  suite::everything<B>();
}

TEST_CASE("xtensor: fixed shapes, strided views and transposes go in and come out uncopied") {
  using fixed = xt::xtensor_fixed<float, xt::xshape<3, 4>>;
  using fixed_vector = xt::xtensor_fixed<double, xt::xshape<5>, xt::layout_type::column_major>;
  static_assert(catmerge::any_matrix<fixed> && !catmerge::any_vector<fixed>);
  static_assert(catmerge::any_vector<fixed_vector> && !catmerge::any_matrix<fixed_vector>);
  static_assert(std::is_same_v<catmerge::result_t<fixed>, xt::xtensor<float, 2>>);
  fixed base, expert;
  for (std::size_t i = 0; i < 3; ++i)
    for (std::size_t j = 0; j < 4; ++j) {
      base(i, j) = static_cast<float>(i + j);
      expert(i, j) = static_cast<float>(2 * i + 3 * j);
    }
  const auto t = catmerge::task_vector(base, expert);
  CHECK(t(2, 3) == 8.0F);
  catmerge::subtract_base(base, expert);
  CHECK(expert(2, 3) == 8.0F);
  CHECK(expert(1, 2) == 5.0F);

  xt::xtensor<float, 2> big({6, 8}, 1.0F);
  auto window = xt::strided_view(big, {xt::range(1, 4), xt::range(2, 6)});
  catmerge::add_task_vector(window, t, 2);
  CHECK(big(3, 5) == 17.0F);
  CHECK(big(4, 5) == 1.0F);  // outside of the window
  CHECK(big(3, 6) == 1.0F);

  xt::xtensor<float, 2> tall({4, 3}, 1.0F);
  auto flipped = xt::transpose(tall);
  catmerge::add_task_vector(flipped, t);
  CHECK(tall(3, 2) == 9.0F);

  // A cube's plane is a matrix.
  xt::xtensor<float, 3> cube({2, 3, 4}, 1.0F);
  auto plane = xt::view(cube, 1);
  catmerge::add_task_vector(plane, t);
  CHECK(cube(1, 2, 3) == 9.0F);
  CHECK(cube(0, 2, 3) == 1.0F);
}

TEST_CASE("xtensor: what has no fixed strides in memory is no tensor") {
  xt::xtensor<float, 2> a({3, 4}, 1.0F);
  static_assert(!catmerge::any_tensor<decltype(a + a)>);
  static_assert(!catmerge::any_tensor<decltype(xt::view(a, xt::keep(0, 2), xt::all()))>);
  static_assert(!catmerge::any_tensor<xt::xtensor<int, 2>>);
  const auto& constant = a;
  static_assert(catmerge::any_matrix<decltype(xt::view(constant, xt::range(0, 2)))>);
  auto part = xt::view(constant, xt::range(0, 2));
  static_assert(!catmerge::detail::has_mutable_view<decltype((part))>);
}
