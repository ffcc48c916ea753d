// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/adapt/eigen_tensor.hpp>
#include <deque>

#include "support/data.hpp"

/// Eigen's Tensor module for the suite of tests/support/suite/algorithms.hpp.
namespace test {

template <class T>
auto eigen_tensor_to_eigen(const T& t) {
  using S = std::remove_const_t<typename T::Scalar>;
  using C = catmerge::compute_t<S>;
  if constexpr (T::NumIndices == 1) {
    matrix_of<C> m(t.dimension(0), 1);
    for (index_t i = 0; i < m.rows(); ++i) m(i, 0) = static_cast<C>(t(i));
    return m;
  } else {
    matrix_of<C> m(t.dimension(0), t.dimension(1));
    for (index_t j = 0; j < m.cols(); ++j)
      for (index_t i = 0; i < m.rows(); ++i) m(i, j) = static_cast<C>(t(i, j));
    return m;
  }
}

template <class S, int Order = Eigen::ColMajor>
struct eigen_tensor_backend {
  using scalar = S;
  static constexpr bool same_bits = true;
  auto matrix(const matrix_of<S>& m) {
    Eigen::Tensor<S, 2, Order> t(m.rows(), m.cols());
    for (index_t j = 0; j < m.cols(); ++j)
      for (index_t i = 0; i < m.rows(); ++i) t(i, j) = m(i, j);
    return t;
  }
  auto vector(const vector_of<S>& v) {
    Eigen::Tensor<S, 1, Order> t(v.size());
    for (index_t i = 0; i < v.size(); ++i) t(i) = v(i);
    return t;
  }
  template <class T>
  static auto to_eigen(const T& t) {
    return eigen_tensor_to_eigen(t);
  }
};

/// TensorMap of memory of somebody else's.
template <class S>
struct eigen_tensor_map_backend {
  using scalar = S;
  static constexpr bool same_bits = true;
  std::deque<Eigen::Tensor<S, 2, Eigen::RowMajor>> matrices{};
  std::deque<Eigen::Tensor<S, 1, Eigen::RowMajor>> all_vectors{};
  auto matrix(const matrix_of<S>& m) {
    matrices.push_back(eigen_tensor_backend<S, Eigen::RowMajor>().matrix(m));
    return Eigen::TensorMap<Eigen::Tensor<S, 2, Eigen::RowMajor>>(matrices.back().data(), m.rows(),
                                                                  m.cols());
  }
  auto vector(const vector_of<S>& v) {
    all_vectors.push_back(eigen_tensor_backend<S, Eigen::RowMajor>().vector(v));
    return Eigen::TensorMap<Eigen::Tensor<S, 1, Eigen::RowMajor>>(all_vectors.back().data(),
                                                                  v.size());
  }
  template <class T>
  static auto to_eigen(const T& t) {
    return eigen_tensor_to_eigen(t);
  }
};

}  // namespace test
