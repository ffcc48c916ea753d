// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/detail/conflict_gram.hpp>
#include <limits>
#include <variant>

/// @file
/// The choices of CAT Merging's trim of linear weights, and which way is cheapest.
namespace catmerge {

/// The `count` largest eigenvalues; of those only the positive ones, since removing along another
/// makes Eq. 8 worse. (positive_only = false: `count`, whatever their sign, as the authors' code.)
struct top {
  index_t count = 4;          ///< c; 4 is the paper's, says a port of the authors' code
  bool positive_only = true;  ///< false: of any sign
};

/// So many of the positive eigenvalues that their squares have a share of the sum of all positive
/// ones': the smallest number that reaches it, or (the authors' code) as many as stay below it.
struct energy {
  double share = 0.9;  ///< in [0, 1]; 0.9 is this library's choice, no source has a value
  /// The smallest number that reaches the share (this library), or as many as stay below it.
  enum class bound { reach, below } stop = bound::reach;  ///< which of the two
};

/// Every positive eigenvalue: the minimiser of Eq. 8 over projections.
struct all_positive {};

/// Which eigenvectors of G_k are removed.
using direction_rule = std::variant<top, energy, all_positive>;

/// In what order one T_i is trimmed by the bases of all other tasks.
enum class trim_order {
  sequential,  ///< one after the other, in task order: only the last is removed exactly
  joint        ///< onto the complement of all of them at once: free of order, trims more
};

/// What happens to the size of a trimmed vector.
enum class rescale {
  none,      ///< it stays as the trim leaves it
  frobenius  ///< scaled back to the Frobenius norm it had (a vector trimmed to zero stays zero)
};

/// How the eigenvectors are found. All ways agree; `automatic` takes the cheapest.
enum class basis_way {
  automatic,  ///< the cheapest, by operations counted from the extents; dense where a search takes
              ///< longer than that would
  dense,      ///< G_k is formed and decomposed
  shifts,     ///< block Krylov on the stacked feature shifts
  weights     ///< block Krylov on the weights, nothing formed
};

/// The choices of removal_basis and of CAT for linear weights. Defaults are the paper's, lambda and
/// the 4 directions by the account of a port of the authors' code. What uses them throws
/// catmerge::error unless lambda is finite and not negative, the number of directions not negative,
/// the share of energy in [0, 1] and the tolerance of eigenpairs not negative.
struct projection_options {
  direction_rule directions = top{4};         ///< which eigenvectors of G_k are removed
  double lambda = 5;                          ///< the weight of the deviation, second term of Eq. 8
  row_weight rows = row_weight::sum;          ///< how tasks with more rows count in G_k
  trim_order order = trim_order::sequential;  ///< how the bases of several tasks are applied
  rescale size = rescale::none;               ///< frobenius in the authors' code
  basis_way way = basis_way::automatic;       ///< speed alone
  /// Of the Krylov ways; its count follows from `directions`. Weights in float are multiplied in
  /// float where the tolerance is one that float reaches (4e-7; the default is 1e-6), else, and
  /// where float gets no further, in double. basis_way::automatic may give up sooner than
  /// `products` says.
  eigen_options eigen{};
};

/// B_k, d_out x c with orthonormal columns, and how it was found.
template <class Matrix>
struct removal_basis_result {
  Matrix basis;                     ///< d_out x c, orthonormal columns
  std::vector<double> eigenvalues;  ///< those taken, largest first
  /// The largest eigenvalues of G_k, descending: those taken and a few that come after them (eight
  /// by the dense way; by the Krylov ways those of the block, not converged, so from below).
  std::vector<double> spectrum;
  double magnitude = 0;  ///< the largest |eigenvalue| of G_k that was seen
  double residual = 0;   ///< of the worst eigenpair, relative to magnitude; 0 when dense
  index_t positive = 0;  ///< how many of the eigenvalues looked at were positive
  index_t products = 0;  ///< products of G_k with a vector in searches, those given up among them
  basis_way way = basis_way::dense;  ///< the one taken; dense also where Krylov did not converge
};

namespace detail {

inline void require_lambda(double lambda) {
  if (!(lambda >= 0) || !std::isfinite(lambda))
    throw error("lambda must be a finite number that is not negative, found " +
                std::to_string(lambda));
}

/// Throws unless the options make sense.
inline void validate(const projection_options& options) {
  require_lambda(options.lambda);
  if (const auto* t = std::get_if<top>(&options.directions); t != nullptr && t->count < 0)
    throw error("the rank of a removal basis cannot be negative, found " +
                std::to_string(t->count));
  if (const auto* e = std::get_if<energy>(&options.directions);
      e != nullptr && !(e->share >= 0 && e->share <= 1))
    throw error("the share of energy of a removal basis must lie in [0, 1], found " +
                std::to_string(e->share));
  if (!(options.eigen.tolerance >= 0))
    throw error("the tolerance of eigenpairs cannot be negative");
}

/// What the ways of finding removal bases cost: operations, each as long as one of a large product
/// of floats.
struct way_costs {
  double shifts, weights, dense;
  double shifts_product, weights_product;  ///< what one product of every G_k with a vector costs

  basis_way cheapest() const {
    if (dense <= weights && dense <= shifts) return basis_way::dense;
    return shifts <= weights ? basis_way::shifts : basis_way::weights;
  }
};

/// What the ways cost for some tasks, counted from the extents; infinite where a way cannot be
/// used. What the constants stand for: products of m rows run at m / (m + 16) of that rate; block
/// Krylov takes some 11 vectors for each that is wanted; the dense solver, in double, takes as long
/// as 28 n^3 operations, and twice that once the matrix has left the cache (n > 1024). Where the
/// ways cross by this count and by the clock: benchmarks/README.md.
template <class Context>
way_costs cost_of_ways(Context& c, const std::vector<typename Context::const_view>& vectors,
                       const std::vector<statistics_view<typename Context::domain>>& statistics,
                       const std::vector<index_t>& tasks, const direction_rule& rule) {
  constexpr double never = std::numeric_limits<double>::infinity();
  const auto* few = std::get_if<top>(&rule);
  if (few == nullptr) return {never, never, 0, 0, 0};  // all positive eigenvalues are asked for
  const double d_out = static_cast<double>(c.rows(vectors[0])),
               d_in = static_cast<double>(c.columns(vectors[0])),
               all = static_cast<double>(vectors.size()), some = static_cast<double>(tasks.size()),
               block = static_cast<double>((std::max<index_t>)(few->count, 4));
  double rows = 0;  // of one task's statistics, on the average
  for (const auto& s : statistics) rows += static_cast<double>(c.rows(s.data)) / all;
  const auto of_rows = [](double m) { return 1 + 16 / (std::max)(m, 1.0); };
  const double found = 11 * block;  // vectors that a search takes
  const bool can_stack = conflict_gram<Context>::has_rows(statistics);

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

/// How removal bases are found.
struct basis_plan {
  basis_way way;     ///< not automatic
  index_t products;  ///< after so many of each G_k a search is given up
};

/// As the options say. Where the way is left to the library, a search whose products have cost
/// twice what the dense solver would is given up for it: spectra without gaps, or without anything
/// positive to be found, are that slow.
template <class Context>
basis_plan plan_bases(Context& c, const std::vector<typename Context::const_view>& vectors,
                      const std::vector<statistics_view<typename Context::domain>>& statistics,
                      const std::vector<index_t>& tasks, const projection_options& options) {
  basis_plan plan{options.way, options.eigen.products};
  if (plan.way != basis_way::automatic) return plan;
  const way_costs costs = cost_of_ways(c, vectors, statistics, tasks, options.directions);
  plan.way = costs.cheapest();
  const double one = plan.way == basis_way::shifts ? costs.shifts_product : costs.weights_product;
  if (const double enough = 2 * costs.dense / one; enough < static_cast<double>(plan.products))
    plan.products = static_cast<index_t>(enough);
  return plan;
}

}  // namespace detail
}  // namespace catmerge
