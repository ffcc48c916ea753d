// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

/// @file
/// What contexts compute entry by entry beyond sums and multiples: the closed lists of functions of
/// one entry and of two, and the keys by which entries are counted in the order of their values.
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

namespace detail {

template <class C>
C value_of(entry_function f, C a, C x) {
  switch (f) {
    case entry_function::absolute: return std::abs(x);
    case entry_function::sign: return static_cast<C>((x > 0) - (x < 0));
    case entry_function::exponential: return std::exp(x);
    case entry_function::tangent: return std::tanh(x);
    case entry_function::at_least: return x < a ? a : x;
    case entry_function::at_most: return x > a ? a : x;
    case entry_function::above: return x > a ? C(1) : C(0);
  }
  return x;
}

/// A number's place in the order of all doubles: a < b exactly if order_key(a) < order_key(b), for
/// finite numbers; -0 is 0.
inline std::uint64_t order_key(double x) {
  constexpr std::uint64_t top = std::uint64_t{1} << 63;
  const auto bits = std::bit_cast<std::uint64_t>(x + 0.0);
  return (bits & top) != 0 ? ~bits : bits | top;
}

/// The number whose key this is.
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

}  // namespace detail
}  // namespace catmerge
