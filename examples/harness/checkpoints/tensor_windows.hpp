// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/checkpoint.hpp>
#include <catmerge/merge/stream.hpp>
#include <catmerge/model/kinds.hpp>
#include <catmerge/tensor/host/host.hpp>
#include <cstring>
#include <deque>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// The logical matrix of a tensor: d x 1 for ranks 0 and 1, else first extent x all others.
inline std::pair<index_t, index_t> matrix_extents(const io::shape_t& shape) {
  if (shape.empty()) return {1, 1};
  index_t rest = 1;
  for (std::size_t axis = 1; axis < shape.size(); ++axis) rest *= shape[axis];
  return {shape.front(), rest};
}

/// True if weights of a kind are matrices, which have a layout.
inline bool is_matrix_kind(model::parameter_kind kind) {
  return kind == model::parameter_kind::linear || kind == model::parameter_kind::fused_linear;
}

/// True if each member of a stack is a parameter of its own. (A stack of matrices of unknown layout
/// stays one untrimmed piece.)
inline bool comes_apart(const model::classification& c) {
  return c.stacked && (c.trim || !is_matrix_kind(c.kind));
}

/// The matrix of a tensor of a class, before any transpose:
///
///     stack of matrices (n, rows, columns)    (n rows) x columns: one under the other
///     stack of vectors (n, d)                 (n d) x 1
///     stack of unknown layout                 (n rows columns) x 1: no matrix
///     embedding, of no rule                   without leading extents of 1; three or more others:
///                                             (n, 1), no matrix. A patch embedding, of four, is
///                                             a matrix: (d_out, rest)
///     all else                                as matrix_extents
inline std::pair<index_t, index_t> extents_of(const io::shape_t& shape,
                                              const model::classification& c) {
  const auto all = [&] {
    index_t count = 1;
    for (const index_t extent : shape) count *= extent;
    return count;
  };
  if (c.stacked) {
    if (!is_matrix_kind(c.kind) || !comes_apart(c)) return {all(), 1};
    return {shape[0] * shape[1], shape[2]};
  }
  const bool unknown = c.kind == model::parameter_kind::unknown;
  if (!unknown && c.kind != model::parameter_kind::embedding &&
      c.kind != model::parameter_kind::running_statistics)
    return matrix_extents(shape);
  const auto first = std::find_if(shape.begin(), shape.end(), [](index_t e) { return e != 1; });
  const io::shape_t rest(shape.size() < 3 ? shape.begin() : first, shape.end());
  if (rest.size() > 2 && (unknown || shape.size() == 3)) return {all(), 1};
  return matrix_extents(rest);
}

/// Windows on the bytes of files, used in place. Bytes at an address that is not aligned to their
/// type are copied; clear() frees the copies.
class windows {
 public:
  /// The values as the matrix of matrix_extents.
  host_const_view of(const io::tensor_entry& entry) {
    const auto [rows, columns] = matrix_extents(entry.shape);
    return of(entry, rows, columns);
  }

  /// The tensor's values as rows x columns.
  host_const_view of(const io::tensor_entry& entry, index_t rows, index_t columns) {
    const auto type = io::scalar_of(entry.type);
    const void* data = entry.bytes.data();
    if (!io::is_aligned(entry)) {
      copies_.emplace_back(*type, static_cast<index_t>(entry.bytes.size() / size_of(*type)), 1);
      const host_view copy = copies_.back();
      std::memcpy(copy.writable(), data, entry.bytes.size());
      data = copy.data;
    }
    return {data, *type, rows, columns, columns, 1};
  }

  /// A view of values that live until clear().
  host_const_view keep(host_matrix values) {
    copies_.push_back(std::move(values));
    return copies_.back();
  }

  /// A copy of `under` with the first rows of `top`, in a type that holds both.
  host_const_view patched(const host_const_view& under, const host_const_view& top) {
    const bool wide = under.type == scalar_type::f64 || top.type == scalar_type::f64;
    copies_.emplace_back(wide ? scalar_type::f64 : scalar_type::f32, under.rows, under.columns);
    const host_view copy = copies_.back();
    context<host> c;
    c.assign(under, copy);
    c.assign(top, copy.window(0, top.rows, 0, top.columns));
    return copy;
  }

  void clear() { copies_.clear(); }

 private:
  std::deque<host_matrix> copies_;
};

}  // namespace catmerge::harness
