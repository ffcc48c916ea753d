// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <bit>
#include <catmerge/io/convert.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "support/files.hpp"

using catmerge::bfloat16;
using catmerge::half;
using catmerge::scalar_type;
using namespace io_test;

namespace {

/// A small binary format, described independently of any library: `precision` significant bits
/// (the hidden one included), normal numbers from 2^lowest, finite below 2^(highest + 1).
struct small_format {
  int precision, lowest, highest;
};
constexpr small_format binary16{11, -14, 15};
constexpr small_format brain16{8, -126, 127};

/// The value of `x` rounded to nearest even in that format, by exact arithmetic on the exponent.
double oracle(double x, small_format format) {
  if (x == 0 || !std::isfinite(x)) return x;
  const int exponent = std::max(std::ilogb(x), format.lowest);
  const double ulp = std::ldexp(1.0, exponent - (format.precision - 1));
  const double rounded = std::nearbyint(x / ulp) * ulp;  // ties to even; both steps are exact
  return std::fabs(rounded) < std::ldexp(1.0, format.highest + 1)
             ? rounded
             : std::copysign(std::numeric_limits<double>::infinity(), x);
}

template <class To, class From>
To converted(From x) {
  To y{};
  io::convert(std::as_bytes(std::span(&x, 1)), catmerge::scalar_type_v<From>, std::span(&y, 1));
  return y;
}

template <class Small>
void check_against_oracle(double x, small_format format) {
  const auto expected = oracle(x, format);
  const auto found = static_cast<double>(static_cast<float>(converted<Small>(x)));
  if (found != expected || std::signbit(found) != std::signbit(expected)) {
    CAPTURE(x);
    CHECK(found == expected);
  }
  const auto single = static_cast<float>(x);
  const auto from_single = static_cast<double>(static_cast<float>(converted<Small>(single)));
  if (from_single != oracle(single, format)) {
    CAPTURE(single);
    CHECK(from_single == oracle(single, format));
  }
}

template <class Small>
void check_all_values(small_format format) {
  for (std::uint32_t i = 0; i < 0x10000; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const auto small = std::bit_cast<Small>(bits);
    const auto single = converted<float>(small);
    const auto wide = converted<double>(small);
    if (std::isnan(single)) {
      REQUIRE(std::isnan(wide));
      REQUIRE(std::isnan(static_cast<float>(converted<Small>(single))));
      REQUIRE(std::isnan(static_cast<float>(converted<Small>(wide))));
      continue;
    }
    REQUIRE(static_cast<double>(single) == wide);
    REQUIRE(std::bit_cast<std::uint16_t>(converted<Small>(single)) == bits);
    REQUIRE(std::bit_cast<std::uint16_t>(converted<Small>(wide)) == bits);
    if (std::isinf(single)) continue;
    // The tie with the next value outwards, and what lies just beside it: only a double can say.
    const auto next = static_cast<double>(
        static_cast<float>(std::bit_cast<Small>(static_cast<std::uint16_t>(i + 1))));
    const double outwards =
        std::isinf(next) ? std::copysign(std::ldexp(1.0, format.highest + 1), next) : next;
    const double tie = (wide + outwards) / 2;
    check_against_oracle<Small>(tie, format);
    check_against_oracle<Small>(std::nextafter(tie, 0.0), format);
    check_against_oracle<Small>(std::nextafter(tie, 2 * outwards), format);
  }
}

}  // namespace

TEST_CASE("every half and bfloat16 survives the way up and down, and every tie is rounded right") {
  check_all_values<half>(binary16);
  check_all_values<bfloat16>(brain16);
}

TEST_CASE("random numbers are rounded once, to nearest even") {
  std::mt19937_64 random(3);
  for (int i = 0; i < 1'000'000; ++i) {
    const auto any = std::bit_cast<double>(random());
    if (!std::isnan(any)) {
      check_against_oracle<half>(any, binary16);
      check_against_oracle<bfloat16>(any, brain16);
    }
    const double near =
        std::ldexp(static_cast<double>(random() >> 11), -53 + int(random() % 48) - 28);
    check_against_oracle<half>(near, binary16);
    check_against_oracle<bfloat16>(-near, brain16);
  }
}

TEST_CASE("the double rounding that a detour over float would make does not happen") {
  // Just above the tie between 1 and the next half: in float it is the tie, and ties go to even.
  const double x = 1 + std::ldexp(1.0, -11) + std::ldexp(1.0, -40);
  CHECK(static_cast<float>(static_cast<half>(static_cast<float>(x))) == 1.0f);
  CHECK(static_cast<float>(converted<half>(x)) == 1.0f + std::ldexp(1.0f, -10));
}

TEST_CASE("zeros keep their sign, large numbers become infinite, double becomes float") {
  CHECK(std::bit_cast<std::uint16_t>(converted<half>(-0.0)) == 0x8000);
  CHECK(std::bit_cast<std::uint16_t>(converted<bfloat16>(-0.0f)) == 0x8000);
  CHECK(std::isinf(static_cast<float>(converted<half>(65520.0))));
  CHECK(static_cast<float>(converted<half>(65519.999)) == 65504.0f);
  CHECK(std::isinf(static_cast<float>(converted<bfloat16>(1e300))));
  CHECK(std::isinf(static_cast<float>(converted<half>(-1e-300 / 1e-310))));
  CHECK(converted<float>(1e-300) == 0.0f);
  CHECK(converted<float>(1 + std::ldexp(1.0, -24)) == 1.0f);
  CHECK(converted<double>(0.1f) == static_cast<double>(0.1f));
  CHECK(static_cast<float>(converted<half>(static_cast<bfloat16>(3.0f))) == 3.0f);
  CHECK(static_cast<float>(converted<bfloat16>(static_cast<half>(257.0f))) == 256.0f);
}

TEST_CASE("blocks need no alignment, equal types keep every bit, sizes must fit") {
  const float values[] = {1.5f, -2.0f, 1e-3f};
  std::string shifted = "x";
  shifted += text_of(std::as_bytes(std::span(values)));
  std::string out(1 + 3 * 8, '\0');
  io::convert(bytes_of(shifted).subspan(1), scalar_type::f32,
              std::as_writable_bytes(std::span(out)).subspan(1), scalar_type::f64);
  for (std::size_t i = 0; i < 3; ++i) {
    double x = 0;
    std::memcpy(&x, out.data() + 1 + 8 * i, 8);
    CHECK(x == static_cast<double>(values[i]));
  }
  const std::string signalling("\x01\x7c\x01\xff", 4);  // NaNs
  std::string same(4, '\0');
  io::convert(bytes_of(signalling), scalar_type::f16, std::as_writable_bytes(std::span(same)),
              scalar_type::f16);
  CHECK(same == signalling);

  std::vector<float> block(2);
  io::convert(std::span<const float>(values).first(2), std::as_writable_bytes(std::span(block)),
              scalar_type::f32);
  CHECK(block == std::vector<float>{1.5f, -2.0f});
  CHECK_THROWS_AS(io::convert(bytes_of("12345"), scalar_type::f16, std::span(block)),
                  catmerge::error);
  CHECK_THROWS_AS(io::convert(bytes_of("1234"), scalar_type::f32, std::span(block)),
                  catmerge::error);
  io::convert(bytes_of(""), scalar_type::f16, std::span<float>());
}
