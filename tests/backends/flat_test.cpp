// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include "support/backends/flat.hpp"
#include "support/suite/algorithms.hpp"

using namespace test;
using catmerge::bfloat16;
using catmerge::flat_matrix;
using catmerge::half;

TEST_CASE_TEMPLATE("flat arrays: flat_matrix and span", B, flat_backend<double>,
                   flat_backend<float>, flat_backend<half>, flat_backend<bfloat16>) {
  suite::everything<B>();
}

TEST_CASE_TEMPLATE("flat arrays: strided_view and vector", B, strided_backend<float>) {
  suite::everything<B>();
}

TEST_CASE("flat_matrix: rows that overlap or end behind the values are refused") {
  std::vector<float> v(11);
  const auto make = [&](index_t rows, index_t columns, index_t stride) {
    flat_matrix<float>(v, rows, columns, stride);
  };
  CHECK_NOTHROW(make(3, 3, 4));  // the last row ends with the values
  CHECK_THROWS_WITH_AS(make(3, 4, 4), "flat_matrix: 11 values for 3 x 4 with rows 4 apart",
                       catmerge::error);
  CHECK_THROWS_AS(make(4, 3, 4), catmerge::error);
  CHECK_THROWS_AS(make(3, 4, 3), catmerge::error);  // overlapping
  CHECK_THROWS_AS(make(3, 4, -4), catmerge::error);
  CHECK_THROWS_AS(make(-1, 4, 4), catmerge::error);
  CHECK_THROWS_AS(make(1, 12, 12), catmerge::error);
  CHECK_THROWS_AS(make(2, 1, index_t{1} << 62), catmerge::error);
  CHECK_NOTHROW(make(1, 11, index_t{1} << 62));
  CHECK_NOTHROW(make(0, 12, 12));
  CHECK_NOTHROW(make(7, 0, 0));
}
