// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <harness/networks/layers.hpp>
#include <vector>

/// The distance of a merged network's outputs from an expert's, without labels.
namespace catmerge::harness {

/// The logarithms of softmax(x / t).
inline Eigen::VectorXd log_softmax(const Eigen::VectorXf& x, double t) {
  const Eigen::VectorXd scaled = x.cast<double>() / t;
  const double largest = scaled.maxCoeff();
  return (scaled.array() - largest - std::log((scaled.array() - largest).exp().sum())).matrix();
}

/// The distance of outputs z of a merged network from the outputs e of a task's expert, on the same
/// samples and through the task's head: n x classes, n >= 1. One number per sample; the distance is
/// their mean. Of classes, with T = 2,
///
///     T^2 KL(softmax(z / T) || softmax(e / T))
///
/// in this direction: where experts are confident and contradict each other, KL(e || z) and entropy
/// choose far too large or too small an alpha. T = 2 needs fewer samples than T = 1. Of one value
/// (a regression): the squared error over the variance of e, or over 1 if e is constant.
inline std::vector<double> output_distances(const matrix_view& z, const matrix_view& e) {
  constexpr double t = 2;
  std::vector<double> found;
  if (z.cols() == 1) {
    const Eigen::VectorXd expected = e.cast<double>();
    const double spread = (expected.array() - expected.mean()).square().mean();
    const Eigen::VectorXd error = z.cast<double>() - expected;
    for (const double x : error) found.push_back(x * x / (spread > 0 ? spread : 1));
    return found;
  }
  for (index_t i = 0; i < z.rows(); ++i) {
    const Eigen::VectorXd p = log_softmax(z.row(i), t), q = log_softmax(e.row(i), t);
    found.push_back(t * t * (p.array().exp() * (p - q).array()).sum());
  }
  return found;
}

}  // namespace catmerge::harness
