// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/convert.hpp>
#include <catmerge/io/fail.hpp>
#include <catmerge/io/tensor_entry.hpp>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace catmerge::harness {

/// Reads elements first ... first + count - 1 of a floating-point tensor (F64, F32, F16, BF16) as
/// float32. Throws error, naming `file` and the tensor, for other types and if one of these
/// elements is not finite.
inline void read_floats(const io::tensor_entry& entry, const std::filesystem::path& file,
                        index_t first, index_t count, float* to) {
  const auto type = io::scalar_of(entry.type);
  if (!type) {
    io::fail(file, entry.name, "expected floating-point values, found " + io::describe(entry));
  }
  const std::size_t size = size_of(*type);
  const auto skipped = static_cast<std::size_t>(first) * size;
  const auto length = static_cast<std::size_t>(count);
  io::convert(entry.bytes.subspan(skipped, length * size), *type, std::span(to, length));
  const float* const bad =
      std::find_if_not(to, to + count, [](float v) { return std::isfinite(v); });
  if (bad != to + count) {
    io::fail(file, entry.name,
             "element " + std::to_string(first + (bad - to)) + " is not finite in float32");
  }
}

}  // namespace catmerge::harness
