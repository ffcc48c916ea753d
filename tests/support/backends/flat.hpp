// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/adapt/span.hpp>
#include <deque>

#include "support/data.hpp"

/// Flat arrays for the suite of tests/support/suite/algorithms.hpp.
namespace test {

/// flat_matrix with a gap behind each row, and std::span; results are flat_array and std::vector.
template <class S>
struct flat_backend {
  using scalar = S;
  static constexpr bool same_bits = true;
  std::deque<std::vector<S>> memory{};

  catmerge::flat_matrix<S> matrix(const matrix_of<S>& m) {
    const index_t stride = m.cols() + 3;
    memory.emplace_back(at(m.rows() * stride), S(9));
    for (index_t i = 0; i < m.rows(); ++i)
      for (index_t j = 0; j < m.cols(); ++j) memory.back()[at(i * stride + j)] = m(i, j);
    return {memory.back(), m.rows(), m.cols(), stride};
  }
  std::span<S> vector(const vector_of<S>& v) {
    memory.emplace_back(v.data(), v.data() + v.size());
    return memory.back();
  }

  static auto to_eigen(const catmerge::flat_matrix<S>& m) {
    return collect<S>(m.rows(), m.columns(),
                      [&](index_t i, index_t j) { return m.values()[at(i * m.row_stride() + j)]; });
  }
  template <class C>
  static auto to_eigen(const catmerge::flat_array<C>& m) {
    return collect<C>(m.rows(), m.columns(), m);
  }
  template <class C>
  static auto to_eigen(const std::vector<C>& v) {
    return to_eigen(std::span<const C>(v));
  }
  template <class C>
  static auto to_eigen(std::span<C> v) {
    return collect<std::remove_const_t<C>>(std::ssize(v), 1,
                                           [&](index_t i, index_t) { return v[at(i)]; });
  }

  /// The compute type's matrix of what element(i, j) gives.
  template <class T, class Element>
  static auto collect(index_t rows, index_t columns, const Element& element) {
    using C = catmerge::compute_t<T>;
    matrix_of<C> m(rows, columns);
    for (index_t j = 0; j < columns; ++j)
      for (index_t i = 0; i < rows; ++i) m(i, j) = static_cast<C>(element(i, j));
    return m;
  }
};

/// A bare pointer with two strides, here the larger one between columns; vectors are std::vector.
template <class S>
struct strided_backend {
  using scalar = S;
  static constexpr bool same_bits = true;
  std::deque<std::vector<S>> memory{};

  catmerge::strided_view<S> matrix(const matrix_of<S>& m) {
    const index_t stride = 2 * m.rows() + 1;
    memory.emplace_back(at(m.cols() * stride + 1), S(9));
    const catmerge::strided_view<S> v{memory.back().data(), m.rows(), m.cols(), 2, stride};
    for (index_t i = 0; i < m.rows(); ++i)
      for (index_t j = 0; j < m.cols(); ++j) v.data[2 * i + j * stride] = m(i, j);
    return v;
  }
  std::vector<S> vector(const vector_of<S>& v) { return {v.data(), v.data() + v.size()}; }

  static auto to_eigen(const catmerge::strided_view<S>& v) {
    return flat_backend<S>::template collect<S>(v.rows, v.columns, [&](index_t i, index_t j) {
      return v.data[i * v.row_stride + j * v.column_stride];
    });
  }
  template <class T>
  static auto to_eigen(const T& t) {
    return flat_backend<S>::to_eigen(t);
  }
};

}  // namespace test
