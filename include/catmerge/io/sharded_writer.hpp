// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/output_file.hpp>
#include <catmerge/io/output_files.hpp>
#include <catmerge/io/safetensors_writer.hpp>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace catmerge::io {

/// Cuts tensors into shards of at most `most` bytes of values (0: one shard), in their order, as
/// Hugging Face's libraries do: a tensor that does not fit into the current shard begins the next
/// one; a tensor larger than `most` gets a shard of its own. The result is never empty.
/// Precondition: each has a byte_count.
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

/// Writes model.safetensors into a folder or, if the tensors exceed a shard's size,
/// model-00001-of-0000N.safetensors and their index, model.safetensors.index.json. Few of the files
/// are open at a time (see output_files). The folder is the caller's: usually the partial one of an
/// atomic_folder, since several files do not appear at once.
class sharded_writer final : public tensor_sink {
 public:
  /// `most`: bytes of values in a shard, 0 for no limit. Messages name `reported`, the final name
  /// of the folder. Throws error as safetensors_layout does.
  sharded_writer(std::filesystem::path folder, std::vector<tensor_info> tensors,
                 const metadata_t& metadata, std::uint64_t most, std::filesystem::path reported)
      : folder_(std::move(folder)), reported_(std::move(reported)) {
    // Names, types and shapes are checked across shards: two of them might declare the same tensor.
    // (Only the sizes of its slots are used.)
    const write_ledger all(reported_, tensors);
    for (const auto& slot : all.slots()) total_ += slot.size;
    auto shards = plan_shards(std::move(tensors), most);
    std::vector<output_files::plan> plans;
    for (std::size_t i = 0; i < shards.size(); ++i) {
      const std::string name = shard_name(i, shards.size());
      for (const tensor_info& info : shards[i]) shard_of_.emplace(info.name, i);
      auto& layout = shards_.emplace_back(reported_ / name, std::move(shards[i]), metadata);
      plans.push_back({folder_ / name, reported_ / name, std::move(layout.header())});
    }
    files_.emplace(std::move(plans));
  }

  void append(std::string_view name, std::span<const std::byte> bytes) override {
    const std::size_t shard = shard_of(name);
    put(shard, shards_[shard].ledger().for_append(name, bytes.size()), bytes);
  }
  void write(std::string_view name, std::span<const std::byte> bytes) override {
    const std::size_t shard = shard_of(name);
    put(shard, shards_[shard].ledger().for_write(name, bytes.size()), bytes);
  }
  void commit() override {
    for (auto& shard : shards_) shard.ledger().check_complete();
    files_->close();
    if (shards_.size() == 1) return;
    nlohmann::ordered_json index;
    index["metadata"]["total_size"] = total_;
    std::map<std::string, std::string> map;  // sorted by name
    for (const auto& [name, shard] : shard_of_)
      map.emplace(name, shard_name(shard, shards_.size()));
    index["weight_map"] = map;
    const std::string file_name = "model.safetensors.index.json";
    output_file out(folder_ / file_name, reported_ / file_name);
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

  std::size_t shard_of(std::string_view name) const {
    const auto found = shard_of_.find(std::string(name));
    if (found == shard_of_.end()) fail(reported_, name, "was not declared");
    return found->second;
  }

  void put(std::size_t shard, write_ledger::slot& slot, std::span<const std::byte> bytes) {
    if (!bytes.empty()) {
      files_->write_at(shard, shards_[shard].position(slot), bytes, slot.info.name);
    }
    write_ledger::done(slot, bytes.size());
  }

  std::filesystem::path folder_, reported_;
  std::uint64_t total_ = 0;
  std::deque<safetensors_layout> shards_;
  std::optional<output_files> files_;  // by shard
  std::unordered_map<std::string, std::size_t> shard_of_;
};

}  // namespace catmerge::io
