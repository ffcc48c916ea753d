// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/glob.hpp>
#include <harness/checkpoints/renames.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// The treatment of tensors that some checkpoints lack or that are not to be merged.
namespace catmerge::harness {

/// Name patterns of one command-line option.
class name_patterns {
 public:
  name_patterns() = default;
  /// Throws an error naming the option for a malformed pattern.
  name_patterns(std::string option, const std::vector<std::string>& patterns)
      : option_(std::move(option)) {
    for (const auto& pattern : patterns) {
      try {
        globs_.emplace_back(pattern);
      } catch (const error& problem) {
        throw error(option_ + ": " + problem.what());
      }
    }
  }

  bool empty() const { return globs_.empty(); }

  bool match(std::string_view name) const {
    for (const auto& glob : globs_)
      if (glob.matches(name)) return true;
    return false;
  }

  /// Throws if a pattern matches none of the names: a mistyped pattern would silently merge the
  /// tensors that it means to leave out.
  void require_use(const std::vector<std::string>& names) const {
    for (const auto& glob : globs_) {
      bool used = false;
      for (const auto& name : names) used = used || glob.matches(name);
      if (!used) throw error(option_ + ": no tensor's name matches '" + glob.pattern() + "'");
    }
  }

 private:
  std::string option_;
  std::vector<model::glob> globs_;
};

/// The tables that come in pieces of rows if they are large.
enum class tables_in_pieces : unsigned char {
  none,    ///< a method needs all of them whole
  tokens,  ///< tables of tokens: a method merges the others as matrices
  all      ///< all
};

/// By default base and experts hold the same names in the same shapes, and all are merged.
struct merge_policy {
  name_patterns include;             ///< if any: all other tensors are the base's, bit for bit
  name_patterns exclude;             ///< the base's, bit for bit
  name_patterns drop;                ///< left out: neither compared nor written
  name_patterns task_heads;          ///< each expert's own: not merged, written to a file per task
  name_patterns resized;             ///< tables of different heights: the common rows are merged
  std::vector<rename_rule> renames;  ///< names of experts that differ in the base
  bool contradictions_pass = false;  ///< configurations and tokens that differ only cause a warning
  bool base_for_missing = false;     ///< tensors that an expert lacks are the base's
  tables_in_pieces pieces = tables_in_pieces::all;

  /// True if a tensor is not in the merged network.
  bool left_out(std::string_view name) const { return drop.match(name) || task_heads.match(name); }

  /// True if a tensor is merged, its kind permitting.
  bool merged(std::string_view name) const {
    return (include.empty() || include.match(name)) && !exclude.match(name);
  }
};

}  // namespace catmerge::harness
