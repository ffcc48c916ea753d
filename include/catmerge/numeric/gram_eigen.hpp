// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/tensor/context.hpp>
#include <cmath>
#include <limits>
#include <vector>

namespace catmerge::detail {

/// The eigenvalues of a Gram matrix that lie above rounding noise.
struct gram_pairs {
  std::vector<double> values;  ///< ascending, all above the cut
  index_t first = 0;           ///< values[0] belongs to this column, values[1] to the next, ...
};

/// An eigenvalue of a Gram matrix A^T A, formed in double, counts as zero up to this share of the
/// largest: 4 d eps, d the larger extent of A.
///
/// A sum of n products is off by at most n eps of the sum of their sizes, so the matrix by n eps
/// ||A||_F^2 in the 2-norm, and each eigenvalue by as much (Weyl). Rounding errors are of either
/// sign: in rank-deficient Gram matrices, eigenvalues that should be zero were below 4 eps of the
/// largest for d from 20 to 1500, the eigensolver's own error included. The cut lies above that by
/// a factor that grows with d as the bound does. In terms of A: singular values below sqrt(4 d eps)
/// of the largest, 8e-7 for d = 768, are noise. Features and weights that were computed in float
/// carry errors of that size themselves.
inline double gram_cut(index_t d) {
  return 4 * static_cast<double>(d) * std::numeric_limits<double>::epsilon();
}

/// Overwrites the last `count` columns of the Gram matrix g (f64) with the eigenvectors of its
/// largest eigenvalues. Returns the eigenvalues above gram_cut(d) of the largest and above `floor`.
/// Throws catmerge::error if g is not finite.
template <class Context>
gram_pairs eigen_of_gram(Context& c, const typename Context::view& g, index_t d, index_t count,
                         double floor = 0) {
  if (!c.all_finite(g)) throw error("a Gram matrix overflows float64");
  gram_pairs pairs;
  pairs.values = c.symmetric_eigen(g, count);
  if (pairs.values.empty()) return pairs;
  const double cut = (std::max)({0.0, floor, gram_cut(d) * pairs.values.back()});
  const auto kept = std::upper_bound(pairs.values.begin(), pairs.values.end(), cut);
  pairs.first = kept - pairs.values.begin();
  pairs.values.erase(pairs.values.begin(), kept);
  return pairs;
}

/// 1 / sqrt(x) of each.
inline std::vector<double> inverse_roots(const std::vector<double>& values) {
  std::vector<double> roots;
  for (const double x : values) roots.push_back(1 / std::sqrt(x));
  return roots;
}

}  // namespace catmerge::detail
