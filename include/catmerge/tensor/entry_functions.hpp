// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>

/// @file
/// The closed lists of functions that contexts compute entry by entry, beyond sums and multiples.
namespace catmerge {

/// Functions of an entry x and a number a.
enum class entry_function {
  absolute,     ///< |x|
  sign,         ///< -1, 0 or 1
  exponential,  ///< e^x
  tangent,      ///< tanh x
  at_least,     ///< the larger of x and a
  at_most,      ///< the smaller of x and a
  above         ///< 1 where x > a, else 0
};

/// Functions of two entries.
enum class pair_function {
  product,  ///< p q
  quotient  ///< p / q, and 0 where q is 0
};

}  // namespace catmerge
