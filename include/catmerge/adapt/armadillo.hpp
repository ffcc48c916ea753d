// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <armadillo>
#include <catmerge/tensor/host/host.hpp>
#include <catmerge/tensor/mistakes.hpp>
#include <concepts>
#include <type_traits>

/// @file
/// Armadillo: Mat, Col, Row and their subviews (X.rows(a, b), X.submat(...), X.col(j) ...) of float
/// or double, column-major as in Armadillo, without a copy. Expressions such as A + B and views
/// through index vectors are no tensors: evaluate them into a Mat first.
namespace catmerge {

namespace detail {

/// Mat, Col, Row and their fixed-size forms.
template <class T>
concept armadillo_dense = requires {
  requires compute_scalar<typename T::elem_type>;
  requires std::derived_from<T, arma::Mat<typename T::elem_type>>;
};

/// Windows on a Mat.
template <class T>
concept armadillo_part = requires {
  requires compute_scalar<typename T::elem_type>;
  requires std::derived_from<T, arma::subview<typename T::elem_type>>;
};

template <class E, class D>
D armadillo_object(const arma::Base<E, D>*);
template <class E, class D>
D armadillo_cube(const arma::BaseCube<E, D>*);
template <class E, class D>
D armadillo_sparse(const arma::SpBase<E, D>*);

template <class T>
concept armadillo_other = !armadillo_dense<T> && !armadillo_part<T> &&
                          (
                              requires { armadillo_object(static_cast<const T*>(nullptr)); } ||
                              requires { armadillo_cube(static_cast<const T*>(nullptr)); } ||
                              requires { armadillo_sparse(static_cast<const T*>(nullptr)); });

template <class T>
constexpr mistake armadillo_mistake() {
  if constexpr (!compute_scalar<typename T::elem_type>)
    return mistake::elements;
  else if constexpr (requires { armadillo_object(static_cast<const T*>(nullptr)); })
    return mistake::expression;
  else if constexpr (requires { armadillo_cube(static_cast<const T*>(nullptr)); })
    return mistake::rank;
  else
    return mistake::sparse;
}

/// Armadillo's objects that are no tensors: expressions, cubes, sparse matrices.
template <armadillo_other T>
struct foreign_type<T> : mistaken_as<armadillo_mistake<T>(), typename T::elem_type> {};

template <class T>
inline constexpr bool armadillo_vector = T::is_col || T::is_row;

/// The type of results: Mat, Col or Row.
template <class T, class S = typename T::elem_type>
using armadillo_result =
    std::conditional_t<T::is_col, arma::Col<S>,
                       std::conditional_t<T::is_row, arma::Row<S>, arma::Mat<S>>>;

template <class T>
armadillo_result<T> make_armadillo(index_t rows, index_t columns) {
  const auto n = static_cast<arma::uword>(rows), m = static_cast<arma::uword>(columns);
  if constexpr (armadillo_vector<T>)
    return armadillo_result<T>(n * m);
  else
    return armadillo_result<T>(n, m);
}

/// The window on t with columns `stride` elements apart. A vector of either orientation is d x 1.
template <class S, class T>
strided_view<S> armadillo_window(S* data, const T& t, arma::uword stride) {
  const auto n = static_cast<index_t>(t.n_rows), m = static_cast<index_t>(t.n_cols),
             step = static_cast<index_t>(stride);
  if constexpr (armadillo_vector<T>)
    return {data, n * m, 1, T::is_row ? step : 1, 1};
  else
    return {data, n, m, 1, step};
}

}  // namespace detail

/// Armadillo: a Mat is a matrix, Col and Row are vectors; results are of the same family.
template <detail::armadillo_dense T>
struct tensor_traits<T> {
  /// @cond specialisation
  using domain = host;
  using S = typename T::elem_type;
  static constexpr int rank = detail::armadillo_vector<T> ? 1 : 2;

  static strided_view<const S> view(const T& t) {
    return detail::armadillo_window<const S>(t.memptr(), t, t.n_rows);
  }
  static strided_view<S> view(T& t) { return detail::armadillo_window<S>(t.memptr(), t, t.n_rows); }
  static auto make(const T&, index_t rows, index_t columns) {
    return detail::make_armadillo<T>(rows, columns);
  }
  /// @endcond
};

/// Armadillo's subviews, windows on a Mat.
//
// A subview keeps a reference to a const Mat. Armadillo itself writes through it if the Mat is
// mutable; subviews of a const Mat are const.
template <detail::armadillo_part T>
struct tensor_traits<T> {
  /// @cond specialisation
  using domain = host;
  using S = typename T::elem_type;
  static constexpr int rank = detail::armadillo_vector<T> ? 1 : 2;

  static strided_view<const S> view(const T& t) {
    return detail::armadillo_window<const S>(first(t), t, t.m.n_rows);
  }
  static strided_view<S> view(T& t) {
    return detail::armadillo_window<S>(const_cast<S*>(first(t)), t, t.m.n_rows);
  }
  static auto make(const T&, index_t rows, index_t columns) {
    return detail::make_armadillo<T>(rows, columns);
  }
  /// @endcond

 private:
  static const S* first(const T& t) {
    return t.n_elem == 0 ? nullptr : t.m.memptr() + t.aux_row1 + t.aux_col1 * t.m.n_rows;
  }
};

}  // namespace catmerge
