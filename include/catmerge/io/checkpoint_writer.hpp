// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/checkpoint.hpp>
#include <catmerge/io/npy.hpp>
#include <catmerge/io/safetensors_writer.hpp>
#include <catmerge/io/sharded_writer.hpp>
#include <catmerge/io/side_files.hpp>
#include <catmerge/io/tensor_sink.hpp>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace catmerge::io {

/// The format to write: a safetensors file if the name ends in .safetensors, else the base's
/// format.
inline checkpoint_format output_format(const std::filesystem::path& output,
                                       checkpoint_format base) {
  return output.extension() == ".safetensors" ? checkpoint_format::safetensors_file : base;
}

/// Writes a checkpoint in any of the formats. The file or folder is built beside its target and
/// renamed. See tensor_sink.
class checkpoint_writer final : public tensor_sink {
 public:
  /// The format, the files beside the tensors, and their limits.
  struct options {
    checkpoint_format format = checkpoint_format::safetensors_file;  ///< see output_format
    metadata_t metadata = {};                                        ///< not written to .npy files
    std::vector<side_file> beside = {};  ///< written if the output is a folder
    std::uint64_t most_in_shard = 0;     ///< bytes, in a Hugging Face folder; 0: one file
    /// The treatment of a target that exists. A folder is replaced only if nothing but weights is
    /// lost: see atomic_folder.
    existing target = existing::refuse;
  };

  /// Throws error if the output cannot be made or cannot hold the tensors.
  checkpoint_writer(const std::filesystem::path& path, std::vector<tensor_info> tensors,
                    const options& how) {
    if (how.format == checkpoint_format::safetensors_file) {
      sink_ =
          std::make_unique<safetensors_writer>(path, std::move(tensors), how.metadata, how.target);
      return;
    }
    if (how.format == checkpoint_format::npy_folder) {
      auto arrays = std::make_unique<npy_folder_writer>(path, std::move(tensors), how.target);
      write_side_files(how.beside, arrays->folder().partial(), path);
      arrays->folder().check_replaceable();
      sink_ = std::move(arrays);
    } else {
      folder_ = std::make_unique<atomic_folder>(path, how.target, is_shard);
      write_side_files(how.beside, folder_->partial(), path);
      folder_->check_replaceable();
      sink_ = std::make_unique<sharded_writer>(folder_->partial(), std::move(tensors), how.metadata,
                                               how.most_in_shard, folder_->path());
    }
  }

  void append(std::string_view name, std::span<const std::byte> bytes) override {
    sink_->append(name, bytes);
  }
  void write(std::string_view name, std::span<const std::byte> bytes) override {
    sink_->write(name, bytes);
  }
  void commit() override {
    sink_->commit();
    if (folder_) folder_->commit();
  }

 private:
  /// True for the names of sharded_writer: model.safetensors, model-00001-of-00002.safetensors,
  /// their index.
  static bool is_shard(const std::filesystem::path& name) {
    const std::string text = name.string();
    return text == "model.safetensors.index.json" ||
           (text.starts_with("model") && !name.has_parent_path() &&
            name.extension() == ".safetensors");
  }

  std::unique_ptr<atomic_folder> folder_;  // around sink_, if that writes files in a folder
  std::unique_ptr<tensor_sink> sink_;
};

}  // namespace catmerge::io
