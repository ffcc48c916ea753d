// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/tensor/host/host.hpp>
#include <catmerge/tensor/mistakes.hpp>
#include <concepts>

namespace catmerge {

namespace detail {

/// The expression type of an Eigen object: itself, or a Block for a segment of a vector.
template <class D>
D eigen_expression(const Eigen::DenseBase<D>*);
template <class T>
using eigen_expression_t = decltype(eigen_expression(static_cast<const T*>(nullptr)));

/// Eigen objects with elements in memory: Matrix, Array, Map, Ref, and Block, segment and transpose
/// of these, row- or column-major, fixed or dynamic. (Expressions such as a + b are not: write
/// (a + b).eval().)
template <class T>
concept eigen_dense = requires {
  typename eigen_expression_t<T>;
  requires storage_scalar<typename T::Scalar>;
  requires(Eigen::internal::traits<eigen_expression_t<T>>::Flags & Eigen::DirectAccessBit) != 0;
};

/// The type of results: the same family (Matrix or Array), orientation and storage order, with
/// dynamic extents and the compute type.
template <class T>
struct eigen_result {
  using C = compute_t<typename T::Scalar>;
  static constexpr int rows =
      T::RowsAtCompileTime == 1 && T::IsVectorAtCompileTime ? 1 : Eigen::Dynamic;
  static constexpr int columns =
      T::ColsAtCompileTime == 1 && T::IsVectorAtCompileTime && rows != 1 ? 1 : Eigen::Dynamic;
  static constexpr int order =
      rows == 1 || (columns != 1 && T::IsRowMajor) ? Eigen::RowMajor : Eigen::ColMajor;
  using type = std::conditional_t<std::derived_from<T, Eigen::MatrixBase<eigen_expression_t<T>>>,
                                  Eigen::Matrix<C, rows, columns, order>,
                                  Eigen::Array<C, rows, columns, order>>;
};

/// The type of an Eigen object, dense or not.
template <class D>
D eigen_object(const Eigen::EigenBase<D>*);
template <class T>
concept eigen_other = !eigen_dense<T> && requires {
  eigen_object(static_cast<const T*>(nullptr));
};

template <class T>
constexpr mistake eigen_mistake() {
  using object = decltype(eigen_object(static_cast<const T*>(nullptr)));
  using kind = typename Eigen::internal::traits<object>::StorageKind;
  if (!storage_scalar<typename T::Scalar>) return mistake::elements;
  return std::is_same_v<kind, Eigen::Sparse> ? mistake::sparse : mistake::expression;
}

/// Eigen's objects that are no tensors: sums and products, sparse, diagonal and triangular ones.
template <eigen_other T>
struct foreign_type<T> : mistaken_as<eigen_mistake<T>(), typename T::Scalar> {};

}  // namespace detail

/// Eigen: compile-time vectors (VectorXf, RowVectorXd, ArrayXf ...) are vectors, all others
/// matrices. Nothing is copied, whatever the strides.
template <class T>
requires detail::eigen_dense<T>
struct tensor_traits<T> {
  /// @cond specialisation
  using domain = host;
  static constexpr int rank = T::IsVectorAtCompileTime ? 1 : 2;

  static auto view(const T& t) { return window<const typename T::Scalar>(t); }
  static auto view(T& t) { return window<std::remove_pointer_t<decltype(t.data())>>(t); }

  static auto make(const T&, index_t rows, index_t columns) {
    using result = typename detail::eigen_result<T>::type;
    if constexpr (rank == 1)
      return result(rows * columns);
    else
      return result(rows, columns);
  }
  /// @endcond

 private:
  template <class S, class U>
  static strided_view<S> window(U& t) {
    if constexpr (rank == 1)
      return {t.data(), t.size(), 1, t.innerStride(), 1};
    else if constexpr (T::IsRowMajor)
      return {t.data(), t.rows(), t.cols(), t.outerStride(), t.innerStride()};
    else
      return {t.data(), t.rows(), t.cols(), t.innerStride(), t.outerStride()};
  }
};

}  // namespace catmerge
