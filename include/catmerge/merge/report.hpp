// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/features/layer_kind.hpp>
#include <catmerge/tensor/scalar.hpp>
#include <optional>
#include <vector>

namespace catmerge {

/// How the eigenvectors are found. All solvers agree; `automatic` takes the cheapest.
enum class basis_solver {
  automatic,  ///< the cheapest by a count of operations; dense if a search takes longer
  dense,      ///< G_k is formed and decomposed
  shifts,     ///< block Krylov on the stacked feature shifts
  weights     ///< block Krylov on the weights, nothing formed
};

/// What was removed from the others to protect one task.
struct protection {
  index_t part = 0;                 ///< which of the fused parts (0 where nothing is fused)
  index_t task = 0;                 ///< k, the task protected
  std::vector<double> eigenvalues;  ///< linear: those of the directions removed, largest first
  /// linear: the leading eigenvalues of G_k that are known, descending, whether removed (the first
  /// ones, as many as `eigenvalues`) or not.
  std::vector<double> spectrum;
  double magnitude = 0;  ///< linear: the largest |eigenvalue| of G_k
  double residual = 0;   ///< linear: of the worst eigenpair, relative to magnitude
  index_t positive = 0;  ///< linear: positive eigenvalues among those looked at
  index_t products = 0;  ///< linear: products of G_k with a vector that it took
  basis_solver solver = basis_solver::dense;  ///< linear: how the eigenvectors were found
  std::vector<index_t> coordinates;           ///< scale, shift: the coordinates removed
};

/// What a method does with a parameter that its own rule is not for, or for which it lacks what the
/// rule needs (statistics, importances).
enum class fallback_rule : unsigned char {
  none,  ///< the method's own rule
  mean,  ///< tau = (1/K) sum_k T_k
  sum,   ///< tau = sum_k T_k, as in Task Arithmetic
  base   ///< tau = 0: theta_0
};

/// The rule in words that stand behind "merged by": "the sum of the task vectors", ...
constexpr const char* name_of(fallback_rule rule) {
  switch (rule) {
    case fallback_rule::none: return "the method's own rule";
    case fallback_rule::mean: return "the mean of the task vectors";
    case fallback_rule::sum: return "the sum of the task vectors";
    case fallback_rule::base: return "the base's value";
  }
  return "an unknown rule";
}

/// What CAT's trims did to the task vectors of one parameter. Energies are squared Frobenius norms.
struct trim_report {
  /// Entry (k, i): ||Df(X_k; T_i)||^2 before the trim, K x K, summed over the rows[k] rows of X_k.
  /// Shifts need no features: theirs are per row. Empty unless diagnostics were asked for.
  Eigen::MatrixXd conflict_before;
  Eigen::MatrixXd conflict_after;      ///< the same for T_i', as trimmed and rescaled
  std::vector<double> rows;            ///< n_k, the rows of X_k that were seen; 1 for shifts
  std::vector<double> deviation;       ///< ||Df(X_i; T_i - T_i')||^2 per task; zero before the trim
  std::vector<double> norm;            ///< ||T_i||_F before the trim
  std::vector<double> energy_removed;  ///< 1 - ||T_i'||^2 / ||T_i||^2, before any rescaling
  std::vector<index_t> emptied;        ///< tasks whose vector the trim left at zero
  std::vector<protection> protections;  ///< per part, in the order of tasks
  /// Entry (k, l): the share of task k's protection that is also removed to protect l:
  /// ||B_k^T B_l||_F^2 for linear weights (mean over fused parts), |m_k and m_l| for masks; over
  /// the smaller of the two.
  Eigen::MatrixXd overlap;
};

/// What a merge did to one parameter.
struct layer_report {
  layer_kind kind = layer_kind::other;           ///< what the parameter was taken for
  fallback_rule fallback = fallback_rule::none;  ///< another rule than the method's own, if any
  /// What CAT's trims did; empty for other methods, where no trim applies, and where there are no
  /// statistics.
  std::optional<trim_report> trim{};
  /// ||Df(X_k; theta - theta_k)||^2 per task: how far the merged parameter's outputs are from the
  /// expert's own, on the same inputs. Empty unless with_drift (drift.hpp) measures it.
  std::vector<double> drift{};
  /// ||Df(X_k; T_k)||^2 per task: how far the base's outputs are from the expert's. As drift.
  std::vector<double> drift_of_base{};
};

}  // namespace catmerge
