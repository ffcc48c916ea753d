// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/tensor/scalar.hpp>

namespace catmerge::detail {

/// y += b^T a for column-major b (k x n), a (k x m) and y (n x m, dense): rows of the factors as
/// they are stored, and the transpose of the result, whose rows are then contiguous. Strides count
/// elements between columns.
///
/// Calls Eigen's kernel itself, as Eigen's own BLAS does, and not `y += b.transpose() * a`: that
/// also compiles Eigen's kernels for vectors and for small sizes, four times as long in all, and
/// would add in another order where a block has a single column.
template <compute_scalar C>
void add_product(const C* b, index_t b_stride, const C* a, index_t a_stride, C* y, index_t n,
                 index_t m, index_t k) {
  if (n == 0 || m == 0 || k == 0) return;
  using kernel =
      Eigen::internal::general_matrix_matrix_product<index_t, C, Eigen::RowMajor, false, C,
                                                     Eigen::ColMajor, false, Eigen::ColMajor, 1>;
  constexpr int any = Eigen::Dynamic;
  Eigen::internal::gemm_blocking_space<Eigen::ColMajor, C, C, any, any, any, 1, false> blocking(
      n, m, k, 1, true);
  kernel::run(n, m, k, b, b_stride, a, a_stride, y, 1, n, C(1), blocking, nullptr);
}

}  // namespace catmerge::detail
