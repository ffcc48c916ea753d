// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <catmerge/io/shard_index.hpp>

#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::with_file(data, size, [](const std::filesystem::path& path) {
    const auto index = catmerge::io::read_shard_index(path);
    for (const auto& [name, file] : index.file_of)
      fuzz::require(index.files.contains(file), "every file is listed");
    for (const auto& file : index.files) {
      const std::filesystem::path inside = std::filesystem::path("/a/b") / file;
      fuzz::require(inside.lexically_normal().parent_path() == "/a/b",
                    "a file lies beside the index");
    }
  });
  return 0;
}
