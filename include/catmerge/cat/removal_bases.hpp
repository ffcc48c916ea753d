// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/cat/options.hpp>
#include <catmerge/features/statistics_view.hpp>
#include <optional>
#include <string>
#include <vector>

namespace catmerge {

/// B_k, d_out x c with orthonormal columns, and how it was found.
template <class Matrix>
struct removal_basis_result {
  Matrix basis;                     ///< d_out x c, orthonormal columns
  std::vector<double> eigenvalues;  ///< of the columns of B_k, largest first
  /// The largest eigenvalues of G_k, descending: those of B_k and the next few. The dense solver
  /// adds eight; a Krylov solver adds those of its block, which are lower bounds, not converged.
  std::vector<double> spectrum;
  double magnitude = 0;  ///< the largest |eigenvalue| of G_k that was found
  double residual = 0;   ///< of the worst eigenpair, relative to magnitude; 0 for the dense solver
  index_t positive = 0;  ///< the number of positive eigenvalues among those found
  index_t products = 0;  ///< products of G_k with a vector in all searches, also abandoned ones
  basis_solver solver =
      basis_solver::dense;  ///< the solver used; dense also if Krylov did not converge
  /// The mean principal angle to bases from other draws of the rows, in degrees; none if it was not
  /// measured (resampling.hpp).
  std::optional<double> angle{};
};

/// The input of a rule for removal bases: one linear weight of all tasks.
template <class Context>
struct removal_problem {
  using const_view = typename Context::const_view;  ///< a tensor, in the layout d_out x d_in

  std::vector<const_view> vectors;  ///< T_i of all K tasks, untrimmed
  std::vector<statistics_view<typename Context::domain>> statistics;  ///< of X_i, all K
  std::vector<double> energies;                                       ///< ||T_i||_F^2, or none
  const projection_options& options;  ///< directions, lambda, solver
  bool wants_shifts = false;          ///< true if the caller uses removal_bases::shifts
  std::string who = "removal_basis";  ///< names the parameter in messages
};

/// The removal bases of all tasks.
template <class Context>
struct removal_bases {
  /// B_k of task k, in the order of the tasks.
  std::vector<removal_basis_result<typename Context::matrix>> of_task;
  /// Entry (k, i): ||X_k T_i^T||_F^2, if the rule has computed them; else empty.
  Eigen::MatrixXd shifts{};
};

}  // namespace catmerge
