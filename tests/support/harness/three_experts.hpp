// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "support/harness/program.hpp"

namespace harness_test {

/// A folder with a base, an expert and samples for each of three tasks, and the program's arguments
/// for them.
class three_experts {
 public:
  fs::path file(const std::string& name) const { return folder_.path() / name; }
  fs::path base() const { return file("base"); }
  fs::path expert(const std::string& task) const { return file("expert_" + task + ".safetensors"); }
  fs::path samples(const std::string& task) const {
    return file("samples_" + task + ".safetensors");
  }

  arguments merge(const std::string& output) const {
    arguments list = {"merge", "--base", base(), "--output", file(output)};
    for (const auto& task : task_names)
      list = list + arguments{"--expert", task + "=" + expert(task).string()};
    return list;
  }
  arguments with_samples() const {
    arguments list;
    for (const auto& task : task_names)
      list = list + arguments{"--samples", task + "=" + samples(task).string()};
    return list;
  }

  /// Records each expert's features of its samples. Returns the options that hand them to a merge.
  arguments recorded_features(warning expected = warning::none) const {
    arguments list;
    for (const auto& task : task_names) {
      const fs::path to = file("features_" + task + ".safetensors");
      run_well({"features", "--model", expert(task), "--config", base() / "config.json",
                "--samples", samples(task), "--output", to},
               expected);
      list = list + arguments{"--features", task + "=" + to.string()};
    }
    return list;
  }

 protected:
  /// Copies a fixture's network as the base.
  void copy_base(const fs::path& source) const {
    fs::create_directory(base());
    fs::copy_file(source / "config.json", base() / "config.json");
    table(source / "model.safetensors").write(base() / "model.safetensors");
  }

 private:
  temporary_folder folder_;
};

}  // namespace harness_test
