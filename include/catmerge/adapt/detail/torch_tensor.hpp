// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <catmerge/tensor/context.hpp>
#include <iterator>
#include <optional>
#include <string>
#include <utility>

// Member functions of tensors and a few headers suffice. <ATen/ATen.h>, and the headers of single
// functions too, take much longer to compile, and Clang 14 does not compile libtorch 1.13's as
// C++20.

namespace catmerge {

/// The domain of libtorch's tensors (1.13 and newer), on every device that computes in float64.
struct torch_domain {};

/// A matrix to read: a strided tensor of rank 2, of one of the four types, outside autograd.
/// tensor_traits<at::Tensor>::view makes it.
struct torch_const_view {
  at::Tensor tensor;  ///< rank 2, detached; a vector of d is d x 1
};

/// A matrix to write.
struct torch_view {
  at::Tensor tensor;  ///< rank 2, detached; no two elements share memory
  /// The same matrix, to read.
  operator torch_const_view() const { return {tensor}; }
};

/// Owns a matrix. (A copy of an at::Tensor would share its memory, so there are no copies.)
class torch_matrix {
 public:
  torch_matrix() = default;
  /// Takes over a tensor of rank 2 and of one of the four types.
  explicit torch_matrix(at::Tensor tensor) : tensor_(std::move(tensor)) {}
  torch_matrix(torch_matrix&&) = default;             ///< The right-hand side is left undefined.
  torch_matrix& operator=(torch_matrix&&) = default;  ///< As the constructor.
  /// The whole matrix, to write.
  operator torch_view() { return {tensor_}; }
  /// The whole matrix, to read.
  operator torch_const_view() const { return {tensor_}; }

 private:
  at::Tensor tensor_;
};

namespace detail {

/// In the order of scalar_type.
inline constexpr at::ScalarType torch_types[] = {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16};

inline at::ScalarType torch_type(scalar_type type) {
  return torch_types[static_cast<std::size_t>(type)];
}

inline std::optional<scalar_type> type_of_torch(at::ScalarType type) {
  const auto* found = std::find(std::begin(torch_types), std::end(torch_types), type);
  if (found == std::end(torch_types)) return std::nullopt;
  return static_cast<scalar_type>(found - std::begin(torch_types));
}

/// A tensor as a matrix over the same memory, hidden from autograd. A write changes t, which keeps
/// its requires_grad; its version counter goes up by one.
inline at::Tensor torch_window(const at::Tensor& t, bool written) {
  if (!t.defined()) throw error("a torch::Tensor is undefined: expected a vector or a matrix");
  if (t.is_nested() || t.layout() != at::kStrided)
    throw error(
        "a torch::Tensor is sparse, nested or of another layout: expected torch::kStrided; call "
        "to_dense()");
  if (!type_of_torch(t.scalar_type()))
    throw error(std::string("a torch::Tensor holds elements of type ") +
                c10::toString(t.scalar_type()) +
                ": expected Double, Float, Half or BFloat16; convert it with to(torch::kFloat)");
  if (t.dim() != 1 && t.dim() != 2)
    throw error("a torch::Tensor of rank " + std::to_string(t.dim()) +
                " is neither a vector nor a matrix: reshape it to (d_out, rest) first");
  if (t.is_neg())
    throw error(
        "a torch::Tensor holds its elements with the other sign (is_neg()): call "
        "resolve_neg(), which copies");
  for (int64_t axis = 0; written && t.numel() > 0 && axis < t.dim(); ++axis)
    if (t.size(axis) > 1 && t.stride(axis) == 0)
      throw error(
          "a result cannot be written to a tensor whose elements share memory (a stride is 0)");
  const at::Tensor plain = t.detach();
  return plain.dim() == 1 ? plain.unsqueeze(1) : plain;
}

}  // namespace detail

/// torch::Tensor, which is at::Tensor: a vector or a matrix, checked at each call. A result has the
/// rank and the device of `like`.
template <>
struct tensor_traits<at::Tensor> {
  /// @cond specialisation
  using domain = torch_domain;
  static constexpr int rank = dynamic_rank;

  static torch_const_view view(const at::Tensor& t) { return {detail::torch_window(t, false)}; }
  static torch_view view(at::Tensor& t) { return {detail::torch_window(t, true)}; }
  static at::Tensor make(const at::Tensor& like, index_t rows, index_t columns) {
    const bool in_double = like.scalar_type() == at::kDouble;
    const auto options = like.options().dtype(in_double ? at::kDouble : at::kFloat);
    return like.dim() == 1 ? like.new_empty({rows * columns}, options)
                           : like.new_empty({rows, columns}, options);
  }
  /// @endcond
};

}  // namespace catmerge
