// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include "support/backends/eigen_tensor.hpp"
#include "support/suite/algorithms.hpp"

using namespace test;
using catmerge::bfloat16;
using catmerge::half;
template <class S, int N>
using tensor = Eigen::Tensor<S, N>;

static_assert(catmerge::any_matrix<tensor<float, 2>> && !catmerge::any_vector<tensor<float, 2>>);
static_assert(catmerge::any_vector<tensor<half, 1>>);
static_assert(!catmerge::any_tensor<tensor<float, 3>> && !catmerge::any_tensor<tensor<int, 2>>);
static_assert(catmerge::any_matrix<Eigen::TensorFixedSize<double, Eigen::Sizes<2, 3>>>);
static_assert(!catmerge::any_tensor<decltype(tensor<float, 2>() + tensor<float, 2>())>);
static_assert(std::is_same_v<catmerge::result_t<Eigen::TensorMap<tensor<const bfloat16, 2>>>,
                             tensor<float, 2>>);
static_assert(catmerge::detail::has_mutable_view<Eigen::TensorMap<tensor<float, 2>>&>);
static_assert(!catmerge::detail::has_mutable_view<Eigen::TensorMap<tensor<const float, 2>>&>);
static_assert(!catmerge::detail::has_mutable_view<Eigen::TensorMap<const tensor<float, 2>>&>);

TEST_CASE_TEMPLATE("Eigen's Tensor module: Tensor of either order, TensorMap", B,
                   eigen_tensor_backend<double>, eigen_tensor_backend<float>,
                   eigen_tensor_backend<half>, eigen_tensor_backend<bfloat16>,
                   eigen_tensor_backend<float, Eigen::RowMajor>, eigen_tensor_map_backend<float>) {
  suite::everything<B>();
}

TEST_CASE("Eigen's Tensor module: views show the tensor's own memory") {
  Eigen::Tensor<float, 2, Eigen::RowMajor> rows(3, 4);
  CHECK(catmerge::const_view_of(rows).data == rows.data());
  CHECK(catmerge::const_view_of(rows).row_stride == 4);
  Eigen::TensorFixedSize<double, Eigen::Sizes<3, 4>> fixed;
  CHECK(catmerge::const_view_of(fixed).data == fixed.data());
  CHECK(catmerge::const_view_of(fixed).column_stride == 3);
  const float memory[6] = {1, 2, 3, 4, 5, 6};
  const Eigen::TensorMap<Eigen::Tensor<const float, 2>> map(memory, 2, 3);
  CHECK(catmerge::const_view_of(map).data == memory);
  const auto t = catmerge::task_vector(map, map);
  CHECK(t(1, 2) == 0.0F);
}
