// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/detail/conflict_gram.hpp>
#include <catmerge/cat/options.hpp>
#include <limits>

/// The choice of the cheapest solver for the removal bases of a layer.
namespace catmerge::detail {

/// The cost of each solver of removal bases, in operations of a large product of floats.
struct solver_costs {
  double shifts, weights, dense;
  double shifts_product, weights_product;  ///< the cost of one product of every G_k with a vector

  basis_solver cheapest() const {
    if (dense <= weights && dense <= shifts) return basis_solver::dense;
    return shifts <= weights ? basis_solver::shifts : basis_solver::weights;
  }
};

/// The cost of each solver for some tasks, counted from the extents; infinite for a solver that
/// cannot be used. The constants: products of m rows run at m / (m + 16) of the full rate; block
/// Krylov takes about 11 vectors for each wanted one; the dense solver, in double, takes as long as
/// 28 n^3 operations, and twice that if the matrix exceeds the cache (n > 1024).
/// benchmarks/README.md compares this count with the clock.
template <class Context>
solver_costs cost_of_solvers(
    Context& c, const std::vector<typename Context::const_view>& vectors,
    const std::vector<statistics_view<typename Context::domain>>& statistics,
    const std::vector<index_t>& tasks, const direction_rule& rule) {
  constexpr double never = std::numeric_limits<double>::infinity();
  const auto* few = std::get_if<largest>(&rule);
  if (few == nullptr) return {never, never, 0, 0, 0};  // all positive eigenvalues are needed
  const double d_out = static_cast<double>(c.rows(vectors[0])),
               d_in = static_cast<double>(c.columns(vectors[0])),
               all = static_cast<double>(vectors.size()), some = static_cast<double>(tasks.size()),
               block = static_cast<double>((std::max<index_t>)(few->count, 4));
  double rows = 0;  // of one task's statistics, on the average
  for (const auto& s : statistics) rows += static_cast<double>(c.rows(s.data)) / all;
  const auto of_rows = [](double m) { return 1 + 16 / (std::max)(m, 1.0); };
  const double found = 11 * block;  // vectors that a search takes
  const bool can_stack = has_rows(statistics);

  const double form_shifts = 2 * (some * (all - 1) + all) * rows * d_in * d_out * of_rows(rows);
  const double shifts_product = some * 8 * (all - 1) * rows * d_out * of_rows(block);
  const double weights_product =
      some * (all - 1) * (4 * d_out * d_in + 8 * rows * d_in) * of_rows(some * block);
  const double form_dense = can_stack ? form_shifts + some * 2 * 4 * all * rows * d_out * d_out
                                      : 2 * weights_product * d_out;
  const double dense = form_dense + some * (d_out <= 1024 ? 28 : 56) * d_out * d_out * d_out;
  return {can_stack ? form_shifts + found * shifts_product : never, found * weights_product, dense,
          shifts_product, weights_product};
}

/// The solver of removal bases and its limit.
struct basis_plan {
  basis_solver solver;  ///< not automatic
  index_t products;     ///< the most products with a G_k before its search is given up
};

/// The plan by the options. If these leave the solver to the library, it limits the products of a
/// search to twice the cost of the dense solver, which then takes over. Spectra without gaps, or
/// without positive eigenvalues, are that slow.
template <class Context>
basis_plan plan_bases(Context& c, const std::vector<typename Context::const_view>& vectors,
                      const std::vector<statistics_view<typename Context::domain>>& statistics,
                      const std::vector<index_t>& tasks, const projection_options& options) {
  basis_plan plan{options.solver, options.eigen.products};
  if (plan.solver != basis_solver::automatic) return plan;
  const solver_costs costs = cost_of_solvers(c, vectors, statistics, tasks, options.directions);
  plan.solver = costs.cheapest();
  const double one =
      plan.solver == basis_solver::shifts ? costs.shifts_product : costs.weights_product;
  if (const double enough = 2 * costs.dense / one; enough < static_cast<double>(plan.products))
    plan.products = static_cast<index_t>(enough);
  return plan;
}

}  // namespace catmerge::detail
