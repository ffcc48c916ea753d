// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <catmerge/tensor/scalar.hpp>
#include <cstdint>

namespace catmerge::detail {

/// `x` rounded to float towards zero, with the last bit set if that is not exact ("round to odd").
/// Rounding the result to nearest even, to a format with at least two bits fewer, equals rounding
/// `x` to that format directly: the odd bit keeps a value beside a tie from becoming a tie (S.
/// Boldo, G. Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using
/// rounding to odd", IEEE Trans. Computers 57(4), 2008).
inline float round_to_odd(double x) {
  const auto nearest = static_cast<float>(x);
  const auto back = static_cast<double>(nearest);
  if (back == x || x != x) return nearest;
  auto bits = std::bit_cast<std::uint32_t>(nearest);
  const bool away_from_zero = x < 0 ? back < x : back > x;
  if (away_from_zero) --bits;  // the next float towards zero; of infinity the largest float
  return std::bit_cast<float>(bits | 1);
}

/// The float with `x` as its upper 16 bits. (Eigen's own conversion writes it to memory byte by
/// byte, which no compiler makes fast.)
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
