// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <bit>
#include <catmerge/io/float8.hpp>
#include <catmerge/io/npy_header.hpp>
#include <catmerge/io/safetensors.hpp>
#include <catmerge/io/safetensors_writer.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "support/files.hpp"

using namespace io_test;
using io::dtype;

TEST_CASE("dtypes: names, sizes and order are those of the reference implementation") {
  struct row {
    const char* name;
    std::size_t bits;
  };
  // Of safetensors 0.8: the enumeration Dtype and its bitsize().
  const std::vector<row> reference = {
      {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
      {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
      {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
      {"I64", 64},        {"U64", 64}};
  REQUIRE(io::dtype_count == reference.size());
  for (std::size_t i = 0; i < io::dtype_count; ++i) {
    const auto type = static_cast<dtype>(i);
    CHECK(io::name_of(type) == reference[i].name);
    CHECK(io::bits_of(type) == reference[i].bits);
    CHECK(io::parse_dtype(io::name_of(type)) == type);
    if (reference[i].bits % 8 == 0) {
      CHECK(io::size_of(type) == reference[i].bits / 8);
      CHECK(io::alignment_of(type) == io::size_of(type));
    } else {
      CHECK(io::alignment_of(type) == 1);
      CHECK_CONTAINS(message_of([&] { io::size_of(type); }), reference[i].name);
    }
    if (const auto scalar = io::scalar_of(type)) {
      CHECK(io::dtype_of(*scalar) == type);
      CHECK(catmerge::size_of(*scalar) == io::size_of(type));
    }
    if (i > 0) CHECK(io::alignment_of(type) >= io::alignment_of(static_cast<dtype>(i - 1)));
  }
  CHECK_FALSE(io::parse_dtype("f32"));
  CHECK_FALSE(io::parse_dtype(""));
  CHECK(io::scalar_of(dtype::f16) == catmerge::scalar_type::f16);
  CHECK_FALSE(io::scalar_of(dtype::i64));
  CHECK_FALSE(io::scalar_of(dtype::f8_e4m3));
}

TEST_CASE("sizes count the bits of the whole tensor, which must fill bytes") {
  const auto size = [](dtype type, io::shape_t shape) {
    return io::byte_count({"x", type, std::move(shape)});
  };
  CHECK(size(dtype::f4, {2}) == 1);
  CHECK(size(dtype::f4, {3, 4}) == 6);
  CHECK(size(dtype::f4, {}) == std::nullopt);
  CHECK(size(dtype::f4, {3, 3}) == std::nullopt);
  CHECK(size(dtype::f4, {3, 0}) == 0);
  CHECK(size(dtype::f6_e2m3, {4}) == 3);
  CHECK(size(dtype::f6_e3m2, {2, 2, 5}) == 15);
  CHECK(size(dtype::f6_e3m2, {2}) == std::nullopt);
  CHECK(size(dtype::f6_e2m3, {3}) == std::nullopt);
  CHECK(size(dtype::f8_e8m0, {7}) == 7);
  CHECK(size(dtype::i8, {-1}) == std::nullopt);
  CHECK_CONTAINS(io::no_byte_count({"x", dtype::f4, {3, 3}}), "F4 [3, 3] takes 36 bits");
  CHECK_CONTAINS(io::no_byte_count({"x", dtype::f6_e2m3, {}}), "F6_E2M3 [] takes 6 bits");
  CHECK_CONTAINS(io::no_byte_count({"x", dtype::i8, {1, -1}}), "negative");
  CHECK_CONTAINS(io::no_byte_count({"x", dtype::i8, {catmerge::index_t{1} << 61}}), "large");
  CHECK_CONTAINS(io::no_byte_count({"x", dtype::i8, {catmerge::index_t{1} << 61, 8}}), "large");
}

TEST_CASE("tensors of packed elements are read and written, and refused where a byte is torn") {
  const temporary_folder folder;
  const auto path = folder / "x.safetensors";
  {
    io::safetensors_writer writer(path, {{"four", dtype::f4, {3, 2}},
                                         {"six", dtype::f6_e3m2, {4}},
                                         {"scale", dtype::f8_e8m0, {2}},
                                         {"flag", dtype::boolean, {1}},
                                         {"byte", dtype::u8, {1}}});
    writer.write("four", bytes_of("444"));
    writer.write("six", bytes_of("666"));
    writer.write("scale", bytes_of("88"));
    writer.write("flag", bytes_of("f"));
    writer.write("byte", bytes_of("b"));
    writer.commit();
  }
  const io::safetensors_file file(path);
  CHECK(io::describe(file.at("four")) == "F4 [3, 2]");
  CHECK(io::is_aligned(file.at("four")));
  std::string all;  // in the reference's order: of the types, falling
  for (const auto& entry : file.entries()) all += text_of(entry.bytes);
  CHECK(all == "88b666444f");

  CHECK_CONTAINS(message_of([&] {
                   io::safetensors_writer(folder / "y", {{"a", dtype::f4, {3}}});
                 }),
                 "tensor 'a': F4 [3] takes 12 bits, which do not fill whole bytes");
  const auto read = [&](const std::string& type, const std::string& shape, std::size_t size) {
    const std::string header = "{\"a\":{\"dtype\":\"" + type + "\",\"shape\":" + shape +
                               ",\"data_offsets\":[0," + std::to_string(size) + "]}}";
    const auto bytes = safetensors_bytes(header, std::string(size, 'v'));
    return message_of([&] { io::parse_safetensors(bytes_of(bytes), "f"); });
  };
  CHECK(read("F4", "[2,3]", 3) == "");
  CHECK(read("F6_E2M3", "[2,2]", 3) == "");
  CHECK(read("F8_E5M2FNUZ", "[3]", 3) == "");
  CHECK_CONTAINS(read("F4", "[5]", 3), "f: tensor 'a': F4 [5] takes 20 bits, which do not fill");
  CHECK_CONTAINS(read("F4", "[5]", 2), "takes 20 bits");
  CHECK_CONTAINS(read("F6_E3M2", "[]", 1), "takes 6 bits");
  CHECK_CONTAINS(read("F4", "[4]", 4), "takes 2 bytes, data_offsets [0, 4] hold 4");
  CHECK_CONTAINS(message_of([&] {
                   io::make_npy_header({"w", dtype::f4, {2}}, "x.npy");
                 }),
                 "x.npy: tensor 'w': .npy files cannot hold F4");
}

namespace {
struct format {
  dtype type;
  int mantissa_bits, bias;
};
constexpr format formats[] = {{dtype::f8_e4m3, 3, 7},
                              {dtype::f8_e5m2, 2, 15},
                              {dtype::f8_e4m3fnuz, 3, 8},
                              {dtype::f8_e5m2fnuz, 2, 16}};

double decoded(dtype type, unsigned code) {
  return static_cast<double>(io::decode_float8(type, static_cast<std::byte>(code)));
}

/// The value of a code by its definition: (-1)^sign * 2^(exponent - bias) * fraction, in doubles.
double defined(format f, unsigned code) {
  const double steps = std::ldexp(1.0, f.mantissa_bits);
  const auto exponent = static_cast<int>(code % 128) >> f.mantissa_bits;
  const double fraction = static_cast<double>(code % (1U << f.mantissa_bits)) / steps;
  const double magnitude =
      exponent > 0 ? std::ldexp(1 + fraction, exponent - f.bias) : std::ldexp(fraction, 1 - f.bias);
  return code < 128 ? magnitude : -magnitude;
}

bool is_special(dtype type, unsigned code) {
  if (type == dtype::f8_e4m3) return code % 128 == 127;
  if (type == dtype::f8_e5m2) return code % 128 >= 124;
  return code == 128;
}
}  // namespace

TEST_CASE("8-bit floats: every code is the value that its format defines") {
  for (const format& f : formats) {
    CAPTURE(io::name_of(f.type));
    CHECK(io::is_float8(f.type));
    const auto table = io::float8_table(f.type);
    for (unsigned code = 0; code < 256; ++code) {
      CAPTURE(code);
      const double found = decoded(f.type, code);
      if (std::isnan(found))
        CHECK(std::isnan(table[code]));
      else
        CHECK(static_cast<double>(table[code]) == found);
      if (is_special(f.type, code)) continue;
      CHECK(found == defined(f, code));
      CHECK(std::signbit(found) == (code >= 128));
      if (code % 128 > 0 && !is_special(f.type, code - 1))  // neighbours are in order
        CHECK(std::fabs(found) > std::fabs(decoded(f.type, code - 1)));
    }
  }
}

TEST_CASE("8-bit floats: halves of the same bits, scaled, say the same") {
  const auto half_of = [](unsigned bits) {
    return static_cast<double>(
        static_cast<float>(std::bit_cast<catmerge::half>(static_cast<std::uint16_t>(bits))));
  };
  for (unsigned code = 0; code < 256; ++code) {
    CAPTURE(code);
    // E5M2 is the upper byte of a half; of its FNUZ kind the bias is larger by one.
    const double upper = half_of(code << 8);
    if (std::isnan(upper))
      CHECK(std::isnan(decoded(dtype::f8_e5m2, code)));
    else
      CHECK(decoded(dtype::f8_e5m2, code) == upper);
    if (std::isfinite(upper) && code != 128) CHECK(decoded(dtype::f8_e5m2fnuz, code) == upper / 2);
    // E4M3 with one more bit of exponent is a half: the biases differ by 8, or 7.
    const double wide = half_of((code & 0x80) << 8 | (code & 0x7f) << 7);
    if (code % 128 != 127) CHECK(decoded(dtype::f8_e4m3, code) == 256 * wide);
    if (code != 128) CHECK(decoded(dtype::f8_e4m3fnuz, code) == 128 * wide);
  }
}

TEST_CASE("8-bit floats: the ends of the ranges, NaNs and infinities are those published") {
  CHECK(decoded(dtype::f8_e4m3, 0x7e) == 448);
  CHECK(decoded(dtype::f8_e4m3, 0x08) == std::ldexp(1.0, -6));
  CHECK(decoded(dtype::f8_e4m3, 0x01) == std::ldexp(1.0, -9));
  CHECK(decoded(dtype::f8_e5m2, 0x7b) == 57344);
  CHECK(decoded(dtype::f8_e5m2, 0x01) == std::ldexp(1.0, -16));
  CHECK(decoded(dtype::f8_e4m3fnuz, 0x7f) == 240);
  CHECK(decoded(dtype::f8_e4m3fnuz, 0x01) == std::ldexp(1.0, -10));
  CHECK(decoded(dtype::f8_e5m2fnuz, 0x7f) == 57344);
  CHECK(decoded(dtype::f8_e5m2fnuz, 0x81) == -std::ldexp(1.0, -17));
  constexpr double infinity = std::numeric_limits<double>::infinity();
  CHECK(decoded(dtype::f8_e5m2, 0x7c) == infinity);
  CHECK(decoded(dtype::f8_e5m2, 0xfc) == -infinity);
  for (const unsigned code : {0x7dU, 0x7eU, 0x7fU, 0xfdU, 0xfeU, 0xffU})
    CHECK(std::isnan(decoded(dtype::f8_e5m2, code)));
  CHECK(std::isnan(decoded(dtype::f8_e4m3, 0x7f)));
  CHECK(std::isnan(decoded(dtype::f8_e4m3, 0xff)));
  CHECK(std::isnan(decoded(dtype::f8_e4m3fnuz, 0x80)));
  CHECK(std::isnan(decoded(dtype::f8_e5m2fnuz, 0x80)));
  CHECK(std::signbit(decoded(dtype::f8_e4m3, 0x80)));
  static_assert(io::decode_float8(dtype::f8_e4m3, std::byte{0x38}) == 1.0F);
}

TEST_CASE("E8M0: every code but the last is its power of two") {
  for (unsigned code = 0; code < 255; ++code)
    CHECK(decoded(dtype::f8_e8m0, code) == std::ldexp(1.0, static_cast<int>(code) - 127));
  CHECK(std::isnan(decoded(dtype::f8_e8m0, 255)));
  CHECK(io::is_float8(dtype::f8_e8m0));
  for (const auto type : {dtype::u8, dtype::f4, dtype::f16, dtype::boolean}) {
    CHECK_FALSE(io::is_float8(type));
    CHECK_CONTAINS(message_of([&] { io::decode_float8(type, std::byte{0}); }),
                   "is not an 8-bit float");
  }
}
