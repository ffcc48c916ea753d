// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/checkpoint.hpp>
#include <catmerge/io/npy.hpp>
#include <catmerge/io/safetensors_writer.hpp>
#include <catmerge/io/tensor_sink.hpp>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace catmerge::io {

/// The format to write: a safetensors file if the name ends in .safetensors, else the base's own.
inline checkpoint_format output_format(const std::filesystem::path& output,
                                       checkpoint_format base) {
  return output.extension() == ".safetensors" ? checkpoint_format::safetensors_file : base;
}

/// Writes a checkpoint in any of the formats. A file replaces the one that had its name; a folder
/// is built beside its target, which must not exist, and renamed. See tensor_sink.
class checkpoint_writer final : public tensor_sink {
 public:
  /// What is written beside the tensors, and how.
  struct options {
    checkpoint_format format = checkpoint_format::safetensors_file;  ///< see output_format
    metadata_t metadata = {};  ///< .npy files have no place for it
    /// Copied as config.json into an output that is a folder.
    std::optional<std::filesystem::path> config = std::nullopt;
  };

  /// Throws error if the output cannot be made or cannot hold the tensors.
  checkpoint_writer(const std::filesystem::path& path, std::vector<tensor_info> tensors,
                    const options& how) {
    std::filesystem::path inside;
    switch (how.format) {
      case checkpoint_format::safetensors_file:
        sink_ = std::make_unique<safetensors_writer>(path, std::move(tensors), how.metadata);
        return;
      case checkpoint_format::npy_folder: {
        auto arrays = std::make_unique<npy_folder_writer>(path, std::move(tensors));
        inside = arrays->partial();
        sink_ = std::move(arrays);
        break;
      }
      case checkpoint_format::hugging_face_folder:
        folder_ = std::make_unique<atomic_folder>(path);
        inside = folder_->partial();
        sink_ = std::make_unique<safetensors_writer>(inside / "model.safetensors",
                                                     std::move(tensors), how.metadata);
        break;
    }
    if (how.config) {
      const mapped_file config(*how.config);
      output_file copy(inside / "config.json", path / "config.json");
      copy.write_at(0, config.bytes());
      copy.close();
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
  std::unique_ptr<atomic_folder> folder_;  // around sink_, where that writes a file in a folder
  std::unique_ptr<tensor_sink> sink_;
};

}  // namespace catmerge::io
