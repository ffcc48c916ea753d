// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <catmerge/io/safetensors_header.hpp>

#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace io = catmerge::io;
  io::safetensors_contents read;
  try {
    read = io::parse_safetensors(fuzz::bytes(data, size), "file");
  } catch (const catmerge::error&) {
    return 0;
  }
  // The tensors lie in the file, one behind the other up to its end, as large as they say.
  const auto* const begin = reinterpret_cast<const std::byte*>(data);
  const std::byte* next = nullptr;
  std::vector<io::tensor_info> infos;
  for (const auto& entry : read.entries) {
    fuzz::require(entry.bytes.size() == *io::byte_count(entry), "a tensor has its size");
    const std::byte* const at = entry.bytes.data();
    fuzz::require(at >= begin + 8 && at + entry.bytes.size() <= begin + size, "it is in the file");
    fuzz::require(next == nullptr || at == next, "there is no gap and no overlap");
    next = at + entry.bytes.size();
    infos.push_back(entry);
  }
  fuzz::require(next == nullptr || next == begin + size, "they end where the file ends");
  // A header that was read can be written, and comes back.
  std::string again = io::make_safetensors_header("file", infos, read.metadata);
  for (const auto& entry : read.entries)
    again.append(reinterpret_cast<const char*>(entry.bytes.data()), entry.bytes.size());
  const auto second = io::parse_safetensors(
      {reinterpret_cast<const std::byte*>(again.data()), again.size()}, "again");
  fuzz::require(second.entries.size() == read.entries.size(), "the tensors come back");
  fuzz::require(second.metadata == read.metadata, "the metadata come back");
  for (std::size_t i = 0; i < read.entries.size(); ++i) {
    fuzz::require(second.entries[i].name == read.entries[i].name, "the names come back");
    fuzz::require(io::describe(second.entries[i]) == io::describe(read.entries[i]),
                  "types and shapes come back");
  }
  return 0;
}
