// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/require.hpp>

/// Operands: tensors, or handles of a context. Users call the library's steps on tensors; methods
/// and transforms call the same steps on views and matrices of their context.
namespace catmerge::detail {

/// A view or a matrix of the context itself, which needs no tensor_traits.
template <class T, class Context>
inline constexpr bool handle_of =
    std::is_same_v<std::remove_cvref_t<T>, typename Context::view> ||
    std::is_same_v<std::remove_cvref_t<T>, typename Context::const_view> ||
    std::is_same_v<std::remove_cvref_t<T>, typename Context::matrix>;

/// A tensor, or a handle of the context.
template <class Context, class T>
constexpr bool require_operand() {
  if constexpr (!handle_of<T, Context>) static_assert(require_tensor<T>());
  return true;
}

/// A writable operand. A view is writable even if const: it is a handle. A const object that owns
/// its elements is not.
template <class Context, class T>
constexpr bool require_written() {
  if constexpr (handle_of<T, Context>)
    static_assert(
        std::convertible_to<T&, typename Context::view>,
        "catmerge: this handle is written to, so it must be a context<Domain>::view, or a "
        "matrix that is not const");
  else
    static_assert(require_mutable<T>());
  return true;
}

/// const_view_of and view_of (context.hpp) for tensors and handles.
template <class Context, class T>
typename Context::const_view const_view_in(const T& t) {
  if constexpr (handle_of<T, Context>)
    return t;
  else
    return const_view_of(t);
}
template <class Context, class T>
typename Context::view view_in(T& t) {
  if constexpr (handle_of<T, Context>)
    return t;
  else
    return view_of(t);
}

}  // namespace catmerge::detail
