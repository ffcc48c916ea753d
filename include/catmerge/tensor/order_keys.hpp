// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <catmerge/error.hpp>
#include <cstdint>

/// The keys by which contexts count entries in the order of their values (compute_context's
/// count_keys).
namespace catmerge::detail {

/// A number's place in the order of all doubles: a < b exactly if order_key(a) < order_key(b), for
/// finite numbers; -0 is 0.
inline std::uint64_t order_key(double x) {
  constexpr std::uint64_t top = std::uint64_t{1} << 63;
  const auto bits = std::bit_cast<std::uint64_t>(x + 0.0);
  return (bits & top) != 0 ? ~bits : bits | top;
}

/// The number with this key: the inverse of order_key.
inline double of_order_key(std::uint64_t key) {
  constexpr std::uint64_t top = std::uint64_t{1} << 63;
  return std::bit_cast<double>((key & top) != 0 ? key & ~top : ~key);
}

/// Keys are read in digits, the first from the highest bits. Two digits of 18 bits hold all of a
/// float (a sign, 11 bits of exponent as a double has them, 23 of significand), four a double.
struct key_digit {
  int shift = 0, bits = 0;
  std::uint64_t operator()(std::uint64_t key) const {
    return (key >> shift) & ((std::uint64_t{1} << bits) - 1);
  }
  /// The digits before this one.
  std::uint64_t before(std::uint64_t key) const {
    return shift + bits == 64 ? 0 : key >> (shift + bits);
  }
};
constexpr int key_digits = 4;
constexpr key_digit digit_of_key(int depth) {
  return depth < 3 ? key_digit{46 - 18 * depth, 18} : key_digit{0, 10};
}

}  // namespace catmerge::detail
