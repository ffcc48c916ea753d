// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/mapped_file.hpp>
#include <catmerge/io/safetensors_header.hpp>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

namespace catmerge::io {

/// A safetensors file, mapped into memory without a copy. Only the header is read until an entry's
/// bytes are touched.
///
///     const catmerge::io::safetensors_file file("model.safetensors");
///     for (const auto& entry : file.entries()) std::cout << entry.name << describe(entry) << '\n';
///
/// Entries stay valid while the object lives, also after a move.
class safetensors_file {
 public:
  /// Throws error if the file cannot be mapped or breaks the format (see safetensors_header.hpp).
  explicit safetensors_file(const std::filesystem::path& path)
      : file_(path), contents_(parse_safetensors(file_.bytes(), path)) {
    by_name_.reserve(contents_.entries.size());
    for (const tensor_entry& entry : contents_.entries) by_name_.push_back(&entry);
    std::sort(by_name_.begin(), by_name_.end(),
              [](const tensor_entry* a, const tensor_entry* b) { return a->name < b->name; });
  }

  /// The path of the file, as given.
  const std::filesystem::path& path() const { return file_.path(); }
  /// The whole file, header included.
  const mapped_file& mapping() const { return file_; }

  /// The tensors in the order of their offsets.
  const std::vector<tensor_entry>& entries() const { return contents_.entries; }
  /// The texts under `__metadata__`; empty if there are none.
  const metadata_t& metadata() const { return contents_.metadata; }

  /// The tensor of that name, or null.
  const tensor_entry* find(std::string_view name) const {
    const auto found = std::lower_bound(
        by_name_.begin(), by_name_.end(), name,
        [](const tensor_entry* entry, std::string_view wanted) { return entry->name < wanted; });
    return found == by_name_.end() || (*found)->name != name ? nullptr : *found;
  }

  /// The tensor of that name. Throws error if there is none.
  const tensor_entry& at(std::string_view name) const {
    const tensor_entry* const entry = find(name);
    if (entry == nullptr) fail(path(), name, "is not in the file");
    return *entry;
  }

  /// As mapped_file::release, for one of entries().
  void release(const tensor_entry& entry) const { file_.release(entry.bytes); }
  /// As mapped_file::prefetch, for one of entries().
  void prefetch(const tensor_entry& entry) const { file_.prefetch(entry.bytes); }

 private:
  mapped_file file_;
  safetensors_contents contents_;
  std::vector<const tensor_entry*> by_name_;  // sorted: no choice of names makes it slow
};

}  // namespace catmerge::io
