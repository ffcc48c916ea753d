// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/output_file.hpp>
#include <catmerge/io/safetensors_writer.hpp>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace catmerge::io {

/// Cuts tensors into shards of at most `most` bytes of values (0: one shard), in their order, as
/// Hugging Face's libraries do: a tensor that does not fit beside those before it begins the next
/// shard, one that is larger than `most` gets a shard of its own. Never empty.
/// Precondition: byte_count of each is known.
inline std::vector<std::vector<tensor_info>> plan_shards(std::vector<tensor_info> tensors,
                                                         std::uint64_t most) {
  std::vector<std::vector<tensor_info>> shards(1);
  std::uint64_t filled = 0;
  for (tensor_info& info : tensors) {
    const std::uint64_t size = *byte_count(info);
    if (most != 0 && !shards.back().empty() && (filled > most || size > most - filled)) {
      shards.emplace_back();
      filled = 0;
    }
    filled += size;
    shards.back().push_back(std::move(info));
  }
  return shards;
}

/// Writes model.safetensors into a folder or, where the tensors exceed a shard's size,
/// model-00001-of-0000N.safetensors and their index, model.safetensors.index.json. The folder is
/// the caller's: usually the partial one of an atomic_folder, since several files do not appear at
/// once.
class sharded_writer final : public tensor_sink {
 public:
  /// `most`: bytes of values in a shard, 0 for no limit. Throws error as safetensors_writer does.
  sharded_writer(const std::filesystem::path& folder, std::vector<tensor_info> tensors,
                 const metadata_t& metadata, std::uint64_t most)
      : folder_(folder) {
    // The names, types and shapes are checked all together: what is declared twice might lie in two
    // shards. (Its slots are not used.)
    const write_ledger all(folder, tensors);
    for (const auto& slot : all.slots()) total_ += slot.size;
    auto shards = plan_shards(std::move(tensors), most);
    for (std::size_t i = 0; i < shards.size(); ++i) {
      const std::string name = shard_name(i, shards.size());
      for (const tensor_info& info : shards[i]) file_of_.emplace(info.name, std::pair(i, name));
      files_.emplace_back(folder / name, std::move(shards[i]), metadata);
    }
  }

  void append(std::string_view name, std::span<const std::byte> bytes) override {
    of(name).append(name, bytes);
  }
  void write(std::string_view name, std::span<const std::byte> bytes) override {
    of(name).write(name, bytes);
  }
  void commit() override {
    for (auto& file : files_) file.commit();
    if (files_.size() == 1) return;
    nlohmann::ordered_json index;
    index["metadata"]["total_size"] = total_;
    std::map<std::string, std::string> map;  // in the order of the names
    for (const auto& [name, place] : file_of_) map.emplace(name, place.second);
    index["weight_map"] = map;
    output_file out(folder_ / "model.safetensors.index.json");
    out.write_at(0, as_bytes(index.dump(2) + "\n"));
    out.close();
  }

 private:
  static std::string shard_name(std::size_t number, std::size_t count) {
    if (count == 1) return "model.safetensors";
    const auto digits = [](std::size_t value) {
      const std::string text = std::to_string(value);
      return std::string(text.size() < 5 ? 5 - text.size() : 0, '0') + text;
    };
    return "model-" + digits(number + 1) + "-of-" + digits(count) + ".safetensors";
  }

  safetensors_writer& of(std::string_view name) {
    const auto found = file_of_.find(std::string(name));
    if (found == file_of_.end()) fail(folder_, name, "was not declared");
    return files_[found->second.first];
  }

  std::filesystem::path folder_;
  std::uint64_t total_ = 0;
  std::deque<safetensors_writer> files_;
  std::unordered_map<std::string, std::pair<std::size_t, std::string>> file_of_;
};

}  // namespace catmerge::io
