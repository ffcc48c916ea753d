// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/host/host.hpp>
#include <catmerge/tensor/mistakes.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

/// @file
/// Eigen's Tensor module: Tensor, TensorFixedSize and TensorMap of rank 1 and 2 (3 and more:
/// reshape to (d_out, rest) first), column- and row-major. Nothing is copied. Expressions are no
/// tensors: evaluate them into a Tensor first.
namespace catmerge {

namespace detail {

template <class S, class T>
strided_view<S> eigen_tensor_window(S* data, const T& t) {
  constexpr bool row_major = static_cast<int>(T::Layout) == static_cast<int>(Eigen::RowMajor);
  if constexpr (T::NumIndices == 1)
    return {data, t.dimension(0), 1, 1, 1};
  else if constexpr (row_major)
    return {data, t.dimension(0), t.dimension(1), t.dimension(1), 1};
  else
    return {data, t.dimension(0), t.dimension(1), 1, t.dimension(0)};
}

/// S: the element type, const if the tensor is read-only.
template <class T, class S>
struct eigen_tensor_traits {
  using domain = host;
  static constexpr int rank = static_cast<int>(T::NumIndices);
  using result = Eigen::Tensor<compute_t<S>, rank, static_cast<int>(T::Layout)>;

  static strided_view<const S> view(const T& t) {
    return eigen_tensor_window<const S>(t.data(), t);
  }
  static strided_view<S> view(T& t) { return eigen_tensor_window<S>(t.data(), t); }
  static result make(const T&, index_t rows, index_t columns) {
    if constexpr (rank == 1)
      return result(rows * columns);
    else
      return result(rows, columns);
  }
};

template <class T>
concept eigen_vector_or_matrix = storage_scalar<typename T::Scalar> &&
    (T::NumIndices == 1 || T::NumIndices == 2);

template <class D>
D eigen_tensor_object(const Eigen::TensorBase<D, Eigen::ReadOnlyAccessors>*);
template <class T>
concept eigen_tensor_like = requires {
  eigen_tensor_object(static_cast<const T*>(nullptr));
};
template <class T>
concept eigen_tensor_in_memory = requires(const T& t) {
  t.data();
  t.dimension(0);
};

/// Objects of the Tensor module that are no tensors here.
template <eigen_tensor_like T>
struct foreign_type<T> : mistaken_as<!storage_scalar<typename T::Scalar> ? mistake::elements
                                     : eigen_tensor_in_memory<T>         ? mistake::rank
                                                                         : mistake::expression,
                                     typename T::Scalar> {};

}  // namespace detail

/// Rank 1: a vector; rank 2: a matrix. Results are Tensors of the same rank and storage order.
template <storage_scalar S, int N, int Options, class Index>
requires(N == 1 || N == 2) struct tensor_traits<Eigen::Tensor<S, N, Options, Index>>
    : detail::eigen_tensor_traits<Eigen::Tensor<S, N, Options, Index>, S> {
};

/// The same for compile-time extents; results are Tensors.
template <storage_scalar S, class Sizes, int Options, class Index>
requires(Sizes::count == 1 ||
         Sizes::count == 2) struct tensor_traits<Eigen::TensorFixedSize<S, Sizes, Options, Index>>
    : detail::eigen_tensor_traits<Eigen::TensorFixedSize<S, Sizes, Options, Index>, S> {
};

/// TensorMap<Tensor<float, 2>> is written to; TensorMap<const Tensor<...>> and
/// TensorMap<Tensor<const float, 2>> are read-only.
template <detail::eigen_vector_or_matrix T, int Options, template <class> class MakePointer>
struct tensor_traits<Eigen::TensorMap<T, Options, MakePointer>>
    : detail::eigen_tensor_traits<
          Eigen::TensorMap<T, Options, MakePointer>,
          std::conditional_t<std::is_const_v<T>, const typename T::Scalar, typename T::Scalar>> {};

}  // namespace catmerge
