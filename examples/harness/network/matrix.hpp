// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <catmerge/tensor/executor.hpp>

namespace catmerge::harness {

/// Activations: float32, one token per row, features along the row, contiguous.
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using row_vector = Eigen::Matrix<float, 1, Eigen::Dynamic>;

/// Rows that belong to somebody else. Everything that the layers take and return is one of these
/// two contiguous kinds: each further kind would instantiate Eigen's products once more.
using matrix_view = Eigen::Map<const matrix>;
using mutable_view = Eigen::Map<matrix>;
using vector_view = Eigen::Map<const row_vector>;

inline matrix_view view(const matrix& x) {
  return {x.data(), x.rows(), x.cols()};
}

/// Rows first ... first + count - 1.
inline matrix_view rows_of(const matrix& x, index_t first, index_t count) {
  return {x.data() + first * x.cols(), count, x.cols()};
}
inline mutable_view rows_of(matrix& x, index_t first, index_t count) {
  return {x.data() + first * x.cols(), count, x.cols()};
}

/// Cuts `count` samples into chunks of `size` (the last may be shorter) and calls
/// work(first, samples of the chunk) for each on `run`. The chunks depend on nothing but the two
/// numbers, so results have the same bits at any number of threads.
template <class Work>
void for_chunks(index_t count, index_t size, const executor& run, const Work& work) {
  const index_t chunks = (count + size - 1) / size;
  const auto task = [&](index_t i) { work(i * size, std::min(size, count - i * size)); };
  if (run) {
    run(chunks, task);
  } else {
    for (index_t i = 0; i < chunks; ++i) task(i);
  }
}

}  // namespace catmerge::harness
