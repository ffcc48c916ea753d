// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/adapt/armadillo.hpp>
#include <deque>

#include "support/data.hpp"

/// Armadillo's kinds for the suite of tests/support/suite/algorithms.hpp.
namespace test {

template <class T>
auto armadillo_to_eigen(const T& t) {
  const bool vector = T::is_col || T::is_row;
  matrix_of<typename T::elem_type> m(static_cast<index_t>(vector ? t.n_elem : t.n_rows),
                                     static_cast<index_t>(vector ? 1 : t.n_cols));
  for (index_t j = 0; j < m.cols(); ++j)
    for (index_t i = 0; i < m.rows(); ++i) {
      const auto n = static_cast<arma::uword>(i), k = static_cast<arma::uword>(j);
      m(i, j) = T::is_row ? t.at(0, n) : t.at(n, k);
    }
  return m;
}

template <class T, class M>
void fill_armadillo(T& t, const M& m) {
  for (index_t j = 0; j < m.cols(); ++j)
    for (index_t i = 0; i < m.rows(); ++i) {
      const auto n = static_cast<arma::uword>(i), k = static_cast<arma::uword>(j);
      (T::is_row ? t.at(0, n) : t.at(n, k)) = m(i, j);
    }
}

/// Mat and Col.
template <class S>
struct armadillo_backend {
  using scalar = S;
  static constexpr bool same_bits = true;
  arma::Mat<S> matrix(const matrix_of<S>& m) {
    return arma::Mat<S>(m.data(), static_cast<arma::uword>(m.rows()),
                        static_cast<arma::uword>(m.cols()));
  }
  arma::Col<S> vector(const vector_of<S>& v) {
    return arma::Col<S>(v.data(), static_cast<arma::uword>(v.size()));
  }
  template <class T>
  static auto to_eigen(const T& t) {
    return armadillo_to_eigen(t);
  }
};

/// Submatrices, and pieces of rows.
template <class S>
struct armadillo_part_backend {
  using scalar = S;
  static constexpr bool same_bits = true;
  std::deque<arma::Mat<S>> memory{};
  arma::subview<S> matrix(const matrix_of<S>& m) {
    const auto rows = static_cast<arma::uword>(m.rows()),
               columns = static_cast<arma::uword>(m.cols());
    memory.emplace_back(rows + 3, columns + 4).fill(S(9));
    auto part = memory.back()(1, 2, arma::size(rows, columns));
    fill_armadillo(part, m);
    return part;
  }
  arma::subview_row<S> vector(const vector_of<S>& v) {
    const auto n = static_cast<arma::uword>(v.size());
    memory.emplace_back(3, n + 4).fill(S(9));
    auto part = memory.back()(1, arma::span(2, n + 1));
    fill_armadillo(part, v);
    return part;
  }
  template <class T>
  static auto to_eigen(const T& t) {
    return armadillo_to_eigen(t);
  }
};

}  // namespace test
