// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/scalar.hpp>
#include <cstdint>

namespace catmerge {

/// Settings of the search for eigenpairs.
struct eigen_options {
  /// A pair (theta, v) is accepted once ||G v - theta v|| <= tolerance * max|theta|. The error of
  /// the subspace is at most that over the gap, the error of Eq. 8 its square over the gap. 0:
  /// default_tolerance of the operator's numbers.
  double tolerance = 0;
  /// The limit on products with a vector, exceeded by at most one block. A search that stops at it
  /// has result.converged == false.
  index_t products = 4000;
  std::uint64_t seed = 0x9E3779B97F4A7C15;  ///< of the starting block
};

/// The tolerance of eigenpairs for matrices made of numbers of this type. In double 1e-8: Eq. 8 is
/// exact to double precision wherever the gap exceeds 1e-8 of the spectrum. In float 1e-6: task
/// vectors are some percent of the weights and carry the weights' rounding (6e-8), so that G_k
/// itself is not more exact; Eq. 8 is exact to 1e-10 where the gap exceeds 1 % of the spectrum.
constexpr double default_tolerance(scalar_type of) {
  return of == scalar_type::f64 ? 1e-8 : 1e-6;
}

}  // namespace catmerge
