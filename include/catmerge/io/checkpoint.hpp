// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/npy.hpp>
#include <catmerge/io/safetensors.hpp>
#include <catmerge/io/shard_index.hpp>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace catmerge::io {

/// How a table of named tensors lies on the disk.
enum class checkpoint_format {
  safetensors_file,     ///< one file
  npy_folder,           ///< NAME.npy for each tensor
  hugging_face_folder,  ///< model.safetensors (or shards and their index), config.json and more
};

/// Named tensors on the disk, whatever the format: a safetensors file; a Hugging Face folder, which
/// holds model.safetensors, or model.safetensors.index.json and its shards, usually with
/// config.json beside; or a folder of .npy files, one for each tensor. Nothing is read but headers
/// until a tensor's bytes are touched. Reading is thread-safe.
///
///     const catmerge::io::checkpoint base("clip-vit-base-patch32");
///     for (const std::string& name : base.names()) use(base.at(name).bytes), base.release(name);
///
/// Entries stay valid while the object lives, also after it is moved.
class checkpoint {
 public:
  /// Throws error, naming the file and the tensor, if there is no checkpoint, if a file breaks its
  /// format, or if index and shards disagree.
  explicit checkpoint(std::filesystem::path path) : path_(std::move(path)) {
    namespace fs = std::filesystem;
    std::error_code ignored;
    if (!fs::is_directory(path_, ignored)) {
      format_ = checkpoint_format::safetensors_file;
      files_.emplace_back(path_);
    } else if (fs::exists(path_ / "model.safetensors", ignored)) {
      format_ = checkpoint_format::hugging_face_folder;
      files_.emplace_back(path_ / "model.safetensors");
    } else if (fs::exists(path_ / "model.safetensors.index.json", ignored)) {
      format_ = checkpoint_format::hugging_face_folder;
      open_shards(path_ / "model.safetensors.index.json");
    } else {
      format_ = checkpoint_format::npy_folder;
      open_arrays();
    }
    for (const safetensors_file& file : files_) {
      for (const tensor_entry& entry : file.entries()) add(entry, &file.mapping());
      metadata_.insert(file.metadata().begin(), file.metadata().end());
    }
    for (const npy_file& file : arrays_) {
      add(file.entry(), file.is_copy() ? nullptr : &file.mapping());
    }
  }

  checkpoint(checkpoint&&) = default;             ///< Entries stay valid.
  checkpoint& operator=(checkpoint&&) = default;  ///< Entries of the right-hand side stay valid.

  /// The file or folder that it was opened by.
  const std::filesystem::path& path() const { return path_; }
  /// What was found there.
  checkpoint_format format() const { return format_; }

  /// Of all tensors: in the order of the file, or of the shards' names; .npy files by name.
  const std::vector<std::string>& names() const { return names_; }
  /// How many tensors there are.
  std::size_t size() const { return names_.size(); }

  /// The tensor of that name, or null.
  const tensor_entry* find(std::string_view name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : found->second.entry;
  }
  /// The tensor of that name. Throws error if there is none.
  const tensor_entry& at(std::string_view name) const {
    const tensor_entry* const entry = find(name);
    if (entry == nullptr) fail(path_, name, "is not in the checkpoint");
    return *entry;
  }

  /// Of all files together; where shards disagree on a key, the first one counts.
  const metadata_t& metadata() const { return metadata_; }

  /// config.json in the folder, if the checkpoint is a folder and has one.
  std::optional<std::filesystem::path> config() const {
    std::error_code ignored;
    const std::filesystem::path config = path_ / "config.json";
    if (format_ == checkpoint_format::safetensors_file ||
        !std::filesystem::is_regular_file(config, ignored)) {
      return std::nullopt;
    }
    return config;
  }

  /// As mapped_file::release, for a tensor or a part of its bytes. A name that is not there is
  /// passed over, and so is a tensor that lies in memory (see npy_file).
  void release(std::string_view name) const {
    if (const mapping found = mapping_of(name); found.file) found.file->release(found.entry->bytes);
  }
  /// The same for `part` of the tensor's bytes.
  void release(std::string_view name, std::span<const std::byte> part) const {
    if (const mapping found = mapping_of(name); found.file) found.file->release(part);
  }
  /// As mapped_file::prefetch, for a tensor; what release passes over is passed over.
  void prefetch(std::string_view name) const {
    if (const mapping found = mapping_of(name); found.file) {
      found.file->prefetch(found.entry->bytes);
    }
  }
  /// The same for `part` of the tensor's bytes.
  void prefetch(std::string_view name, std::span<const std::byte> part) const {
    if (const mapping found = mapping_of(name); found.file) found.file->prefetch(part);
  }

 private:
  struct mapping {
    const tensor_entry* entry = nullptr;
    const mapped_file* file = nullptr;  // null if the bytes are not mapped
  };

  mapping mapping_of(std::string_view name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? mapping{} : found->second;
  }

  void add(const tensor_entry& entry, const mapped_file* file) {
    if (!tensors_.emplace(entry.name, mapping{&entry, file}).second) {
      fail(path_, entry.name, "stands in more than one file");
    }
    names_.push_back(entry.name);
  }

  void open_shards(const std::filesystem::path& index_path) {
    const shard_index index = read_shard_index(index_path);
    for (const std::string& file_name : index.files) {
      const safetensors_file& shard = files_.emplace_back(path_ / file_name);
      for (const tensor_entry& entry : shard.entries()) {
        const auto listed = index.file_of.find(entry.name);
        if (listed == index.file_of.end() || listed->second != file_name) {
          fail(shard.path(), entry.name, "the index does not list it for this file");
        }
      }
      for (const auto& [name, listed_file] : index.file_of) {
        if (listed_file == file_name && shard.find(name) == nullptr) {
          fail(shard.path(), name, "is not in the file, where the index says it is");
        }
      }
    }
  }

  void open_arrays() {
    std::vector<std::filesystem::path> found;
    std::error_code problem;
    for (std::filesystem::directory_iterator it(path_, problem), end; !problem && it != end;
         it.increment(problem)) {
      const std::filesystem::path& file = it->path();
      if (file.extension() == ".npy" && file.filename().native().front() != '.') {
        found.push_back(file);
      }
    }
    if (problem) fail(path_, "cannot list the folder: " + problem.message());
    if (found.empty()) {
      fail(path_,
           "no checkpoint in this folder: expected model.safetensors, "
           "model.safetensors.index.json or .npy files" +
               std::string(std::filesystem::exists(path_ / "pytorch_model.bin", problem)
                               ? " (examples/export turns pytorch_model.bin into safetensors)"
                               : ""));
    }
    std::sort(found.begin(), found.end());
    for (const std::filesystem::path& file : found)
      arrays_.emplace_back(file, file.stem().string());
  }

  std::filesystem::path path_;
  checkpoint_format format_ = checkpoint_format::safetensors_file;
  std::vector<safetensors_file> files_;
  std::vector<npy_file> arrays_;
  metadata_t metadata_;
  std::vector<std::string> names_;
  std::unordered_map<std::string_view, mapping> tensors_;  // points into files_ and arrays_
};

}  // namespace catmerge::io
