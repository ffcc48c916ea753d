// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <bit>
#include <catmerge/error.hpp>
#include <catmerge/tensor/scalar.hpp>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace catmerge::io {

static_assert(std::endian::native == std::endian::little,
              "files hold little-endian values, and this library reads them in place");

/// Element types of tensors in files: all types of safetensors, in the order of the reference
/// implementation. Its writer sorts by this order: alignments never fall along the list. Values lie
/// in little-endian order; those smaller than a byte are packed.
enum class dtype : unsigned char {
  boolean,  ///< one byte, 0 or 1
  f4,       ///< two in a byte
  f6_e2m3,  ///< four in three bytes
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,  ///< 8-bit floats: see float8.hpp
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,   ///< IEEE 754 binary16
  bf16,  ///< the upper half of a binary32
  i32,
  u32,
  f32,
  c64,  ///< a complex number of two binary32
  f64,
  i64,
  u64
};

namespace detail {
struct dtype_row {
  std::string_view name;
  std::size_t bits;
  std::optional<scalar_type> scalar = std::nullopt;
};
/// Indexed by dtype.
inline constexpr std::array<dtype_row, 22> dtype_table = {{{"BOOL", 8},
                                                           {"F4", 4},
                                                           {"F6_E2M3", 6},
                                                           {"F6_E3M2", 6},
                                                           {"U8", 8},
                                                           {"I8", 8},
                                                           {"F8_E5M2", 8},
                                                           {"F8_E4M3", 8},
                                                           {"F8_E8M0", 8},
                                                           {"F8_E4M3FNUZ", 8},
                                                           {"F8_E5M2FNUZ", 8},
                                                           {"I16", 16},
                                                           {"U16", 16},
                                                           {"F16", 16, scalar_type::f16},
                                                           {"BF16", 16, scalar_type::bf16},
                                                           {"I32", 32},
                                                           {"U32", 32},
                                                           {"F32", 32, scalar_type::f32},
                                                           {"C64", 64},
                                                           {"F64", 64, scalar_type::f64},
                                                           {"I64", 64},
                                                           {"U64", 64}}};
constexpr const dtype_row& row_of(dtype type) {
  return dtype_table[static_cast<std::size_t>(type)];
}
}  // namespace detail

/// The number of types; their values are 0 ... dtype_count - 1.
inline constexpr std::size_t dtype_count = detail::dtype_table.size();

/// Bits of one element: those of F4 and F6 do not fill bytes.
constexpr std::size_t bits_of(dtype type) {
  return detail::row_of(type).bits;
}

/// Bytes of one element. Throws error for types whose elements do not fill bytes (F4 and F6).
constexpr std::size_t size_of(dtype type) {
  const detail::dtype_row& row = detail::row_of(type);
  if (row.bits % 8 != 0) {
    throw error("elements of " + std::string(row.name) + " take " + std::to_string(row.bits) +
                " bits, which are no whole bytes");
  }
  return row.bits / 8;
}

/// The alignment in bytes of an element in memory: its size, or 1 if it is smaller than a byte.
constexpr std::size_t alignment_of(dtype type) {
  return bits_of(type) < 8 ? 1 : bits_of(type) / 8;
}

/// The name that safetensors files use: "F32", "BF16", ...
constexpr std::string_view name_of(dtype type) {
  return detail::row_of(type).name;
}

/// The type of that name, if there is one.
constexpr std::optional<dtype> parse_dtype(std::string_view name) {
  for (std::size_t i = 0; i < dtype_count; ++i) {
    if (detail::dtype_table[i].name == name) return static_cast<dtype>(i);
  }
  return std::nullopt;
}

/// The library's type of such values; none for types without arithmetic on weights (integers,
/// booleans, floats of 8 bits and fewer, complex numbers).
constexpr std::optional<scalar_type> scalar_of(dtype type) {
  return detail::row_of(type).scalar;
}

/// The type of such values in a file: scalar_of, the other way round.
constexpr dtype dtype_of(scalar_type type) {
  switch (type) {
    case scalar_type::f64: return dtype::f64;
    case scalar_type::f32: return dtype::f32;
    case scalar_type::f16: return dtype::f16;
    case scalar_type::bf16: break;
  }
  return dtype::bf16;
}

}  // namespace catmerge::io
