// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/atomic_path.hpp>
#include <catmerge/io/safetensors_header.hpp>
#include <catmerge/io/tensor_sink.hpp>
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace catmerge::io {

/// Writes a safetensors file. The layout is that of the reference implementation, byte for byte
/// apart from the order of metadata: larger types first, by name among equal types, so that every
/// tensor is aligned to its type. The target appears when everything is on the disk.
class safetensors_writer final : public tensor_sink {
 public:
  /// Writes the header. Throws error if the file cannot be made, a name is declared twice or is
  /// "__metadata__", text is not UTF-8, and, where that is refused, if the file exists.
  safetensors_writer(const std::filesystem::path& path, std::vector<tensor_info> tensors,
                     const metadata_t& metadata = {}, existing how = existing::replace)
      : ledger_(path, in_file_order(std::move(tensors))), file_(path, how) {
    std::vector<tensor_info> infos;
    for (const write_ledger::slot& slot : ledger_.slots()) {
      if (slot.info.name == "__metadata__") fail(path, slot.info.name, "the name is reserved");
      infos.push_back(slot.info);
    }
    const std::string header = make_safetensors_header(path, infos, metadata);
    file_.write_at(0, as_bytes(header));
    std::uint64_t offset = header.size();
    for (const write_ledger::slot& slot : ledger_.slots()) {
      offsets_.push_back(offset);
      offset += slot.size;
    }
  }

  void append(std::string_view name, std::span<const std::byte> bytes) override {
    put(ledger_.for_append(name, bytes.size()), bytes);
  }
  void write(std::string_view name, std::span<const std::byte> bytes) override {
    put(ledger_.for_write(name, bytes.size()), bytes);
  }
  void commit() override {
    ledger_.check_complete();
    file_.commit();
  }

 private:
  static std::vector<tensor_info> in_file_order(std::vector<tensor_info> tensors) {
    std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
      return std::tie(b.type, a.name) < std::tie(a.type, b.name);
    });
    return tensors;
  }

  void put(write_ledger::slot& slot, std::span<const std::byte> bytes) {
    const auto position = static_cast<std::size_t>(&slot - ledger_.slots().data());
    file_.write_at(offsets_[position] + slot.written, bytes, slot.info.name);
    write_ledger::done(slot, bytes.size());
  }

  write_ledger ledger_;
  atomic_file file_;
  std::vector<std::uint64_t> offsets_;  // of the slots' first bytes in the file
};

}  // namespace catmerge::io
