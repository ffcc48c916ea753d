// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <filesystem>
#include <harness/methods/importance_kind.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// One task of a family, by its files.
struct family_task {
  std::string name, expert, head, samples, validation, test;
  std::string fisher, sensitivity;  ///< empty if there are none

  /// The file of importances of a kind other than none; empty if there is none.
  const std::string& importance(importance_kind kind) const {
    return kind == importance_kind::fisher ? fisher : sensitivity;
  }
};

/// A folder of a base, its experts, and the data to calibrate, choose and measure merges:
///
///     base/                               a checkpoint with its configuration
///     experts/TASK.safetensors            or a folder TASK
///     heads/TASK.safetensors              or in the expert
///     samples/, validation/, test/TASK.safetensors
///     fisher/, sensitivity/TASK.safetensors    for the methods that use them; may be absent
struct family {
  /// Throws catmerge::error if a file is missing. Sorts the tasks by their names.
  explicit family(const std::string& folder) {
    namespace fs = std::filesystem;
    const fs::path root(folder);
    const auto must = [](const fs::path& path) {
      if (!fs::exists(path)) throw error(path.string() + ": is missing: a family needs it");
      return path.string();
    };
    const auto may = [](const fs::path& path) {
      return fs::exists(path) ? path.string() : std::string();
    };
    base = must(root / "base");
    config = may(root / "base" / "config.json");
    for (const auto& entry : fs::directory_iterator(must(root / "experts"))) {
      const bool file = entry.path().extension() == ".safetensors";
      if (!file && !entry.is_directory()) continue;
      family_task t;
      t.name = (file ? entry.path().stem() : entry.path().filename()).string();
      t.expert = entry.path().string();
      const std::string data = t.name + ".safetensors";
      t.head = may(root / "heads" / data);
      if (t.head.empty()) t.head = t.expert;
      t.samples = must(root / "samples" / data);
      t.validation = must(root / "validation" / data);
      t.test = must(root / "test" / data);
      t.fisher = may(root / "fisher" / data);
      t.sensitivity = may(root / "sensitivity" / data);
      tasks.push_back(std::move(t));
    }
    if (tasks.size() < 2)
      throw error(folder + ": expected at least two experts in experts/, found " +
                  std::to_string(tasks.size()));
    std::sort(tasks.begin(), tasks.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    // The name of vision/family is vision.
    const fs::path place = fs::weakly_canonical(root);
    name = (place.filename() == "family" ? place.parent_path() : place).filename().string();
  }

  /// True if every task has a file of importances of this kind.
  bool has(importance_kind kind) const {
    return std::all_of(tasks.begin(), tasks.end(),
                       [kind](const auto& t) { return !t.importance(kind).empty(); });
  }

  std::string name, base, config;
  std::vector<family_task> tasks;
};

}  // namespace catmerge::harness
