// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// The other methods on tensors of every host library, one kind each: what is compiled for host
// memory is the same for all, and the suites of the algorithms go through every kind. (The fake
// device: methods_entries_test.cpp and methods_matrices_test.cpp; libtorch:
// backend_torch_suite_test.cpp.)
#include "backends/archetypes.hpp"
#include "backends/eigen_backends.hpp"
#include "backends/eigen_tensor_backends.hpp"
#include "backends/flat_backends.hpp"
#ifdef CATMERGE_TEST_XTENSOR
#include "backends/xtensor_backends.hpp"
#endif
#ifdef CATMERGE_TEST_ARMADILLO
#include "backends/armadillo_backends.hpp"
#endif
#include "suite/methods_entries.hpp"
#include "suite/methods_matrices.hpp"

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
