// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/host/host.hpp>
#include <catmerge/tensor/mistakes.hpp>
#include <concepts>
#include <string>
#include <vector>
#if __has_include(<xtensor/containers/xtensor.hpp>)  // xtensor 0.26 and newer
#include <xtensor/containers/xarray.hpp>
#include <xtensor/containers/xfixed.hpp>
#include <xtensor/containers/xtensor.hpp>
#include <xtensor/core/xsemantic.hpp>
#else
#include <xtensor/xarray.hpp>
#include <xtensor/xfixed.hpp>
#include <xtensor/xsemantic.hpp>
#include <xtensor/xtensor.hpp>
#endif

/// @file
/// xtensor: objects of rank 1 or 2 with elements in memory at fixed strides: xarray, xtensor,
/// xtensor_fixed, buffers of xt::adapt, and views that are windows on one of these (xt::view with
/// ranges, xt::strided_view, xt::transpose). Row- and column-major, without a copy. Expressions
/// (a + b), views through xt::keep and lazy reshapes of views are no tensors: evaluate them with
/// xt::eval first.
namespace catmerge {

namespace detail {

/// xt::has_data_interface alone is not enough: views through index lists have data() but no
/// strides.
template <class T>
concept xtensor_in_memory =
    std::derived_from<T, xt::xexpression<T>> && storage_scalar<typename T::value_type> &&
    xt::has_data_interface<T>::value && xt::has_strides<T>::value;

template <class T>
inline constexpr std::size_t xtensor_rank = xt::get_rank<T>::value;  // SIZE_MAX: at run time

template <class T>
concept xtensor_tensor = xtensor_in_memory<T> &&
    (xtensor_rank<T> == 1 || xtensor_rank<T> == 2 || xtensor_rank<T> == SIZE_MAX);

template <class T>
concept xtensor_other = std::derived_from<T, xt::xexpression<T>> && !xtensor_tensor<T>;

/// xtensor's expressions that are no tensors.
template <xtensor_other T>
struct foreign_type<T> : mistaken_as<!storage_scalar<typename T::value_type> ? mistake::elements
                                     : xtensor_in_memory<T>                  ? mistake::rank
                                                                             : mistake::expression,
                                     typename T::value_type> {};

/// The tensor's own static layout, if a container can have it (views may have any).
template <class T>
inline constexpr xt::layout_type xtensor_layout =
    T::static_layout == xt::layout_type::any ? xt::layout_type::row_major : T::static_layout;

/// (xtensor stores stride 0 on axes of extent 1; host_view corrects that.)
template <class S, class X>
strided_view<S> xtensor_window(S* data, X& x) {
  data += x.data_offset();
  const auto extent = [&](std::size_t axis) { return static_cast<index_t>(x.shape()[axis]); };
  const auto stride = [&](std::size_t axis) { return static_cast<index_t>(x.strides()[axis]); };
  if (x.dimension() == 1) return {data, extent(0), 1, stride(0), 1};
  if (x.dimension() == 2) return {data, extent(0), extent(1), stride(0), stride(1)};
  throw error("an xtensor expression of rank " + std::to_string(x.dimension()) +
              " is neither a vector nor a matrix: reshape it to (d_out, rest) first");
}

}  // namespace detail

/// xtensor: rank 1 is a vector, 2 a matrix. An xarray has its rank at run time (its view throws
/// catmerge::error for other ranks). Results are xtensor or xarray, in the layout of T.
template <detail::xtensor_tensor T>
struct tensor_traits<T> {
  /// @cond specialisation
  using domain = host;
  static constexpr bool dynamic = detail::xtensor_rank<T> == SIZE_MAX;
  static constexpr int rank = dynamic ? dynamic_rank : static_cast<int>(detail::xtensor_rank<T>);
  static constexpr xt::layout_type layout = detail::xtensor_layout<T>;
  using C = compute_t<typename T::value_type>;
  /// xarray for a rank at run time, else xtensor.
  using result = std::conditional_t<dynamic, xt::xarray<C, layout>,
                                    xt::xtensor<C, dynamic ? 1 : detail::xtensor_rank<T>, layout>>;

  static auto view(const T& x) {
    return detail::xtensor_window<const typename T::value_type>(x.data(), x);
  }
  static auto view(T& x) {
    return detail::xtensor_window<std::remove_pointer_t<decltype(x.data())>>(x.data(), x);
  }
  static result make(const T& like, index_t rows, index_t columns) {
    const auto n = static_cast<std::size_t>(rows), m = static_cast<std::size_t>(columns);
    std::vector<std::size_t> extents{n, m};
    if (like.dimension() == 1) extents = {n * m};
    typename result::shape_type shape =
        xtl::make_sequence<typename result::shape_type>(extents.size(), 0);
    std::copy(extents.begin(), extents.end(), shape.begin());
    if constexpr (layout == xt::layout_type::dynamic)
      return result(shape, xt::layout_type::row_major);
    else
      return result(shape);
  }
  /// @endcond
};

}  // namespace catmerge
