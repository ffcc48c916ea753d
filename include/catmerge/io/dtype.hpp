// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <bit>
#include <catmerge/tensor/scalar.hpp>
#include <cstddef>
#include <optional>
#include <string_view>

namespace catmerge::io {

static_assert(std::endian::native == std::endian::little,
              "files hold little-endian values, and this library reads them in place");

/// Element types of tensors in files: those of safetensors that fill whole bytes, in the order of
/// the reference implementation (which its writer sorts by, so sizes never fall along the list).
/// Values lie in little-endian order.
enum class dtype : unsigned char {
  boolean,  ///< one byte, 0 or 1
  u8,
  i8,
  f8_e5m2,  ///< 8-bit floats: passed through, never computed with
  f8_e4m3,
  f8_e8m0,
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
  std::size_t size;
  std::optional<scalar_type> scalar = std::nullopt;
};
/// Indexed by dtype.
inline constexpr std::array<dtype_row, 17> dtype_table = {{{"BOOL", 1},
                                                           {"U8", 1},
                                                           {"I8", 1},
                                                           {"F8_E5M2", 1},
                                                           {"F8_E4M3", 1},
                                                           {"F8_E8M0", 1},
                                                           {"I16", 2},
                                                           {"U16", 2},
                                                           {"F16", 2, scalar_type::f16},
                                                           {"BF16", 2, scalar_type::bf16},
                                                           {"I32", 4},
                                                           {"U32", 4},
                                                           {"F32", 4, scalar_type::f32},
                                                           {"C64", 8},
                                                           {"F64", 8, scalar_type::f64},
                                                           {"I64", 8},
                                                           {"U64", 8}}};
constexpr const dtype_row& row_of(dtype type) {
  return dtype_table[static_cast<std::size_t>(type)];
}
}  // namespace detail

/// How many types there are; their values are 0 ... dtype_count - 1.
inline constexpr std::size_t dtype_count = detail::dtype_table.size();

/// Bytes of one element.
constexpr std::size_t size_of(dtype type) {
  return detail::row_of(type).size;
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

/// The library's type of such values; none for what is not arithmetic on weights (integers,
/// booleans, 8-bit floats, complex numbers), which is passed through bit for bit.
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
