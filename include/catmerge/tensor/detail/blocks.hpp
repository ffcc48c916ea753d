// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/tensor/host/strided_view.hpp>
#include <catmerge/tensor/rounding.hpp>

/// Reading and writing of blocks of host memory, with conversion: the only code of the host that
/// knows element types and storage orders. Everything else sees small contiguous buffers.
namespace catmerge::detail {

/// Calls f with a null pointer of the element type that `type` names.
template <class F>
void with_type(scalar_type type, F&& f) {
  switch (type) {
    case scalar_type::f64: f(static_cast<double*>(nullptr)); break;
    case scalar_type::f32: f(static_cast<float*>(nullptr)); break;
    case scalar_type::f16: f(static_cast<half*>(nullptr)); break;
    case scalar_type::bf16: f(static_cast<bfloat16*>(nullptr)); break;
  }
}

/// Calls f(i, j) for all of rows x columns in squares of 32, each column by column. This order
/// suits copies between the two storage orders.
template <class F>
void in_squares(index_t rows, index_t columns, const F& f) {
  constexpr index_t side = 32;  // 32 cache lines each way
  for (index_t top = 0; top < rows; top += side)
    for (index_t left = 0; left < columns; left += side)
      for (index_t j = left; j < (std::min)(left + side, columns); ++j)
        for (index_t i = top; i < (std::min)(top + side, rows); ++i) f(i, j);
}

/// Copies the window v, row after row, into `buffer` (v.rows * v.columns elements).
template <class C>
void load(const host_const_view& v, C* buffer) {
  with_type(v.type, [&]<class S>(S*) {
    const auto* data = static_cast<const S*>(v.data);
    if (v.column_stride == 1) {
      for (index_t i = 0; i < v.rows; ++i) {
        const S* row = data + i * v.row_stride;
        C* out = buffer + i * v.columns;
        for (index_t j = 0; j < v.columns; ++j) out[j] = rounded<C>(row[j]);
      }
    } else {
      in_squares(v.rows, v.columns, [&](index_t i, index_t j) {
        buffer[i * v.columns + j] = rounded<C>(data[i * v.row_stride + j * v.column_stride]);
      });
    }
  });
}

/// Copies `buffer`, row after row, into the window v.
template <class C>
void store(const C* buffer, const host_view& v) {
  with_type(v.type, [&]<class S>(S*) {
    auto* data = static_cast<S*>(v.writable());
    if (v.column_stride == 1) {
      for (index_t i = 0; i < v.rows; ++i) {
        S* row = data + i * v.row_stride;
        const C* in = buffer + i * v.columns;
        for (index_t j = 0; j < v.columns; ++j) row[j] = rounded<S>(in[j]);
      }
    } else {
      in_squares(v.rows, v.columns, [&](index_t i, index_t j) {
        data[i * v.row_stride + j * v.column_stride] = rounded<S>(buffer[i * v.columns + j]);
      });
    }
  });
}

/// How a matrix is cut into blocks. The cut depends on the extents alone, never on threads, on the
/// storage order or on where memory lies: so all host backends add in the same order.
struct block_grid {
  /// 4096 elements: 32 KiB in double, the size of a first-level cache.
  static constexpr index_t block_elements = 4096;

  block_grid(index_t row_count, index_t column_count) : rows(row_count), columns(column_count) {
    if (rows == 0 || columns == 0) return;
    // Up to 256 columns (four pages of a transposed operand at most) by as many rows as fit.
    width = columns < 256 ? columns : 256;
    if (rows == 1) width = columns < block_elements ? columns : block_elements;
    height = block_elements / width;
    if (height > rows) height = rows;
    across = (columns + width - 1) / width;
    down = (rows + height - 1) / height;
  }

  index_t count() const { return across * down; }

  /// Block number b as a window of v.
  template <class View>
  View window(const View& v, index_t b) const {
    const index_t i = (b / across) * height, j = (b % across) * width;
    return v.window(i, (std::min)(height, rows - i), j, (std::min)(width, columns - j));
  }

  /// The first column of block number b.
  index_t first_column(index_t b) const { return (b % across) * width; }

  /// Elements of block number b.
  index_t size(index_t b) const {
    return (std::min)(height, rows - (b / across) * height) *
           (std::min)(width, columns - (b % across) * width);
  }

  index_t rows, columns;
  index_t width = 0, height = 0, across = 0, down = 0;
};

}  // namespace catmerge::detail
