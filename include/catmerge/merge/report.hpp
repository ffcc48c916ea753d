// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/features/layer_kind.hpp>
#include <catmerge/tensor/scalar.hpp>
#include <optional>
#include <vector>

namespace catmerge {

/// The eigensolver of a removal basis. All solvers agree; `automatic` takes the cheapest.
enum class basis_solver {
  automatic,  ///< the cheapest by a count of operations; dense if a search takes longer
  dense,      ///< G_k is formed and decomposed
  shifts,     ///< block Krylov on the stacked feature shifts
  weights     ///< block Krylov on the weights, without forming a matrix
};

/// Directions or coordinates removed from the other tasks' vectors to protect one task.
struct protection {
  index_t part = 0;                 ///< the fused part's number (0 if nothing is fused)
  index_t task = 0;                 ///< k, the protected task
  std::vector<double> eigenvalues;  ///< linear: of the removed directions, largest first
  /// linear: all known leading eigenvalues of G_k, descending. The first ones, as many as
  /// `eigenvalues`, are removed.
  std::vector<double> spectrum;
  double magnitude = 0;  ///< linear: the largest |eigenvalue| of G_k
  double residual = 0;   ///< linear: of the worst eigenpair, relative to magnitude
  index_t positive = 0;  ///< linear: number of positive eigenvalues among the known ones
  index_t products = 0;  ///< linear: number of products of G_k with a vector
  basis_solver solver = basis_solver::dense;  ///< linear: the eigensolver used
  std::optional<double> angle{};              ///< linear: see cat/resampling.hpp
  std::vector<index_t> coordinates;           ///< scale, shift: the removed coordinates
};

/// The rule for a parameter that the method's own rule does not cover, or that lacks the statistics
/// or importances it needs.
enum class fallback_rule : unsigned char {
  none,     ///< the method's own rule
  mean,     ///< tau = (1/K) sum_k T_k
  sum,      ///< tau = sum_k T_k, as in Task Arithmetic
  base,     ///< tau = 0: theta_0
  average,  ///< theta = theta_0 + (1/K) sum_k T_k, whatever the method's factor
  some      ///< a mean_of: the rules of some methods, fallbacks of the others
};

/// The rule in words that follow "merged by": "the sum of the task vectors", ...
constexpr const char* name_of(fallback_rule rule) {
  switch (rule) {
    case fallback_rule::none: return "the method's own rule";
    case fallback_rule::mean: return "the mean of the task vectors";
    case fallback_rule::sum: return "the sum of the task vectors";
    case fallback_rule::base: return "the base's value";
    case fallback_rule::average: return "the mean of the experts";
    case fallback_rule::some: return "some methods' rules, with fallbacks of the others";
  }
  return "an unknown rule";
}

/// The report of CAT's trims of one parameter. Energies are squared Frobenius norms.
struct trim_report {
  /// Entry (k, i): ||Df(X_k; T_i)||^2 before the trim, K x K, summed over the rows[k] rows of X_k.
  /// Shifts need no features: their entries are per row. Empty unless diagnostics are on.
  Eigen::MatrixXd conflict_before;
  Eigen::MatrixXd conflict_after;      ///< the same for T_i', trimmed and rescaled
  std::vector<double> rows;            ///< n_k, the number of rows of X_k; 1 for shifts
  std::vector<double> deviation;       ///< ||Df(X_i; T_i - T_i')||^2 per task; zero before the trim
  std::vector<double> norm;            ///< ||T_i||_F before the trim
  std::vector<double> energy_removed;  ///< 1 - ||T_i'||^2 / ||T_i||^2, before any rescaling
  std::vector<index_t> emptied;        ///< tasks with a zero vector after the trim
  std::vector<protection> protections;  ///< one per part and task, tasks in order
  /// Entry (k, l): the share of task k's protection that is also part of task l's, relative to the
  /// smaller of the two: ||B_k^T B_l||_F^2 for linear weights (mean over fused parts), |m_k and
  /// m_l| for masks.
  Eigen::MatrixXd overlap;
};

/// The report of the merge of one parameter.
struct layer_report {
  layer_kind kind = layer_kind::other;           ///< the parameter's kind in the merge
  fallback_rule fallback = fallback_rule::none;  ///< the rule in place of the method's own, if any
  /// CAT's trims; empty for other methods, if no trim applies, and if statistics are missing.
  std::optional<trim_report> trim{};
  /// ||Df(X_k; theta - theta_k)||^2 per task: the squared distance of the merged parameter's
  /// outputs from the expert's, on the same inputs. Empty without with_drift (drift.hpp).
  std::vector<double> drift{};
  /// ||Df(X_k; T_k)||^2 per task: the same distance of the base's outputs.
  std::vector<double> drift_of_base{};
};

}  // namespace catmerge
