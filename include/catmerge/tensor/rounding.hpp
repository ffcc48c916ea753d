// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <catmerge/tensor/scalar.hpp>
#include <cstdint>

namespace catmerge::detail {

/// The float nearest to `x` on the side of zero, with its last bit set if it is not `x` itself
/// ("round to odd"). Rounding that once more, to nearest even, to a format with at least two bits
/// fewer gives what rounding `x` to it at once would: the odd bit keeps a value that lies beside a
/// tie from becoming one (S. Boldo, G. Melquiond, "Emulation of FMA and correctly rounded sums:
/// proved algorithms using rounding to odd", IEEE Trans. Computers 57(4), 2008).
inline float round_to_odd(double x) {
  const auto nearest = static_cast<float>(x);
  const auto back = static_cast<double>(nearest);
  if (back == x || x != x) return nearest;
  auto bits = std::bit_cast<std::uint32_t>(nearest);
  const bool away_from_zero = x < 0 ? back < x : back > x;
  if (away_from_zero) --bits;  // of sign and magnitude: towards zero; from infinity to the largest
  return std::bit_cast<float>(bits | 1);
}

/// A float from the half of its bits that a bfloat16 is. (Eigen's own conversion writes it to
/// memory byte by byte, which no compiler makes fast.)
inline float widened(bfloat16 x) {
  return std::bit_cast<float>(std::uint32_t{std::bit_cast<std::uint16_t>(x)} << 16);
}

/// One value in another storage type, rounded once, to nearest even. NaN stays NaN.
template <storage_scalar To, storage_scalar From>
To rounded(From x) {
  if constexpr (std::is_same_v<To, From>)
    return x;
  else if constexpr (std::is_same_v<From, bfloat16>)
    return rounded<To>(widened(x));
  else if constexpr (compute_scalar<To>)
    return static_cast<To>(static_cast<compute_t<From>>(x));
  else if constexpr (std::is_same_v<From, double>)
    return static_cast<To>(round_to_odd(x));
  else
    return static_cast<To>(static_cast<float>(x));
}

}  // namespace catmerge::detail
