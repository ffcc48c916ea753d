// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

/// Checks that outputs do not replace inputs.
namespace catmerge::harness {

/// A path as the system resolves it: without links, dots and a slash at the end.
inline std::filesystem::path resolved(const std::string& path) {
  std::error_code ignored;
  auto place = std::filesystem::weakly_canonical(path, ignored);
  if (place.empty()) place = std::filesystem::absolute(path, ignored);
  return place.has_filename() ? place : place.parent_path();
}

/// True if `inner` is `outer` or lies in it, at any depth.
inline bool is_within(const std::filesystem::path& inner, const std::filesystem::path& outer) {
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

/// Throws if `output` is an input, lies in an input that is a folder, or is a folder that holds an
/// input: a merge may replace the whole output.
inline void require_apart(const std::string& output, const std::vector<std::string>& inputs) {
  if (output.empty()) throw error("an output has no name: expected that of a file or a folder");
  const auto place = resolved(output);
  for (const auto& input : inputs) {
    if (input.empty()) continue;
    const auto other = resolved(input);
    if (place == other) throw error(output + ": the output is one of the inputs: " + input);
    if (is_within(place, other))
      throw error(output + ": the output lies in one of the inputs: " + input);
    if (is_within(other, place))
      throw error(output + ": one of the inputs lies in the output: " + input);
  }
}

}  // namespace catmerge::harness
