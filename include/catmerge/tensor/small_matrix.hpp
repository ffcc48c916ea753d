// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/error.hpp>

namespace catmerge {

/// A small matrix that crosses between a context and the host: products of thin blocks, scores. Its
/// elements lie column after column, whatever Eigen's own default is (Eigen::MatrixXd is row-major
/// under EIGEN_DEFAULT_TO_ROW_MAJOR; without that macro the two are one type).
using small_matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;

}  // namespace catmerge
