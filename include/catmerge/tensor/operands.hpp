// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/require.hpp>

/// Handles of a context where tensors are taken: what a method or a transform has in hand are its
/// context's views and matrices, and the steps that a user calls on tensors serve it as well.
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

/// The same, and it can be written to. A view can, const or not: it is a handle. What owns its
/// elements cannot where it is const.
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

/// const_view_of and view_of (context.hpp) of either.
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
