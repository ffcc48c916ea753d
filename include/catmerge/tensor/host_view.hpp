// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <catmerge/tensor/traits.hpp>
#include <cstddef>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <type_traits>

namespace catmerge {

namespace detail {

/// A window on host memory whose element type is known at run time. Void is `void` for windows that
/// may be written and `const void` for the others. Element (i, j) is element
/// i * row_stride + j * column_stride, counted in elements of `type`.
template <class Void>
struct basic_host_view {
  Void* data = nullptr;
  scalar_type type = scalar_type::f32;
  index_t rows = 0;
  index_t columns = 0;
  index_t row_stride = 0;
  index_t column_stride = 0;

  basic_host_view() = default;

  /// From the window of an adapter. Strides of axes with at most one element carry no information
  /// (xtensor stores 0 there) and are replaced by those of a contiguous tensor. Throws on negative
  /// extents, on null data and, for windows that are written, on elements that share memory.
  template <class S>
  requires storage_scalar<S> &&(std::is_const_v<Void> || !std::is_const_v<S>)
      basic_host_view(const strided_view<S>& v)  // NOLINT: the two are the same thing
      : data(v.data),
        type(scalar_type_v<S>),
        rows(v.rows),
        columns(v.columns),
        row_stride(v.row_stride),
        column_stride(v.column_stride) {
    normalise();
  }

  basic_host_view(Void* memory, scalar_type element, index_t row_count, index_t column_count,
                  index_t step_of_row, index_t step_of_column)
      : data(memory),
        type(element),
        rows(row_count),
        columns(column_count),
        row_stride(step_of_row),
        column_stride(step_of_column) {
    normalise();
  }

  /// A writable window is a readable one.
  operator basic_host_view<const void>() const requires(!std::is_const_v<Void>) {
    basic_host_view<const void> v;
    v.data = data;
    v.type = type;
    v.rows = rows;
    v.columns = columns;
    v.row_stride = row_stride;
    v.column_stride = column_stride;
    return v;
  }

  basic_host_view transposed() const {
    basic_host_view t = *this;
    std::swap(t.rows, t.columns);
    std::swap(t.row_stride, t.column_stride);
    return t;
  }

  basic_host_view window(index_t row, index_t row_count, index_t column,
                         index_t column_count) const {
    basic_host_view w = *this;
    w.data = at(row, column);
    w.rows = row_count;
    w.columns = column_count;
    return w;
  }

  /// The address of element (i, j).
  Void* at(index_t i, index_t j) const {
    if (data == nullptr) return nullptr;  // an empty tensor's windows: no arithmetic on null
    using byte_type = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
    return static_cast<byte_type*>(data) +
           (i * row_stride + j * column_stride) * static_cast<index_t>(size_of(type));
  }

 private:
  void normalise() {
    if (rows < 0 || columns < 0)
      throw error("a tensor has a negative extent: " + std::to_string(rows) + " x " +
                  std::to_string(columns));
    if (data == nullptr && rows > 0 && columns > 0)
      throw error("a tensor of " + std::to_string(rows) + " x " + std::to_string(columns) +
                  " has no memory");
    const bool empty = rows == 0 || columns == 0;
    if (columns <= 1 || empty) column_stride = 1;
    if (rows <= 1 || empty) row_stride = columns > 0 ? columns : 1;
    if constexpr (!std::is_const_v<Void>)
      if (row_stride == 0 || column_stride == 0)
        throw error(
            "a result cannot be written to a tensor whose elements share memory (a stride is 0)");
  }
};

}  // namespace detail

/// Windows on host memory with a run-time element type: what context<host> computes on. Every
/// strided_view converts to one; build one directly for weights whose type is known at run time,
/// such as those in a memory-mapped file.
using host_view = detail::basic_host_view<void>;
using host_const_view = detail::basic_host_view<const void>;

/// A row-major matrix in host memory, aligned, with a run-time element type.
class host_matrix {
 public:
  host_matrix() = default;

  /// A matrix of zeros. Throws std::bad_alloc where memory does not suffice.
  host_matrix(scalar_type type, index_t rows, index_t columns)
      : type_(type), rows_(rows), columns_(columns) {
    if (rows < 0 || columns < 0) throw error("a matrix cannot have a negative extent");
    const auto limit = std::numeric_limits<index_t>::max() / static_cast<index_t>(size_of(type));
    if (columns != 0 && rows > limit / columns) throw std::bad_alloc();
    const std::size_t bytes = static_cast<std::size_t>(rows * columns) * size_of(type);
    if (bytes == 0) return;
    memory_.reset(static_cast<std::byte*>(::operator new (bytes, std::align_val_t{alignment})));
    std::fill_n(memory_.get(), bytes, std::byte{0});
  }

  scalar_type type() const { return type_; }
  index_t rows() const { return rows_; }
  index_t columns() const { return columns_; }

  /// The elements, row after row; S must be the element type.
  template <storage_scalar S>
  S* data() {
    check<S>();
    return reinterpret_cast<S*>(memory_.get());
  }
  template <storage_scalar S>
  const S* data() const {
    check<S>();
    return reinterpret_cast<const S*>(memory_.get());
  }

  operator host_view() { return {memory_.get(), type_, rows_, columns_, columns_, 1}; }
  operator host_const_view() const { return {memory_.get(), type_, rows_, columns_, columns_, 1}; }

 private:
  static constexpr std::size_t alignment = 64;  // a cache line, and the widest vector register
  struct release {
    void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{alignment}); }
  };

  template <class S>
  void check() const {
    if (scalar_type_v<S> != type_)
      throw error(std::string("a matrix of ") + name_of(type_) + " was asked for elements of " +
                  name_of(scalar_type_v<S>));
  }

  scalar_type type_ = scalar_type::f32;
  index_t rows_ = 0;
  index_t columns_ = 0;
  std::unique_ptr<std::byte[], release> memory_;
};

// The library's own windows and matrices are tensors like any other.

template <>
struct tensor_traits<host_const_view> {
  using domain = host;
  static constexpr int rank = dynamic_rank;
  static host_const_view view(const host_const_view& v) { return v; }
  static host_matrix make(const host_const_view& like, index_t rows, index_t columns) {
    return {compute_type(like.type), rows, columns};
  }
};

template <>
struct tensor_traits<host_view> {
  using domain = host;
  static constexpr int rank = dynamic_rank;
  static host_view view(const host_view& v) { return v; }
  static host_matrix make(const host_view& like, index_t rows, index_t columns) {
    return {compute_type(like.type), rows, columns};
  }
};

template <>
struct tensor_traits<host_matrix> {
  using domain = host;
  static constexpr int rank = dynamic_rank;
  static host_const_view view(const host_matrix& m) { return m; }
  static host_view view(host_matrix& m) { return m; }
  static host_matrix make(const host_matrix& like, index_t rows, index_t columns) {
    return {compute_type(like.type()), rows, columns};
  }
};

}  // namespace catmerge
