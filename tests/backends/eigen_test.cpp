// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include "support/backends/eigen.hpp"
#include "support/suite/algorithms.hpp"

using namespace test;
using catmerge::bfloat16;
using catmerge::half;

// Every storage type on one kind, and every kind on some storage type.
TEST_CASE_TEMPLATE("Eigen: Matrix", B, eigen_backend<double>, eigen_backend<float>,
                   eigen_backend<half>, eigen_backend<bfloat16>) {
  suite::everything<B>();
}

TEST_CASE_TEMPLATE("Eigen: row-major Matrix, Block and segment, Map with strides", B,
                   eigen_backend<float, Eigen::RowMajor>, eigen_block_backend<half>,
                   eigen_map_backend<double>) {
  suite::everything<B>();
}
