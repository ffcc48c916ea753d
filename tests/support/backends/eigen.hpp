// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/adapt/eigen.hpp>
#include <deque>

#include "support/data.hpp"

/// Eigen's kinds for the suite of tests/support/suite/algorithms.hpp.
namespace test {

/// The elements of any tensor of Eigen, in the compute type.
template <class T>
auto eigen_to_eigen(const T& t) {
  using C = catmerge::compute_t<typename T::Scalar>;
  const bool vector = T::IsVectorAtCompileTime;
  matrix_of<C> m(vector ? t.size() : t.rows(), vector ? 1 : t.cols());
  for (index_t j = 0; j < m.cols(); ++j)
    for (index_t i = 0; i < m.rows(); ++i)
      m(i, j) = static_cast<C>(vector ? t.coeff(t.cols() == 1 ? i : 0, t.cols() == 1 ? 0 : i)
                                      : t.coeff(i, j));
  return m;
}

/// Matrix, of either order.
template <class S, int Order = Eigen::ColMajor>
struct eigen_backend {
  using scalar = S;
  static constexpr bool same_bits = true;
  using matrix_type = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Order>;
  matrix_type matrix(const matrix_of<S>& m) { return m; }
  vector_of<S> vector(const vector_of<S>& v) { return v; }
  template <class T>
  static auto to_eigen(const T& t) {
    return eigen_to_eigen(t);
  }
};

/// Blocks of a larger matrix; vectors are pieces of rows, one element in a column apart.
template <class S>
struct eigen_block_backend {
  using scalar = S;
  static constexpr bool same_bits = true;
  std::deque<matrix_of<S>> memory{};
  auto matrix(const matrix_of<S>& m) {
    memory.push_back(matrix_of<S>::Constant(m.rows() + 3, m.cols() + 4, S(9)));
    auto block = memory.back().block(1, 2, m.rows(), m.cols());
    block = m;
    return block;
  }
  auto vector(const vector_of<S>& v) {
    memory.push_back(matrix_of<S>::Constant(3, v.size() + 4, S(9)));
    auto piece = memory.back().row(1).segment(2, v.size());
    piece = v.transpose();
    return piece;
  }
  template <class T>
  static auto to_eigen(const T& t) {
    return eigen_to_eigen(t);
  }
};

/// Maps with gaps between the elements of rows and of columns.
template <class S>
struct eigen_map_backend {
  using scalar = S;
  static constexpr bool same_bits = true;
  using both = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  using matrix_type = Eigen::Map<matrix_of<S>, 0, both>;
  using vector_type = Eigen::Map<vector_of<S>, 0, Eigen::InnerStride<>>;
  std::deque<std::vector<S>> memory{};
  matrix_type matrix(const matrix_of<S>& m) {
    memory.emplace_back(at((2 * m.rows() + 3) * m.cols() + 1), S(9));
    matrix_type map(memory.back().data(), m.rows(), m.cols(), both(2 * m.rows() + 3, 2));
    map = m;
    return map;
  }
  vector_type vector(const vector_of<S>& v) {
    memory.emplace_back(at(3 * v.size() + 1), S(9));
    vector_type map(memory.back().data(), v.size(), Eigen::InnerStride<>(3));
    map = v;
    return map;
  }
  template <class T>
  static auto to_eigen(const T& t) {
    return eigen_to_eigen(t);
  }
};

}  // namespace test
