// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <harness/checkpoints/renames.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The differences of an expert from the base.
struct expert_differences {
  std::vector<std::string> missing;  ///< names that only the base has
  std::vector<std::string> extra;    ///< names that only the expert has
  std::vector<std::string> others;   ///< shapes and types, as sentences
  std::vector<std::string> copied;   ///< tensors that would be copied from the base although the
                                     ///< values differ

  /// Throws an error with names of both sides and with the rename rule that explains them, if there
  /// is one. expert: "PATH: expert 'TASK'".
  void require_none(const std::string& expert, const std::string& task,
                    const std::string& base) const {
    const std::size_t count = missing.size() + extra.size() + others.size();
    if (count > 0)
      throw error(expert + " does not fit the base " + base + ": " + std::to_string(count) +
                  (count == 1 ? " difference:" : " differences:") + examples() + adapter() +
                  renaming(task) +
                  "\n(--rename, --drop, --exclude, --task-heads, --missing and --resized say "
                  "how to merge it)");
    if (copied.empty()) return;
    std::string list;
    for (std::size_t i = 0; i < std::min(most, copied.size()); ++i) list += "\n  " + copied[i];
    throw error(expert + ": " + std::to_string(copied.size()) +
                (copied.size() == 1 ? " tensor holds" : " tensors hold") +
                " no floating-point weights, so that the base's would be copied, and differs from "
                "the base " +
                base + ":" + list + (copied.size() > most ? "\n  ..." : "") +
                "\n(--exclude NAME, or --rule 'NAME=fixed', takes the base's on purpose)");
  }

 private:
  static constexpr std::size_t most = 10;

  /// Up to ten differences; each kind gets at least a third.
  std::string examples() const {
    std::string list;
    const std::size_t kinds =
        (missing.empty() ? 0U : 1U) + (extra.empty() ? 0U : 1U) + (others.empty() ? 0U : 1U);
    const std::size_t each = kinds == 1 ? most : most / kinds;
    const auto add = [&](const std::vector<std::string>& names, const char* begin,
                         const char* end) {
      for (std::size_t i = 0; i < std::min(each, names.size()); ++i)
        list += std::string("\n  ") + begin + names[i] + end;
      if (names.size() > each) list += "\n  ... (" + std::to_string(names.size() - each) + " more)";
    };
    add(others, "", "");
    add(missing, "'", "' is missing");
    add(extra, "'", "' is not in the base");
    return list;
  }

  /// A sentence about the LoRA adapter in an expert; empty without one.
  std::string adapter() const {
    for (const auto& name : extra)
      if (name.find(".lora_A.") != std::string::npos || name.find(".lora_B.") != std::string::npos)
        return "\nThe expert holds the factors of a LoRA adapter: name the folder that holds its "
               "adapter_config.json, too";
    return {};
  }

  std::string renaming(const std::string& task) const {
    const auto found = suggest_renames(missing, extra);
    if (!found) return {};
    std::string options;
    for (const auto& rule : found->rules) options += " --rename '" + task + ":" + rule.text() + "'";
    const std::string how_many =
        found->explained == missing.size()
            ? (missing.size() == 1 ? std::string("The missing name is")
                                   : "All " + std::to_string(missing.size()) + " missing names are")
            : std::to_string(found->explained) + " of " + std::to_string(missing.size()) +
                  " missing names are";
    return "\n" + how_many + " there under names that differ by a rule:" + options;
  }
};

}  // namespace catmerge::harness
