// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/scalar.hpp>
#include <limits>
#include <type_traits>

/// Every tolerance of the core's tests, with the reason for its size. eps<S> is the distance from 1
/// to the next number of S, half of which is the largest relative error of one rounding.
namespace test::tolerance {

template <class S>
inline constexpr double eps = static_cast<double>(std::numeric_limits<S>::epsilon());
template <>
inline constexpr double eps<catmerge::half> = 0x1p-10;
template <>
inline constexpr double eps<catmerge::bfloat16> = 0x1p-7;

/// A sum of n products in any order is off by at most n eps sum |a||b| (Higham, Accuracy and
/// Stability of Numerical Algorithms, 2002, section 3.1; n + 2 for the factor alpha and the last
/// rounding).
template <class S>
constexpr double product(double n, double sum_of_absolutes) {
  return (n + 2) * eps<S> * sum_of_absolutes;
}

/// Relative error of a sum of n non-negative terms, each the square of a number that is itself off
/// by `per_term` relative to its own terms' sizes: the same bound, twice for the square.
template <class S>
constexpr double energy(double n) {
  return 2 * (n + 2) * eps<S>;
}

/// The largest entry of B^T B - I for B stored in S. What is accepted was last rotated by the dense
/// solver's eigenvectors, whose orthogonality is p(n) eps for a modest polynomial p (Parlett, The
/// Symmetric Eigenvalue Problem, 1998, section 8.15); the most seen over all tests was 115
/// eps<double>. Stored in float, each column moves by at most eps/2 of its length, so an inner
/// product of two by eps; twice that for the second order.
template <class S>
inline constexpr double orthonormal = 256 * eps<double> +
                                      (std::is_same_v<S, double> ? 0 : 2 * eps<S>);

/// The residual that eigen_options asks for by default, relative to the largest |eigenvalue|.
inline constexpr double residual = 1e-8;

/// Eigenvalues of accepted pairs: a residual r moves a Rayleigh quotient by at most r, and by r^2
/// over the gap to what is not wanted. Without a gap only the first holds.
inline constexpr double eigenvalue = residual;

/// Eq. 8 and eigenvalues where gaps are above 1e-4 of the spectrum: r^2 / gap = 1e-12, plus the
/// rounding of G_k's own sums (some 1e3 terms of either sign: 1e3 eps).
inline constexpr double objective = 2e-12;

/// Subspaces B B^T across a gap g, relative to ||G||: sin(angle) <= residual / g (Davis & Kahan),
/// and
/// ||P - P'||_F is at most sqrt(2 c) times that; 4 covers c = 8.
constexpr double subspace(double gap) {
  return 4 * residual / gap;
}

/// G_k whose shifts were formed in S: a sum of d_in products is off by at most d_in eps of the sum
/// of their sizes, its square by twice that, and G_k is the difference of two sums of such squares.
template <class S>
constexpr double gram(double d_in) {
  return 8 * (d_in > 4 ? d_in / 2 : 2) * eps<S>;
}

/// Merged weights against the oracle, relative to the size of the task vectors: the subspace's
/// error per trim; K - 1 trims of up to seven tasks; rounding in S of some 2 (c + 2) operations per
/// trim.
template <class S>
constexpr double merged(double gap) {
  return 7 * (subspace(gap) + gram<S>(64) / gap + 2 * 10 * eps<S>);
}

/// A trim P T of a T that was trimmed before: P^2 = P up to B's orthonormality and 2 (c + 2)
/// roundings per trim, relative to the norm of T.
template <class S>
inline constexpr double idempotent = 8 * (orthonormal<S> + 20 * eps<S>);

/// "Nothing left along B": |B^T P T| relative to |T|, with the same roundings.
template <class S>
inline constexpr double removed = idempotent<S>;

/// Conflict may not rise: what rounding alone can raise it by, relative to its value before.
template <class S>
inline constexpr double rise = 100 * eps<S>;

/// Results that two ways of adding the same numbers in double give (feature batches, Gram against
/// rows): sums of at most 1e3 terms, relative to the sum of absolute values.
inline constexpr double reordered = 1e3 * eps<double>;

/// Norms found by eigenpairs of W W^T: the root halves the relative error of the residual's square,
/// but the residual itself is all that is sure without a gap.
inline constexpr double spectral = residual;

}  // namespace test::tolerance
