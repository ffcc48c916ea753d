// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/checkpoint.hpp>
#include <catmerge/io/json.hpp>
#include <filesystem>
#include <string>
#include <system_error>

namespace catmerge::harness {

/// The model_type in config.json, in the folder or beside the file; empty if there is none.
inline std::string model_type_of(const io::checkpoint& weights) {
  std::error_code ignored;
  std::filesystem::path file = weights.config().value_or(std::filesystem::path());
  if (file.empty() && !std::filesystem::is_directory(weights.path(), ignored))
    file = weights.path().parent_path() / "config.json";
  if (!std::filesystem::is_regular_file(file, ignored)) return {};
  const io::mapped_file contents(file);
  const auto config = io::parse_json(io::as_text(contents.bytes()), file, "configuration");
  if (!config.is_object()) return {};
  const auto found = config.find("model_type");
  return found != config.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace catmerge::harness
