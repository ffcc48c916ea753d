// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/atomic_path.hpp>
#include <catmerge/io/safetensors_header.hpp>
#include <catmerge/io/tensor_sink.hpp>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace catmerge::io {

/// The layout of a safetensors file, byte for byte as by the reference implementation, except for
/// the order of metadata. Larger types come first, sorted by name within a type, so that every
/// tensor is aligned to its type. The ledger counts the bytes written.
class safetensors_layout {
 public:
  /// Throws error, naming `file`, if a name is declared twice or is "__metadata__", or if a text is
  /// not UTF-8.
  safetensors_layout(const std::filesystem::path& file, std::vector<tensor_info> tensors,
                     const metadata_t& metadata)
      : ledger_(file, in_file_order(std::move(tensors))) {
    std::vector<tensor_info> infos;
    for (const write_ledger::slot& slot : ledger_.slots()) {
      if (slot.info.name == "__metadata__") fail(file, slot.info.name, "the name is reserved");
      infos.push_back(slot.info);
    }
    header_ = make_safetensors_header(file, infos, metadata);
    std::uint64_t offset = header_.size();
    for (const write_ledger::slot& slot : ledger_.slots()) {
      offsets_.push_back(offset);
      offset += slot.size;
    }
  }

  /// The file's first bytes. May be moved away.
  std::string& header() { return header_; }
  /// The bytes written of each tensor.
  write_ledger& ledger() { return ledger_; }
  /// The position in the file of a tensor's next byte.
  std::uint64_t position(const write_ledger::slot& slot) const {
    return offsets_[static_cast<std::size_t>(&slot - ledger_.slots().data())] + slot.written;
  }

 private:
  static std::vector<tensor_info> in_file_order(std::vector<tensor_info> tensors) {
    std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
      return std::tie(b.type, a.name) < std::tie(a.type, b.name);
    });
    return tensors;
  }

  write_ledger ledger_;
  std::string header_;
  std::vector<std::uint64_t> offsets_;  // of the slots' first bytes
};

/// Writes a safetensors file (see safetensors_layout). The target appears when everything is on the
/// disk.
class safetensors_writer final : public tensor_sink {
 public:
  /// Writes the header. Throws error as safetensors_layout does, if the file cannot be made, or if
  /// it exists and `how` refuses that.
  safetensors_writer(const std::filesystem::path& path, std::vector<tensor_info> tensors,
                     const metadata_t& metadata = {}, existing how = existing::replace)
      : layout_(path, std::move(tensors), metadata), file_(path, how) {
    file_.write_at(0, as_bytes(layout_.header()));
  }

  void append(std::string_view name, std::span<const std::byte> bytes) override {
    put(layout_.ledger().for_append(name, bytes.size()), bytes);
  }
  void write(std::string_view name, std::span<const std::byte> bytes) override {
    put(layout_.ledger().for_write(name, bytes.size()), bytes);
  }
  void commit() override {
    layout_.ledger().check_complete();
    file_.commit();
  }

 private:
  void put(write_ledger::slot& slot, std::span<const std::byte> bytes) {
    file_.write_at(layout_.position(slot), bytes, slot.info.name);
    write_ledger::done(slot, bytes.size());
  }

  safetensors_layout layout_;
  atomic_file file_;
};

}  // namespace catmerge::io
