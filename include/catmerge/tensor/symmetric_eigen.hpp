// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <catmerge/error.hpp>
#include <string>
#include <vector>

namespace catmerge::detail {

/// Eigenvalues, ascending, and the eigenvectors, one per column.
struct symmetric_pairs {
  std::vector<double> values;
  Eigen::MatrixXd vectors;
};

/// All eigenpairs of a symmetric matrix on the host; reads the lower triangle. The one place that
/// instantiates Eigen's solver, half of what a call of CAT takes to compile. It and its callers are
/// templates so that a program that does not call them does not pay.
template <class Matrix>
symmetric_pairs solve_symmetric(const Matrix& m) {
  if (m.rows() == 0) return {};  // Eigen's solver asks for one row at least
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(m);
  if (solver.info() != Eigen::Success)
    throw error("the symmetric eigenproblem of size " + std::to_string(m.rows()) +
                " did not converge");
  const double* values = solver.eigenvalues().data();
  return {{values, values + m.rows()}, solver.eigenvectors()};
}

}  // namespace catmerge::detail
