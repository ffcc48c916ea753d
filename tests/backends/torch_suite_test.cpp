// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include "support/backends/torch.hpp"
#include "support/suite/algorithms.hpp"
#include "support/suite/methods_entries.hpp"
#include "support/suite/methods_matrices.hpp"

using namespace test;
using catmerge::bfloat16;
using catmerge::half;

TEST_CASE_TEMPLATE("libtorch: tensors on the CPU", B, torch_backend<double>, torch_backend<float>,
                   torch_backend<half>, torch_backend<bfloat16>) {
  suite::everything<B>();
}

TEST_CASE_TEMPLATE("libtorch: the other methods", B, torch_backend<float>) {
  suite::entry_methods<B>();
  suite::matrix_methods<B>();
}
