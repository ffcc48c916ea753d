// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/conflict_gram.hpp>
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
  automatic,  ///< the cheapest, by operations counted from the extents
  dense,      ///< G_k is formed and decomposed
  shifts,     ///< block Krylov on the stacked feature shifts
  weights     ///< block Krylov on the weights, nothing formed
};

/// The choices of removal_basis and of CAT for linear weights. Defaults are the paper's, lambda and
/// the 4 directions by the account of a port of the authors' code. What uses them throws
/// catmerge::error unless lambda is finite and not negative, the number of directions not negative,
/// the share of energy in [0, 1] and the tolerance of eigenpairs positive.
struct projection_options {
  direction_rule directions = top{4};         ///< which eigenvectors of G_k are removed
  double lambda = 5;                          ///< the weight of the deviation, second term of Eq. 8
  row_weight rows = row_weight::sum;          ///< how tasks with more rows count in G_k
  trim_order order = trim_order::sequential;  ///< how the bases of several tasks are applied
  rescale size = rescale::none;               ///< frobenius in the authors' code
  basis_way way = basis_way::automatic;       ///< speed alone
  eigen_options eigen{};  ///< of the Krylov ways; its count follows from `directions`
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
  if (!(options.eigen.tolerance > 0)) throw error("the tolerance of eigenpairs must be positive");
}

/// The cheapest way for one task, by operations counted at the rate of a double product. What the
/// constants stand for was measured with benchmarks/removal_basis (AVX-512, 2.6 GHz) on layers of
/// ViT-B/32: block Krylov takes 12 to 16 blocks; products with a thin block run at a quarter of the
/// rate; orthonormalising one costs some 700 block^2 operations per row; shifts are formed in
/// float, twice as fast; the dense solver takes as long as 14 n^3 operations, and twice that once
/// the matrix has left the cache (n > 1024). benchmarks/README.md has the times.
template <class Context>
basis_way cheapest_way(Context& c, const std::vector<typename Context::const_view>& vectors,
                       const std::vector<statistics_view<typename Context::domain>>& statistics,
                       const direction_rule& rule) {
  const auto* few = std::get_if<top>(&rule);
  const double d_out = static_cast<double>(c.rows(vectors[0])),
               d_in = static_cast<double>(c.columns(vectors[0]));
  if (few == nullptr) return basis_way::dense;  // all positive eigenvalues have to be known
  const double tasks = static_cast<double>(vectors.size()),
               block = static_cast<double>(few->count) + 4;
  double rows = 0;  // of all tasks' statistics
  for (const auto& s : statistics) rows += static_cast<double>(c.rows(s.data));
  const double stacked = 2 * rows;  // rows of shifts in G_k, about
  const double blocks = 15, thin = 4;
  const bool can_stack = conflict_gram<Context>::has_rows(statistics);

  const double orthonormalise = blocks * 700 * d_out * block * block;
  const double form_shifts =
      stacked * d_in * d_out * (compute_type(c.type(vectors[0])) == scalar_type::f64 ? 2 : 1);
  const double by_shifts =
      form_shifts + blocks * thin * 4 * stacked * d_out * block + orthonormalise;
  const double apply_weights = thin * (tasks * 4 * d_out * d_in + 8 * rows * d_in);
  const double by_weights = blocks * apply_weights * block + orthonormalise;
  const double form_dense =
      can_stack ? form_shifts + 2 * stacked * d_out * d_out : apply_weights * d_out;
  const double dense = form_dense + (d_out <= 1024 ? 14 : 28) * d_out * d_out * d_out;
  if (dense <= by_weights && (!can_stack || dense <= by_shifts)) return basis_way::dense;
  return can_stack && by_shifts <= by_weights ? basis_way::shifts : basis_way::weights;
}

}  // namespace detail
}  // namespace catmerge
