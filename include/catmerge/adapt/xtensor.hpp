// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/host.hpp>
#include <string>
#include <xtensor/xarray.hpp>
#include <xtensor/xtensor.hpp>

namespace catmerge {

namespace detail {

/// A window on an xtensor container of rank 1 or 2, of any layout. (xtensor stores stride 0 on axes
/// of extent 1; host_view puts that right.)
template <class S, class X>
strided_view<S> xtensor_window(X& x) {
  const auto extent = [&](std::size_t axis) { return static_cast<index_t>(x.shape()[axis]); };
  const auto stride = [&](std::size_t axis) { return static_cast<index_t>(x.strides()[axis]); };
  if (x.dimension() == 1) return {x.data(), extent(0), 1, stride(0), 1};
  if (x.dimension() == 2) return {x.data(), extent(0), extent(1), stride(0), stride(1)};
  throw error("an xtensor expression of rank " + std::to_string(x.dimension()) +
              " is neither a vector nor a matrix: reshape it to (d_out, rest) first");
}

}  // namespace detail

/// xt::xarray: the rank is looked at on each call.
template <storage_scalar S, xt::layout_type L, class A, class B>
struct tensor_traits<xt::xarray<S, L, A, B>> {
  using domain = host;
  static constexpr int rank = dynamic_rank;
  using type = xt::xarray<S, L, A, B>;
  using result = xt::xarray<compute_t<S>, L>;

  static strided_view<const S> view(const type& x) { return detail::xtensor_window<const S>(x); }
  static strided_view<S> view(type& x) { return detail::xtensor_window<S>(x); }
  static result make(const type& like, index_t rows, index_t columns) {
    const auto n = static_cast<std::size_t>(rows), m = static_cast<std::size_t>(columns);
    const auto shape =
        like.dimension() == 1 ? std::vector<std::size_t>{n * m} : std::vector<std::size_t>{n, m};
    if constexpr (L == xt::layout_type::dynamic)
      return result(typename result::shape_type(shape.begin(), shape.end()),
                    xt::layout_type::row_major);
    else
      return result::from_shape(shape);
  }
};

/// xt::xtensor of rank 1 or 2.
template <storage_scalar S, std::size_t N, xt::layout_type L, class A>
requires(N == 1 || N == 2) struct tensor_traits<xt::xtensor<S, N, L, A>> {
  using domain = host;
  static constexpr int rank = static_cast<int>(N);
  using type = xt::xtensor<S, N, L, A>;
  using result = xt::xtensor<compute_t<S>, N, L>;

  static strided_view<const S> view(const type& x) { return detail::xtensor_window<const S>(x); }
  static strided_view<S> view(type& x) { return detail::xtensor_window<S>(x); }
  static result make(const type&, index_t rows, index_t columns) {
    const auto n = static_cast<std::size_t>(rows), m = static_cast<std::size_t>(columns);
    typename result::shape_type shape;
    if constexpr (N == 1)
      shape = {n * m};
    else
      shape = {n, m};
    if constexpr (L == xt::layout_type::dynamic)
      return result(shape, xt::layout_type::row_major);
    else
      return result(shape);
  }
};

}  // namespace catmerge
