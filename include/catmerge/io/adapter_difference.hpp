// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/adapter_folder.hpp>
#include <catmerge/io/convert.hpp>
#include <catmerge/tensor/host/host.hpp>
#include <cstddef>
#include <span>
#include <vector>

/// @file
/// The differences of an adapter from its base, as matrices.
namespace catmerge::io {

/// A factor's values as a matrix: in place, or in a copy if its bytes are not aligned.
class factor_values {
 public:
  /// `row_count`: r for A, d_out for B. Precondition: the entry is of an adapter_target, whose file
  /// outlives the object.
  factor_values(const tensor_entry& entry, index_t row_count) {
    const void* data = entry.bytes.data();
    if (!is_aligned(entry)) {
      copy_.assign(entry.bytes.begin(), entry.bytes.end());
      data = copy_.data();
    }
    const index_t columns = static_cast<index_t>(*element_count(entry.shape)) / row_count;
    view_ = host_const_view(data, *scalar_of(entry.type), row_count, columns, columns, 1);
  }
  factor_values(factor_values&&) = default;             ///< The view stays valid.
  factor_values& operator=(factor_values&&) = default;  ///< The view stays valid.

  /// r x d_in for A, d_out x r for B; row-major. Valid while the object lives.
  const host_const_view& view() const { return view_; }

 private:
  std::vector<std::byte> copy_;
  host_const_view view_;
};

/// A of a target: r x d_in.
inline factor_values a_of(const adapter_target& target) {
  return {*target.a, target.rank};
}
/// B of a target: d_out x r.
inline factor_values b_of(const adapter_target& target) {
  return {*target.b, target.d_out};
}

/// True if a target's parameter is stored with d_out rows.
inline bool is_out_in(const adapter_target& target) {
  return target.layer == adapter_layer::linear || target.layer == adapter_layer::convolution;
}

/// to += rows first, first + 1, ... of s B A, as the parameter is stored: transposed for
/// transposed_linear and embedding. `to` is as wide as the parameter (a convolution's d_in is C_in
/// times its kernel), in any order of its memory. The product is in double if `to` is f64, else in
/// float. Throws error if the shapes differ.
inline void add_difference(const adapter_target& target, index_t first, const host_view& to,
                           context<host>& on) {
  const factor_values a = a_of(target), b = b_of(target);
  if (is_out_in(target)) {
    on.multiply(target.scale, b.view().window(first, to.rows, 0, target.rank), op::none, a.view(),
                op::none, 1, to);
  } else {
    on.multiply(target.scale, a.view().window(0, target.rank, first, to.rows), op::transpose,
                b.view(), op::transpose, 1, to);
  }
}

/// The difference of a target's parameter, row-major, in the parameter's shape.
template <compute_scalar S>
std::vector<S> difference_of(const adapter_target& target, context<host> on = {}) {
  const index_t rows = is_out_in(target) ? target.d_out : target.d_in;
  const index_t columns = is_out_in(target) ? target.d_in : target.d_out;
  std::vector<S> values(static_cast<std::size_t>(rows * columns));
  add_difference(target, 0, {values.data(), scalar_type_v<S>, rows, columns, columns, 1}, on);
  return values;
}

/// s times B's bias, which is added to the bias of the target's module: d_out entries. Empty if B
/// has none.
template <compute_scalar S>
std::vector<S> bias_difference_of(const adapter_target& target) {
  if (target.bias == nullptr) return {};
  std::vector<S> values(static_cast<std::size_t>(target.d_out));
  convert(target.bias->bytes, *scalar_of(target.bias->type), std::span<S>(values));
  for (S& value : values) value = static_cast<S>(static_cast<double>(value) * target.scale);
  return values;
}

}  // namespace catmerge::io
