// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/tensor_entry.hpp>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace catmerge::harness {

/// True for the integer types whose values all fit an int64. integer_at reads them, and booleans.
constexpr bool is_integer(io::dtype type) {
  switch (type) {
    case io::dtype::u8:
    case io::dtype::i8:
    case io::dtype::u16:
    case io::dtype::i16:
    case io::dtype::u32:
    case io::dtype::i32:
    case io::dtype::i64: return true;
    default: return false;
  }
}

/// Element `index` of a tensor of integers or booleans, aligned or not. Precondition: is_integer or
/// boolean, and the element exists.
inline std::int64_t integer_at(const io::tensor_entry& entry, index_t index) {
  const std::byte* const from =
      entry.bytes.data() + static_cast<std::size_t>(index) * io::size_of(entry.type);
  const auto read = [from](auto value) -> std::int64_t {
    std::memcpy(&value, from, sizeof value);
    return value;
  };
  switch (entry.type) {
    case io::dtype::boolean:
    case io::dtype::u8: return read(std::uint8_t{});
    case io::dtype::i8: return read(std::int8_t{});
    case io::dtype::u16: return read(std::uint16_t{});
    case io::dtype::i16: return read(std::int16_t{});
    case io::dtype::u32: return read(std::uint32_t{});
    case io::dtype::i32: return read(std::int32_t{});
    default: return read(std::int64_t{});
  }
}

}  // namespace catmerge::harness
