// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/adapt/xtensor.hpp>
#include <deque>
#if __has_include(<xtensor/containers/xtensor.hpp>)  // xtensor 0.26 and newer
#include <xtensor/containers/xadapt.hpp>
#include <xtensor/views/xstrided_view.hpp>
#include <xtensor/views/xview.hpp>
#else
#include <xtensor/xadapt.hpp>
#include <xtensor/xstrided_view.hpp>
#include <xtensor/xview.hpp>
#endif

#include "support/data.hpp"

/// xtensor's kinds for the suite of tests/support/suite/algorithms.hpp.
namespace test {

template <class X>
void fill(X& x, const matrix_of<typename X::value_type>& m) {
  for (index_t i = 0; i < m.rows(); ++i)
    for (index_t j = 0; j < m.cols(); ++j)
      if (x.dimension() == 1)
        x(at(i)) = m(i, j);
      else
        x(at(i), at(j)) = m(i, j);
}

template <class X>
auto xtensor_to_eigen(const X& x) {
  using C = catmerge::compute_t<typename X::value_type>;
  const bool vector = x.dimension() == 1;
  matrix_of<C> m(static_cast<index_t>(x.shape()[0]),
                 vector ? 1 : static_cast<index_t>(x.shape()[1]));
  for (index_t j = 0; j < m.cols(); ++j)
    for (index_t i = 0; i < m.rows(); ++i)
      m(i, j) = static_cast<C>(vector ? x(at(i)) : x(at(i), at(j)));
  return m;
}

/// The common part of xtensor's kinds.
template <class S>
struct xtensor_kind {
  using scalar = S;
  static constexpr bool same_bits = true;
  template <class X>
  static auto to_eigen(const X& x) {
    return xtensor_to_eigen(x);
  }
};

/// xt::xtensor of a static layout.
template <class S, xt::layout_type L = xt::layout_type::row_major>
struct xtensor_backend : xtensor_kind<S> {
  auto matrix(const matrix_of<S>& m) {
    xt::xtensor<S, 2, L> x({at(m.rows()), at(m.cols())});
    fill(x, m);
    return x;
  }
  auto vector(const vector_of<S>& v) {
    xt::xtensor<S, 1, L> x(typename xt::xtensor<S, 1, L>::shape_type{at(v.size())});
    fill(x, v);
    return x;
  }
};

/// xt::xarray: rank and layout known at run time.
template <class S>
struct xarray_backend : xtensor_kind<S> {
  using type = xt::xarray<S, xt::layout_type::dynamic>;
  auto matrix(const matrix_of<S>& m) {
    type x(typename type::shape_type{at(m.rows()), at(m.cols())}, xt::layout_type::column_major);
    fill(x, m);
    return x;
  }
  auto vector(const vector_of<S>& v) {
    type x(typename type::shape_type{at(v.size())}, xt::layout_type::column_major);
    fill(x, v);
    return x;
  }
};

/// Views: every second row and a range of columns of a larger tensor, and a row of one.
template <class S>
struct xview_backend : xtensor_kind<S> {
  std::deque<xt::xtensor<S, 2>> memory{};
  auto matrix(const matrix_of<S>& m) {
    memory.emplace_back(
        typename xt::xtensor<S, 2>::shape_type{at(2 * m.rows() + 1), at(m.cols() + 3)}, S(9));
    auto view =
        xt::view(memory.back(), xt::range(1, 2 * m.rows() + 1, 2), xt::range(2, m.cols() + 2));
    fill(view, m);
    return view;
  }
  auto vector(const vector_of<S>& v) {
    memory.emplace_back(typename xt::xtensor<S, 2>::shape_type{at(v.size() + 1), 3}, S(9));
    auto view = xt::view(memory.back(), xt::range(1, v.size() + 1), 1);
    fill(view, v);
    return view;
  }
};

/// Buffers of somebody else's, taken in by xt::adapt.
template <class S>
struct xadapt_backend : xtensor_kind<S> {
  std::deque<std::vector<S>> memory{};
  auto matrix(const matrix_of<S>& m) {
    memory.emplace_back(at(m.size()));
    auto x = xt::adapt(memory.back(), std::array<std::size_t, 2>{at(m.rows()), at(m.cols())});
    fill(x, m);
    return x;
  }
  auto vector(const vector_of<S>& v) {
    memory.emplace_back(at(v.size()));
    auto x = xt::adapt(memory.back(), std::array<std::size_t, 1>{at(v.size())});
    fill(x, v);
    return x;
  }
};

}  // namespace test
