// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <catmerge/error.hpp>
#include <cmath>
#include <cstddef>
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

/// x = f(x) for n entries; one loop per function, which compilers can vectorise.
template <class C>
void apply(entry_function f, C a, C* x, std::ptrdiff_t n) {
  const auto each = [&](auto function) {
    for (std::ptrdiff_t i = 0; i < n; ++i) x[i] = function(x[i]);
  };
  switch (f) {
    case entry_function::absolute: return each([](C v) { return std::abs(v); });
    case entry_function::sign: return each([](C v) { return static_cast<C>((v > 0) - (v < 0)); });
    case entry_function::exponential: return each([](C v) { return std::exp(v); });
    case entry_function::tangent: return each([](C v) { return std::tanh(v); });
    case entry_function::at_least: return each([a](C v) { return v < a ? a : v; });
    case entry_function::at_most: return each([a](C v) { return v > a ? a : v; });
    case entry_function::above: return each([a](C v) { return v > a ? C(1) : C(0); });
  }
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
