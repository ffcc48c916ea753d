// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/host.hpp>
#include <span>
#include <string>
#include <vector>

namespace catmerge {

/// A row-major matrix over memory that somebody else owns: a span with a shape. S is const where
/// the matrix is only read.
template <storage_scalar S>
class flat_matrix {
 public:
  /// Throws catmerge::error unless values.size() == rows * columns.
  flat_matrix(std::span<S> values, index_t rows, index_t columns)
      : values_(values), rows_(rows), columns_(columns) {
    if (rows < 0 || columns < 0 || (columns != 0 && rows > std::ssize(values) / columns) ||
        rows * columns != std::ssize(values))
      throw error("flat_matrix: " + std::to_string(values.size()) + " values for " +
                  detail::shape_text(rows, columns));
  }

  index_t rows() const { return rows_; }
  index_t columns() const { return columns_; }
  std::span<S> values() const { return values_; }

 private:
  std::span<S> values_;
  index_t rows_, columns_;
};

/// A row-major matrix that owns its memory: what operations on flat_matrix return.
template <compute_scalar C>
class flat_array {
 public:
  flat_array() = default;
  flat_array(index_t rows, index_t columns)
      : values_(static_cast<std::size_t>(rows * columns)), rows_(rows), columns_(columns) {}

  index_t rows() const { return rows_; }
  index_t columns() const { return columns_; }
  std::span<C> values() { return values_; }
  std::span<const C> values() const { return values_; }
  C& operator()(index_t i, index_t j) {
    return values_[static_cast<std::size_t>(i * columns_ + j)];
  }
  C operator()(index_t i, index_t j) const {
    return values_[static_cast<std::size_t>(i * columns_ + j)];
  }

 private:
  std::vector<C> values_;
  index_t rows_ = 0, columns_ = 0;
};

template <class S>
struct tensor_traits<flat_matrix<S>> {
  using domain = host;
  static constexpr int rank = 2;
  static strided_view<S> view(const flat_matrix<S>& m) {
    return {m.values().data(), m.rows(), m.columns(), m.columns(), 1};
  }
  static flat_array<compute_t<S>> make(const flat_matrix<S>&, index_t rows, index_t columns) {
    return {rows, columns};
  }
};

template <class C>
struct tensor_traits<flat_array<C>> {
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
};

/// std::span and std::vector are vectors.
template <storage_scalar S>
struct tensor_traits<std::span<S>> {
  using domain = host;
  static constexpr int rank = 1;
  static strided_view<S> view(const std::span<S>& v) { return {v.data(), std::ssize(v), 1, 1, 1}; }
  static std::vector<compute_t<S>> make(const std::span<S>&, index_t rows, index_t columns) {
    return std::vector<compute_t<S>>(static_cast<std::size_t>(rows * columns));
  }
};

template <storage_scalar S, class Allocator>
struct tensor_traits<std::vector<S, Allocator>> {
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
};

}  // namespace catmerge
