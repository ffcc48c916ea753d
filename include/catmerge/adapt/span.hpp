// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/host/host.hpp>
#include <span>
#include <string>
#include <vector>

namespace catmerge {

/// A matrix over foreign memory: a span with a shape. Rows follow each other, `row_stride` elements
/// apart (default: without gaps). S is const if the matrix is read-only. For other strides, or a
/// bare pointer, use a strided_view: it is a tensor too.
template <storage_scalar S>
class flat_matrix {
 public:
  /// Throws catmerge::error unless values.size() == rows * columns.
  flat_matrix(std::span<S> values, index_t rows, index_t columns)
      : values_(values), rows_(rows), columns_(columns), stride_(columns) {
    if (rows < 0 || columns < 0 || (columns != 0 && rows > std::ssize(values) / columns) ||
        rows * columns != std::ssize(values))
      throw error("flat_matrix: " + std::to_string(values.size()) + " values for " +
                  detail::shape_text(rows, columns));
  }

  /// Rows `row_stride` elements apart. Throws catmerge::error if rows overlap or the last row ends
  /// beyond the values.
  flat_matrix(std::span<S> values, index_t rows, index_t columns, index_t row_stride)
      : values_(values), rows_(rows), columns_(columns), stride_(row_stride) {
    const bool fits =
        rows >= 0 && columns >= 0 && row_stride >= columns &&
        (rows == 0 || columns <= std::ssize(values)) &&
        (rows <= 1 || row_stride == 0 || rows - 1 <= (std::ssize(values) - columns) / row_stride);
    if (!fits)
      throw error("flat_matrix: " + std::to_string(values.size()) + " values for " +
                  detail::shape_text(rows, columns) + " with rows " + std::to_string(row_stride) +
                  " apart");
  }

  index_t rows() const { return rows_; }           ///< d_out of a weight, n of features
  index_t columns() const { return columns_; }     ///< d_in
  index_t row_stride() const { return stride_; }   ///< elements from one row to the next
  std::span<S> values() const { return values_; }  ///< the memory, gaps between rows included

 private:
  std::span<S> values_;
  index_t rows_, columns_, stride_;
};

/// A row-major matrix that owns its memory: the result of operations on flat_matrix.
template <compute_scalar C>
class flat_array {
 public:
  flat_array() = default;
  /// A matrix of zeros. Precondition: no extent is negative.
  flat_array(index_t rows, index_t columns)
      : values_(static_cast<std::size_t>(rows * columns)), rows_(rows), columns_(columns) {}

  index_t rows() const { return rows_; }                 ///< d_out of a weight
  index_t columns() const { return columns_; }           ///< d_in
  std::span<C> values() { return values_; }              ///< row after row, without gaps
  std::span<const C> values() const { return values_; }  ///< the same, to be read
  /// Entry (i, j). Precondition: it exists.
  C& operator()(index_t i, index_t j) {
    return values_[static_cast<std::size_t>(i * columns_ + j)];
  }
  /// The same, by value.
  C operator()(index_t i, index_t j) const {
    return values_[static_cast<std::size_t>(i * columns_ + j)];
  }

 private:
  std::vector<C> values_;
  index_t rows_ = 0, columns_ = 0;
};

/// A handle of a matrix, writable unless S is const. Results are flat_array.
template <class S>
struct tensor_traits<flat_matrix<S>> {
  /// @cond specialisation
  using domain = host;
  static constexpr int rank = 2;
  static strided_view<S> view(const flat_matrix<S>& m) {
    return {m.values().data(), m.rows(), m.columns(), m.row_stride(), 1};
  }
  static flat_array<compute_t<S>> make(const flat_matrix<S>&, index_t rows, index_t columns) {
    return {rows, columns};
  }
  /// @endcond
};

/// A matrix, read-only if const.
template <class C>
struct tensor_traits<flat_array<C>> {
  /// @cond specialisation
  using domain = host;
  static constexpr int rank = 2;
  static strided_view<const C> view(const flat_array<C>& m) {
    return {m.values().data(), m.rows(), m.columns(), m.columns(), 1};
  }
  static strided_view<C> view(flat_array<C>& m) {
    return {m.values().data(), m.rows(), m.columns(), m.columns(), 1};
  }
  static flat_array<C> make(const flat_array<C>&, index_t rows, index_t columns) {
    return {rows, columns};
  }
  /// @endcond
};

/// A window with a pointer, extents and strides: a matrix of any layout.
///
///     const catmerge::strided_view<const float> w{pointer, rows, columns, row_stride, 1};
template <storage_scalar S>
struct tensor_traits<strided_view<S>> {
  /// @cond specialisation
  using domain = host;
  static constexpr int rank = 2;
  static strided_view<S> view(const strided_view<S>& v) { return v; }
  static flat_array<compute_t<S>> make(const strided_view<S>&, index_t rows, index_t columns) {
    return {rows, columns};
  }
  /// @endcond
};

/// A vector, writable unless S is const. Results are std::vector.
template <storage_scalar S>
struct tensor_traits<std::span<S>> {
  /// @cond specialisation
  using domain = host;
  static constexpr int rank = 1;
  static strided_view<S> view(const std::span<S>& v) { return {v.data(), std::ssize(v), 1, 1, 1}; }
  static std::vector<compute_t<S>> make(const std::span<S>&, index_t rows, index_t columns) {
    return std::vector<compute_t<S>>(static_cast<std::size_t>(rows * columns));
  }
  /// @endcond
};

/// A vector, read-only if const. Results are std::vector of the compute type.
template <storage_scalar S, class Allocator>
struct tensor_traits<std::vector<S, Allocator>> {
  /// @cond specialisation
  using domain = host;
  static constexpr int rank = 1;
  static strided_view<const S> view(const std::vector<S, Allocator>& v) {
    return {v.data(), std::ssize(v), 1, 1, 1};
  }
  static strided_view<S> view(std::vector<S, Allocator>& v) {
    return {v.data(), std::ssize(v), 1, 1, 1};
  }
  static std::vector<compute_t<S>> make(const std::vector<S, Allocator>&, index_t rows,
                                        index_t columns) {
    return std::vector<compute_t<S>>(static_cast<std::size_t>(rows * columns));
  }
  /// @endcond
};

}  // namespace catmerge
