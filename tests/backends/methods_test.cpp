// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// The other methods on tensors of every host library, one kind each: what is compiled for host
// memory is the same for all, and the suites of the algorithms go through every kind. (The fake
// device: methods/entries_test.cpp and methods/matrices_test.cpp; libtorch:
// backends/torch_suite_test.cpp.)
#include "support/backends/archetypes.hpp"
#include "support/backends/eigen.hpp"
#include "support/backends/eigen_tensor.hpp"
#include "support/backends/flat.hpp"
#ifdef CATMERGE_TEST_XTENSOR
#include "support/backends/xtensor.hpp"
#endif
#ifdef CATMERGE_TEST_ARMADILLO
#include "support/backends/armadillo.hpp"
#endif
#include "support/suite/methods_entries.hpp"
#include "support/suite/methods_matrices.hpp"

using namespace test;

TEST_CASE_TEMPLATE("methods on host tensors", B, eigen_backend<float>, flat_backend<double>,
                   strided_backend<float>) {
  suite::entry_methods<B>();
  suite::matrix_methods<B>();
}

#ifdef CATMERGE_TEST_XTENSOR
TEST_CASE_TEMPLATE("methods on xtensor's", B, xview_backend<float>) {
  suite::entry_methods<B>();
  suite::matrix_methods<B>();
}
#endif

#ifdef CATMERGE_TEST_ARMADILLO
TEST_CASE_TEMPLATE("methods on Armadillo's", B, armadillo_part_backend<float>) {
  suite::entry_methods<B>();
  suite::matrix_methods<B>();
}
#endif
