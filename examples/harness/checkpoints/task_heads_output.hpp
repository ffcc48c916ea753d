// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>
#include <catmerge/io/atomic_path.hpp>
#include <catmerge/io/safetensors_writer.hpp>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// The tensors of an expert that are its own (merge_policy::task_heads).
struct task_heads {
  std::string task;
  std::filesystem::path expert;  ///< for messages
  /// Names of the merged network, and the entries of the expert.
  std::vector<std::pair<std::string, const io::tensor_entry*>> tensors{};
  io::metadata_t metadata{};  ///< of the expert's file
};

/// Each expert's own tensors, bit for bit: TASK.safetensors in a folder.
class task_heads_output {
 public:
  /// Writes the tensors beside the target. Throws if an expert has none, or if a task's name is no
  /// file name.
  task_heads_output(const std::string& path, const std::vector<task_heads>& experts,
                    io::existing target)
      : folder_(path, target, is_head) {
    folder_.check_replaceable();
    for (const auto& expert : experts) {
      if (expert.task.front() == '.' || expert.task.find('/') != std::string::npos)
        throw error(path + ": the task '" + expert.task + "' cannot be the name of a file");
      if (expert.tensors.empty())
        throw error(expert.expert.string() + ": expert '" + expert.task +
                    "' has no tensor that --task-heads matches");
      std::vector<io::tensor_info> infos;
      for (const auto& [name, entry] : expert.tensors)
        infos.push_back({name, entry->type, entry->shape});
      io::safetensors_writer writer(folder_.partial() / (expert.task + ".safetensors"), infos,
                                    expert.metadata);
      for (const auto& [name, entry] : expert.tensors) writer.write(name, entry->bytes);
      writer.commit();
    }
  }

  void commit() { folder_.commit(); }

 private:
  static bool is_head(const std::filesystem::path& name) {
    return name.extension() == ".safetensors" && !name.has_parent_path();
  }

  io::atomic_folder folder_;
};

}  // namespace catmerge::harness
