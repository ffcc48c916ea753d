// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/checkpoint.hpp>
#include <catmerge/model/kinds.hpp>
#include <catmerge/stream.hpp>
#include <catmerge/tensor/host.hpp>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The logical matrix of a tensor: rank 0 and 1 are d x 1, rank 2 is itself, higher ranks are
/// (first extent, all others).
inline std::pair<index_t, index_t> matrix_extents(const io::shape_t& shape) {
  if (shape.empty()) return {1, 1};
  index_t rest = 1;
  for (std::size_t axis = 1; axis < shape.size(); ++axis) rest *= shape[axis];
  return {shape.front(), rest};
}

/// Windows on the bytes of files. The bytes are used where they lie; only where a file puts them at
/// an address that does not suit their type are they copied, and the copies are kept until clear().
class windows {
 public:
  /// d_out x d_in; `transposed` for what is stored d_in x d_out.
  host_const_view of(const io::tensor_entry& entry, bool transposed = false) {
    const auto type = io::scalar_of(entry.type);
    const void* data = entry.bytes.data();
    if (!io::is_aligned(entry)) {
      copies_.emplace_back(*type, static_cast<index_t>(entry.bytes.size() / size_of(*type)), 1);
      const host_view copy = copies_.back();
      std::memcpy(copy.writable(), data, entry.bytes.size());
      data = copy.data;
    }
    const auto [rows, columns] = matrix_extents(entry.shape);
    const host_const_view v(data, *type, rows, columns, columns, 1);
    return transposed ? v.transposed() : v;
  }

  /// A copy of `under` whose first rows are those of `top`, in a type that holds both.
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

/// How the library treats a parameter of a kind.
inline layer_kind layer_of(const model::classification& c) {
  if (!c.trim) return layer_kind::other;
  switch (c.kind) {
    case model::parameter_kind::linear:
    case model::parameter_kind::fused_linear:
    case model::parameter_kind::conv: return layer_kind::linear;
    case model::parameter_kind::scale: return layer_kind::scale;
    case model::parameter_kind::shift: return layer_kind::shift;
    case model::parameter_kind::embedding:
    case model::parameter_kind::running_statistics:
    case model::parameter_kind::fixed:
    case model::parameter_kind::packed:
    case model::parameter_kind::unknown: break;
  }
  return layer_kind::other;
}

}  // namespace catmerge::harness
