// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/tensor/executor.hpp>
#include <cstddef>
#include <span>
#include <vector>

namespace catmerge::harness {

/// Activations: float32, one token per row, features along the row, contiguous.
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using row_vector = Eigen::Matrix<float, 1, Eigen::Dynamic>;

/// Borrowed rows. Layers take and return only these two contiguous kinds: each further kind would
/// instantiate Eigen's products once more.
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
inline matrix_view as_const(const mutable_view& x) {
  return {x.data(), x.rows(), x.cols()};
}

/// Offsets of `count` samples of `rows` rows each: 0, rows, 2 rows, ..., count rows.
inline std::vector<index_t> equal_offsets(index_t count, index_t rows) {
  std::vector<index_t> offsets(static_cast<std::size_t>(count) + 1);
  for (std::size_t i = 1; i < offsets.size(); ++i) offsets[i] = offsets[i - 1] + rows;
  return offsets;
}

/// Consecutive samples of one computation.
struct chunk {
  index_t first;                     ///< its first sample
  std::span<const index_t> offsets;  ///< the first row of each sample in the batch, and the end

  index_t count() const { return std::ssize(offsets) - 1; }
  index_t row() const { return offsets.front(); }
  index_t rows() const { return offsets.back() - offsets.front(); }
};

/// The first row of each sample of a chunk: count x width. x: all rows of the batch.
inline matrix first_rows(const matrix& x, const chunk& samples) {
  matrix rows(samples.count(), x.cols());
  for (index_t i = 0; i < samples.count(); ++i) {
    rows.row(i) = x.row(samples.offsets[static_cast<std::size_t>(i)]);
  }
  return rows;
}

/// Cuts samples into chunks and calls work(chunk) for each on `run`. offsets: the rows of sample i
/// are offsets[i] ... offsets[i + 1] - 1. The chunks depend on these lengths alone, so results have
/// the same bits at any number of threads.
template <class Work>
void for_chunks(const std::vector<index_t>& offsets, const executor& run, const Work& work) {
  // A few hundred rows make products efficient; more would not fit a cache. A constant makes
  // results independent of the machine. A longer sample is a chunk of its own.
  constexpr index_t most_rows = 256;
  std::vector<chunk> chunks;
  for (std::size_t first = 0; first + 1 < offsets.size();) {
    std::size_t last = first + 1;
    while (last + 1 < offsets.size() && offsets[last + 1] - offsets[first] <= most_rows) ++last;
    chunks.push_back({static_cast<index_t>(first), {&offsets[first], last - first + 1}});
    first = last;
  }
  const auto task = [&](index_t i) { work(chunks[static_cast<std::size_t>(i)]); };
  if (run) {
    run(std::ssize(chunks), task);
  } else {
    for (index_t i = 0; i < std::ssize(chunks); ++i) task(i);
  }
}

}  // namespace catmerge::harness
