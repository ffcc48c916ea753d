// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <catmerge/io/dtype.hpp>
#include <catmerge/io/fail.hpp>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace catmerge::io {

/// Extents of a tensor, outermost first (row-major); empty for a scalar.
using shape_t = std::vector<index_t>;

/// Free text in a file beside its tensors.
using metadata_t = std::map<std::string, std::string>;

/// The name, type and shape of a tensor, as in a file's header.
struct tensor_info {
  std::string name;         ///< unique in its file; UTF-8
  dtype type = dtype::f32;  ///< of the elements
  shape_t shape;            ///< weights: as stored, usually [d_out, d_in]
};

/// A tensor inside an open file. `bytes` are its values in row-major, little-endian order; the file
/// object owns them. They may lie at any address: see is_aligned.
struct tensor_entry : tensor_info {
  std::span<const std::byte> bytes;  ///< byte_count of them
};

/// The number of elements: 1 for a scalar. None if an extent is negative or if the product, taken
/// from the left, exceeds the range of index_t.
inline std::optional<std::uint64_t> element_count(const shape_t& shape) {
  constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<index_t>::max());
  std::uint64_t count = 1;
  for (const index_t extent : shape) {
    if (extent < 0) return std::nullopt;
    const auto factor = static_cast<std::uint64_t>(extent);
    if (factor != 0 && count > most / factor) return std::nullopt;
    count *= factor;
  }
  return count;
}

/// The number of bytes, if it can be represented and the elements' bits fill whole bytes.
inline std::optional<std::uint64_t> byte_count(const tensor_info& info) {
  constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<index_t>::max());
  const auto count = element_count(info.shape);
  const std::uint64_t bits = bits_of(info.type);
  if (!count || *count > most / bits || *count * bits % 8 != 0) return std::nullopt;
  return *count * bits / 8;
}

/// "[3, 4]"; "[]" for a scalar.
inline std::string to_string(const shape_t& shape) {
  std::string text = "[";
  for (const index_t extent : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(extent);
  }
  return text + "]";
}

/// "F32 [3, 4]".
inline std::string describe(const tensor_info& info) {
  return std::string(name_of(info.type)) + " " + to_string(info.shape);
}

/// The reason why a tensor has no byte_count, for a message.
inline std::string no_byte_count(const tensor_info& info) {
  const auto count = element_count(info.shape);
  const std::uint64_t bits = bits_of(info.type);
  constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<index_t>::max());
  if (count && *count <= most / bits) {
    return describe(info) + " takes " + std::to_string(*count * bits) +
           " bits, which do not fill whole bytes";
  }
  return "the shape " + to_string(info.shape) +
         (count || std::none_of(info.shape.begin(), info.shape.end(),
                                [](index_t n) { return n < 0; })
              ? " is absurdly large"
              : " has a negative extent");
}

/// True if the bytes may be read in place as elements of their type. Files of our writers and of
/// the reference implementation are aligned; a header of odd length shifts everything after it.
inline bool is_aligned(const tensor_entry& entry) {
  return reinterpret_cast<std::uintptr_t>(entry.bytes.data()) % alignment_of(entry.type) == 0;
}

/// The values in place, without a copy. Throws error for another type and for unaligned bytes;
/// convert() (io/convert.hpp) reads those.
template <storage_scalar S>
std::span<const S> values_of(const tensor_entry& entry) {
  if (scalar_of(entry.type) != scalar_type_v<S>) {
    throw error("tensor " + in_quotes(entry.name) + ": expected " + name_of(scalar_type_v<S>) +
                " values, found " + describe(entry));
  }
  if (!is_aligned(entry)) {
    throw error("tensor " + in_quotes(entry.name) + ": its bytes are not aligned in the file");
  }
  return {reinterpret_cast<const S*>(entry.bytes.data()), entry.bytes.size() / sizeof(S)};
}

}  // namespace catmerge::io
