// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <bit>
#include <catmerge/error.hpp>
#include <catmerge/io/dtype.hpp>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>

/// @file
/// The 8-bit floats of today's checkpoints. Each of their values is exact in a float.
///
///     type          bits           bias   infinities   not a number
///     F8_E4M3       1 sign, 4, 3   7      none         S.1111.111           (OCP's E4M3, "FN")
///     F8_E5M2       1 sign, 5, 2   15     S.11111.00   S.11111.01, 10, 11   (OCP's E5M2)
///     F8_E4M3FNUZ   1 sign, 4, 3   8      none         1.0000.000: there is no -0
///     F8_E5M2FNUZ   1 sign, 5, 2   16     none         1.00000.00: there is no -0
///     F8_E8M0       8 exponent     127    none         11111111: powers of two, scales (OCP's MX)
namespace catmerge::io {

namespace detail {

/// A format of one sign, some exponent bits, and the rest mantissa.
struct float8_format {
  int mantissa_bits;
  int bias;
  bool only_minus_zero_is_nan;  ///< "FNUZ": finite, and zero has no sign
  bool has_infinity;            ///< as IEEE 754: the largest exponent means infinity or NaN
};

constexpr std::optional<float8_format> float8_format_of(dtype type) {
  switch (type) {
    case dtype::f8_e4m3: return float8_format{3, 7, false, false};
    case dtype::f8_e5m2: return float8_format{2, 15, false, true};
    case dtype::f8_e4m3fnuz: return float8_format{3, 8, true, false};
    case dtype::f8_e5m2fnuz: return float8_format{2, 16, true, false};
    default: return std::nullopt;
  }
}

/// 2 to the power of n, for -126 <= n <= 127.
constexpr float power_of_two(int n) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(n + 127) << 23);
}

constexpr float decode_float8(float8_format format, unsigned code) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  const unsigned magnitude = code & 0x7f;
  const unsigned mantissa = magnitude & ((1U << format.mantissa_bits) - 1);
  const int exponent = static_cast<int>(magnitude >> format.mantissa_bits);
  const int largest_exponent = 0x7f >> format.mantissa_bits;
  const float sign = (code & 0x80) != 0 ? -1.0F : 1.0F;
  if (format.only_minus_zero_is_nan) {
    if (code == 0x80) return nan;
  } else if (format.has_infinity) {
    if (exponent == largest_exponent) {
      return mantissa == 0 ? sign * std::numeric_limits<float>::infinity() : nan;
    }
  } else if (magnitude == 0x7f) {
    return nan;
  }
  // A subnormal number has the smallest normal exponent, 1, and no hidden bit.
  const unsigned significand = exponent == 0 ? mantissa : mantissa + (1U << format.mantissa_bits);
  const int power = (exponent == 0 ? 1 : exponent) - format.bias - format.mantissa_bits;
  return sign * static_cast<float>(significand) * power_of_two(power);
}

}  // namespace detail

/// True for the five 8-bit floats.
constexpr bool is_float8(dtype type) {
  return type == dtype::f8_e8m0 || detail::float8_format_of(type).has_value();
}

/// The value of an 8-bit float. Throws error for other types.
constexpr float decode_float8(dtype type, std::byte value) {
  const auto code = std::to_integer<unsigned>(value);
  if (type == dtype::f8_e8m0) {
    if (code == 0xff) return std::numeric_limits<float>::quiet_NaN();
    // 2^-127 is half the smallest normal float.
    return code == 0 ? detail::power_of_two(-126) / 2
                     : detail::power_of_two(static_cast<int>(code) - 127);
  }
  const auto format = detail::float8_format_of(type);
  if (!format) throw error(std::string(name_of(type)) + " is not an 8-bit float");
  return detail::decode_float8(*format, code);
}

/// The values of all 256 codes, to decode whole tensors. Throws error for other types.
constexpr std::array<float, 256> float8_table(dtype type) {
  std::array<float, 256> table{};
  for (std::size_t code = 0; code < table.size(); ++code) {
    table[code] = decode_float8(type, static_cast<std::byte>(code));
  }
  return table;
}

}  // namespace catmerge::io
