// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <catmerge/tensor/traits.hpp>
#include <cstddef>
#include <limits>
#include <memory>
#include <memory_resource>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace catmerge {

/// A window on host memory with a run-time element type, the operand of context<host>. Element
/// (i, j) is element i * row_stride + j * column_stride, counted in elements of `type`. Every
/// strided_view converts to one; build one directly for weights whose type is known at run time,
/// such as those in a memory-mapped file.
struct host_const_view {
  const void* data = nullptr;           ///< element (0, 0); null only if empty
  scalar_type type = scalar_type::f32;  ///< of the elements
  index_t rows = 0;                     ///< d_out of a weight, n of features, d of a vector
  index_t columns = 0;                  ///< d_in; 1 for a vector
  index_t row_stride = 0;               ///< elements from (i, j) to (i + 1, j)
  index_t column_stride = 0;            ///< elements from (i, j) to (i, j + 1)

  host_const_view() = default;

  /// From the window of an adapter. Strides of axes with at most one element carry no information
  /// (xtensor stores 0 there) and are replaced by those of a contiguous tensor. Throws error on
  /// negative extents and on null data.
  template <storage_scalar S>
  host_const_view(const strided_view<S>& v)  // NOLINT: the two are the same thing
      : host_const_view(v.data, scalar_type_v<S>, v.rows, v.columns, v.row_stride,
                        v.column_stride) {}

  /// From a pointer to element (0, 0), extents and strides, both in elements of the type. Strides
  /// are replaced and errors thrown as above.
  host_const_view(const void* memory, scalar_type element, index_t row_count, index_t column_count,
                  index_t step_of_row, index_t step_of_column)
      : data(memory),
        type(element),
        rows(row_count),
        columns(column_count),
        row_stride(step_of_row),
        column_stride(step_of_column) {
    normalise();
  }

  /// The same memory as columns x rows.
  host_const_view transposed() const {
    host_const_view t = *this;
    std::swap(t.rows, t.columns);
    std::swap(t.row_stride, t.column_stride);
    return t;
  }

  /// The row_count x column_count elements from (row, column) on. Precondition: they exist.
  // (Not inlined, like `normalise`: both are called once for thousands of elements, from hundreds
  // of places.)
  [[gnu::noinline]] host_const_view window(index_t row, index_t row_count, index_t column,
                                           index_t column_count) const {
    host_const_view w = *this;
    w.data = at(row, column);
    w.rows = row_count;
    w.columns = column_count;
    return w;
  }

  /// The address of element (i, j).
  const void* at(index_t i, index_t j) const {
    if (data == nullptr) return nullptr;  // an empty tensor's windows: no arithmetic on null
    return static_cast<const std::byte*>(data) +
           (i * row_stride + j * column_stride) * static_cast<index_t>(size_of(type));
  }

 private:
  [[gnu::noinline]] void normalise() {
    if (rows < 0 || columns < 0)
      throw error("a tensor has a negative extent: " + std::to_string(rows) + " x " +
                  std::to_string(columns));
    if (data == nullptr && rows > 0 && columns > 0)
      throw error("a tensor of " + std::to_string(rows) + " x " + std::to_string(columns) +
                  " has no memory");
    const bool empty = rows == 0 || columns == 0;
    if (columns <= 1 || empty) column_stride = 1;
    if (rows <= 1 || empty) row_stride = columns > 0 ? columns : 1;
  }
};

/// A host_const_view on writable memory. Constructors also throw error if elements share memory (a
/// stride of 0).
struct host_view : host_const_view {
  host_view() = default;

  /// From the window of an adapter on a tensor that is not const.
  template <class S>
  requires(storage_scalar<S> && !std::is_const_v<S>)  //
      host_view(const strided_view<S>& v)             // NOLINT: the two are the same thing
      : host_const_view(v) {
    require_distinct();
  }

  /// From a pointer, extents and strides, as host_const_view.
  host_view(void* memory, scalar_type element, index_t row_count, index_t column_count,
            index_t step_of_row, index_t step_of_column)
      : host_const_view(memory, element, row_count, column_count, step_of_row, step_of_column) {
    require_distinct();
  }

  /// The address of element (0, 0). (Stored as const by the base, passed as writable.)
  void* writable() const { return const_cast<void*>(data); }

  /// The same memory as columns x rows.
  host_view transposed() const { return part(host_const_view::transposed()); }

  /// A window, as host_const_view::window.
  host_view window(index_t row, index_t row_count, index_t column, index_t column_count) const {
    return part(host_const_view::window(row, row_count, column, column_count));
  }

 private:
  static host_view part(const host_const_view& window_of_writable_memory) {
    host_view v;
    static_cast<host_const_view&>(v) = window_of_writable_memory;
    return v;
  }

  [[gnu::noinline]] void require_distinct() const {
    if (row_stride == 0 || column_stride == 0)
      throw error(
          "a result cannot be written to a tensor whose elements share memory (a stride is 0)");
  }
};

namespace detail {

/// The alignment of matrices: a cache line, which holds the widest vector register. Large matrices
/// have that of a large page (pages of 4 KiB cost as much as the arithmetic on them).
constexpr std::size_t large_page = std::size_t{1} << 21;
constexpr std::size_t alignment_of(std::size_t bytes) {
  return bytes < large_page ? 64 : large_page;
}

/// Returns memory to the resource that it came from.
struct resource_release {
  std::pmr::memory_resource* resource = nullptr;
  std::size_t bytes = 0;
  void operator()(std::byte* p) const { resource->deallocate(p, bytes, alignment_of(bytes)); }
};

/// Asks the system for large pages, on Linux.
inline void prefer_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#ifdef __linux__
  if (bytes >= large_page) ::madvise(memory, bytes - bytes % large_page, MADV_HUGEPAGE);
#endif
}

}  // namespace detail

/// A row-major matrix in host memory, aligned, with a run-time element type.
class host_matrix {
 public:
  host_matrix() = default;

  /// A matrix of zeros, allocated from a resource that must outlive it. Throws error on negative
  /// extents, std::bad_alloc if there is not enough memory.
  [[gnu::noinline]] host_matrix(
      scalar_type type, index_t rows, index_t columns,
      std::pmr::memory_resource* memory = std::pmr::get_default_resource()) {
    if (rows < 0 || columns < 0) throw error("a matrix cannot have a negative extent");
    const auto limit = (std::numeric_limits<index_t>::max)() / static_cast<index_t>(size_of(type));
    if (columns != 0 && rows > limit / columns) throw std::bad_alloc();
    const std::size_t bytes = static_cast<std::size_t>(rows * columns) * size_of(type);
    if (bytes > 0) {
      void* const block = memory->allocate(bytes, detail::alignment_of(bytes));
      memory_ = {static_cast<std::byte*>(block), {memory, bytes}};
      detail::prefer_large_pages(memory_.get(), bytes);
      std::fill_n(memory_.get(), bytes, std::byte{0});
    }
    all_ = host_view(memory_.get(), type, rows, columns, columns, 1);
  }

  /// The elements stay at their address; `other` is left empty, 0 x 0.
  host_matrix(host_matrix&& other) noexcept
      : memory_(std::move(other.memory_)), all_(std::exchange(other.all_, {})) {}
  /// As the constructor; windows on the old elements become invalid.
  host_matrix& operator=(host_matrix&& other) noexcept {
    memory_ = std::move(other.memory_);
    all_ = std::exchange(other.all_, {});
    return *this;
  }

  scalar_type type() const { return all_.type; }    ///< of the elements
  index_t rows() const { return all_.rows; }        ///< d_out, or d of a vector
  index_t columns() const { return all_.columns; }  ///< d_in; 1 for a vector

  /// The elements, row after row without gaps. Throws error unless S is the element type.
  template <storage_scalar S>
  S* data() {
    check<S>();
    return reinterpret_cast<S*>(memory_.get());
  }
  /// The same, read-only.
  template <storage_scalar S>
  const S* data() const {
    check<S>();
    return reinterpret_cast<const S*>(memory_.get());
  }

  /// The whole matrix as a window, valid while it lives and is not moved.
  operator const host_view&() { return all_; }
  /// The same, read-only.
  operator const host_const_view&() { return all_; }  // (compilers warn without it)
  /// The same, read-only.
  operator const host_const_view&() const { return all_; }

 private:
  template <class S>
  void check() const {
    if (scalar_type_v<S> != type())
      throw error(std::string("a matrix of ") + name_of(type()) + " was asked for elements of " +
                  name_of(scalar_type_v<S>));
  }

  std::unique_ptr<std::byte[], detail::resource_release> memory_;
  host_view all_;
};

/// The library's own windows and matrices are tensors like any other, of dynamic rank. Results are
/// host_matrix.
template <>
struct tensor_traits<host_const_view> {
  /// @cond specialisation
  using domain = host;
  static constexpr int rank = dynamic_rank;
  static host_const_view view(const host_const_view& v) { return v; }
  static host_matrix make(const host_const_view& like, index_t rows, index_t columns) {
    return {compute_type(like.type), rows, columns};
  }
  /// @endcond
};

/// The same for a writable window. (A const one is writable, too: it is a handle.)
template <>
struct tensor_traits<host_view> {
  /// @cond specialisation
  using domain = host;
  static constexpr int rank = dynamic_rank;
  static host_view view(const host_view& v) { return v; }
  static host_matrix make(const host_view& like, index_t rows, index_t columns) {
    return {compute_type(like.type), rows, columns};
  }
  /// @endcond
};

/// The same for a matrix that owns its memory; a const one is only read.
template <>
struct tensor_traits<host_matrix> {
  /// @cond specialisation
  using domain = host;
  static constexpr int rank = dynamic_rank;
  static host_const_view view(const host_matrix& m) { return m; }
  static host_view view(host_matrix& m) { return m; }
  static host_matrix make(const host_matrix& like, index_t rows, index_t columns) {
    return {compute_type(like.type()), rows, columns};
  }
  /// @endcond
};

}  // namespace catmerge
