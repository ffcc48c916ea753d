// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/adapt/eigen.hpp>
#include <catmerge/factors/factored_vector.hpp>
#include <vector>

#include "support/data.hpp"

/// Random adapters, and the dense task vectors that they stand for.
namespace test {

/// The adapters of one linear layer.
template <class S>
struct adapters {
  using factored = catmerge::factored_vector<matrix_of<S>, matrix_of<S>>;
  std::vector<factored> vectors;
  std::vector<matrix_of<S>> features;  ///< rows of each task

  /// ranks, rows: one of each per task. Factors are of the size that LoRA's are, scales differ.
  adapters(std::uint64_t seed, index_t d_out, index_t d_in, const std::vector<index_t>& ranks,
           const std::vector<index_t>& rows) {
    generator g(seed);
    for (std::size_t k = 0; k < ranks.size(); ++k) {
      const double scale = 0.5 + static_cast<double>(k);
      vectors.push_back(
          {g.matrix<S>(d_out, ranks[k], 0.3), g.matrix<S>(ranks[k], d_in, 0.3), scale});
      features.push_back(g.matrix<S>(rows[k], d_in));
    }
  }
};

/// An Eigen matrix of any scalar type in double, which holds it exactly.
template <class M>
Eigen::MatrixXd in_double(const M& m) {
  Eigen::MatrixXd d(m.rows(), m.cols());
  for (index_t j = 0; j < m.cols(); ++j)
    for (index_t i = 0; i < m.rows(); ++i)
      d(i, j) = static_cast<double>(static_cast<catmerge::compute_t<typename M::Scalar>>(m(i, j)));
  return d;
}

/// s B A by Eigen, in double.
template <class B, class A>
Eigen::MatrixXd dense(const catmerge::factored_vector<B, A>& v) {
  return v.scale * in_double(v.b) * in_double(v.a);
}

template <class Vectors>
std::vector<Eigen::MatrixXd> dense_all(const Vectors& vectors) {
  std::vector<Eigen::MatrixXd> all;
  for (const auto& v : vectors) all.push_back(dense(v));
  return all;
}

template <class Matrices>
std::vector<Eigen::MatrixXd> all_in_double(const Matrices& list) {
  std::vector<Eigen::MatrixXd> all;
  for (const auto& m : list) all.push_back(in_double(m));
  return all;
}

/// ||found - expected|| relative to `size`.
inline double distance(const Eigen::MatrixXd& found, const Eigen::MatrixXd& expected, double size) {
  return (found - expected).norm() / size;
}

}  // namespace test
