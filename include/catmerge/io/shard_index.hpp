// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/json.hpp>
#include <catmerge/io/mapped_file.hpp>
#include <filesystem>
#include <map>
#include <set>
#include <string>

namespace catmerge::io {

/// The index of a checkpoint in several safetensors files (model.safetensors.index.json of Hugging
/// Face): {"metadata": {...}, "weight_map": {"TENSOR": "FILE", ...}}, the files beside the index.
struct shard_index {
  std::map<std::string, std::string> file_of;  ///< by the tensor's name
  std::set<std::string> files;                 ///< every shard, once
};

/// Reads an index. Throws error if it is not of that form or if a file's name holds a path: an
/// index from outside must not reach out of its folder.
inline shard_index read_shard_index(const std::filesystem::path& path) {
  const mapped_file file(path);
  const nlohmann::json index = parse_json(as_text(file.bytes()), path, "index");
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object())
    fail(path, "is no index of shards: expected an object \"weight_map\"");
  shard_index result;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string()) fail(path, name, "expected the name of a file");
    const auto& shard_name = shard.get_ref<const std::string&>();
    if (shard_name.empty() || shard_name == "." || shard_name == ".." ||
        shard_name.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      fail(path, name,
           "expected the name of a file beside the index, found " + in_quotes(shard_name));
    }
    result.file_of.emplace(name, shard_name);
    result.files.insert(shard_name);
  }
  return result;
}

}  // namespace catmerge::io
