// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <Eigen/QR>
#include <catmerge/tensor/scalar.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

/// Seeded random data, the same on every machine.
namespace test {

using catmerge::index_t;

template <class S>
using matrix_of = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>;
template <class S>
using row_major_of = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class S>
using vector_of = Eigen::Matrix<S, Eigen::Dynamic, 1>;

inline std::size_t at(index_t i) {
  return static_cast<std::size_t>(i);
}

/// The seeds that tests repeat themselves over.
inline constexpr std::uint64_t seeds[] = {1, 2, 3};

class generator {
 public:
  explicit generator(std::uint64_t seed) : engine_(seed) {}

  /// In [0, 1).
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

  /// An integer from `low` to `high`, both included.
  index_t integer(index_t low, index_t high) {
    return low + static_cast<index_t>(engine_() % static_cast<std::uint64_t>(high - low + 1));
  }

  double normal() {
    return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(6.283185307179586 * uniform());
  }

  template <class S = double>
  matrix_of<S> matrix(index_t rows, index_t columns, double size = 1) {
    matrix_of<S> m(rows, columns);
    for (index_t j = 0; j < columns; ++j)
      for (index_t i = 0; i < rows; ++i)
        m(i, j) = static_cast<S>(static_cast<catmerge::compute_t<S>>(size * normal()));
    return m;
  }

  template <class S = double>
  vector_of<S> vector(index_t rows, double size = 1) {
    return matrix<S>(rows, 1, size);
  }

  /// Orthonormal columns, uniformly distributed.
  Eigen::MatrixXd orthonormal(index_t rows, index_t columns) {
    const Eigen::MatrixXd m = matrix(rows, columns);
    return Eigen::HouseholderQR<Eigen::MatrixXd>(m).householderQ() *
           Eigen::MatrixXd::Identity(rows, columns);
  }

 private:
  std::mt19937_64 engine_;
};

/// One parameter of several tasks.
template <class Tensor>
struct layer {
  Tensor base;
  std::vector<Tensor> experts, vectors;
  std::vector<matrix_of<typename Tensor::Scalar>> features;
};

/// A linear weight of d_out x d_in with rows[k] rows of features for task k.
template <class S>
layer<matrix_of<S>> random_linear(std::uint64_t seed, index_t d_out, index_t d_in,
                                  const std::vector<index_t>& rows) {
  generator g(seed);
  layer<matrix_of<S>> l;
  l.base = g.matrix<S>(d_out, d_in);
  for (const index_t n : rows) {
    l.experts.push_back(l.base + g.matrix<S>(d_out, d_in, S(0.1)));
    l.vectors.push_back(l.experts.back() - l.base);
    l.features.push_back(g.matrix<S>(n, d_in));
  }
  return l;
}

/// A scale or shift of d entries.
template <class S>
layer<vector_of<S>> random_vector(std::uint64_t seed, index_t d, const std::vector<index_t>& rows) {
  generator g(seed);
  layer<vector_of<S>> l;
  l.base = g.vector<S>(d);
  for (const index_t n : rows) {
    l.experts.push_back(l.base + g.vector<S>(d, S(0.1)));
    l.vectors.push_back(l.experts.back() - l.base);
    l.features.push_back(g.matrix<S>(n, d));
  }
  return l;
}

/// Equal in every bit.
template <class A, class B>
bool same_bits(const Eigen::PlainObjectBase<A>& a, const Eigen::PlainObjectBase<B>& b) {
  static_assert(std::is_same_v<typename A::Scalar, typename B::Scalar>);
  if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
  for (index_t j = 0; j < a.cols(); ++j)
    for (index_t i = 0; i < a.rows(); ++i)
      if (std::memcmp(&a.derived()(i, j), &b.derived()(i, j), sizeof(typename A::Scalar)) != 0)
        return false;
  return true;
}

template <class S>
bool same_bits(const std::vector<S>& a, const std::vector<S>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(S)) == 0);
}

}  // namespace test
