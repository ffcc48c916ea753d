// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>
#include <catmerge/io/tensor_entry.hpp>
#include <catmerge/tensor/rounding.hpp>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>

namespace catmerge::io {

namespace detail {

template <storage_scalar To, storage_scalar From>
void convert_elements(const std::byte* from, std::byte* to, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    From x;
    std::memcpy(&x, from + i * sizeof(From), sizeof(From));
    const To y = catmerge::detail::rounded<To>(x);
    std::memcpy(to + i * sizeof(To), &y, sizeof(To));
  }
}

/// Calls `use` with a value of the C++ type of `type`.
template <class Use>
void with_scalar(scalar_type type, Use&& use) {
  switch (type) {
    case scalar_type::f64: return use(double{});
    case scalar_type::f32: return use(float{});
    case scalar_type::f16: return use(half{});
    case scalar_type::bf16: return use(bfloat16{});
  }
}

}  // namespace detail

/// Converts a block of values between the floating-point types. Each is rounded once to the
/// nearest, ties to even; a value beyond the range becomes infinite, as IEEE 754 says. Equal types
/// are copied bit for bit. The blocks may be unaligned and must not overlap. Throws error unless
/// `from` holds whole elements, and as many of them as `to`.
inline void convert(std::span<const std::byte> from, scalar_type from_type, std::span<std::byte> to,
                    scalar_type to_type) {
  const std::size_t count = from.size() / size_of(from_type);
  if (from.size() != count * size_of(from_type) || to.size() != count * size_of(to_type)) {
    throw error("convert: " + std::to_string(from.size()) + " bytes of " + name_of(from_type) +
                " do not fit " + std::to_string(to.size()) + " bytes of " + name_of(to_type));
  }
  if (count == 0) return;
  if (from_type == to_type) {
    std::memcpy(to.data(), from.data(), from.size());
    return;
  }
  detail::with_scalar(from_type, [&]<class From>(From) {
    detail::with_scalar(to_type, [&]<class To>(To) {
      detail::convert_elements<To, From>(from.data(), to.data(), count);
    });
  });
}

/// The same into or out of typed values: `convert(entry.bytes, type, std::span<float>(block))`.
template <storage_scalar To>
void convert(std::span<const std::byte> from, scalar_type from_type, std::span<To> to) {
  convert(from, from_type, std::as_writable_bytes(to), scalar_type_v<To>);
}
/// @overload
template <storage_scalar From>
void convert(std::span<const From> from, std::span<std::byte> to, scalar_type to_type) {
  convert(std::as_bytes(from), scalar_type_v<From>, to, to_type);
}

}  // namespace catmerge::io
