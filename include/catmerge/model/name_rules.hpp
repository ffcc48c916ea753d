// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>
#include <catmerge/io/tensor_entry.hpp>
#include <catmerge/model/glob.hpp>
#include <catmerge/model/kinds.hpp>
#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace catmerge::model {

/// What parameters of certain names are.
struct parameter_rule {
  std::string pattern;                           ///< of whole names, see glob
  parameter_kind kind = parameter_kind::linear;  ///< what they are
  bool trim = true;                              ///< false: summed as in Task Arithmetic
  matrix_layout layout = matrix_layout::out_in;  ///< of matrices
  int parts = 1;  ///< fused_linear: at least 2; shift: those of its weight; else 1
  /// Modules with the same parent that this rule matches get the same input: with the pattern
  /// "*.self_attn.{q,k,v}_proj.weight", the three weights of each self_attn.
  bool siblings_share_input = false;
};

/// Parameters that share their input, so that one set of statistics serves them all.
struct parameter_group {
  std::vector<std::string> names;  ///< at least one
};

/// An ordered list of rules, of which the *last* that matches a name decides: what a user adds
/// overrides what came before, as in .gitignore.
///
/// @code
/// auto rules = catmerge::model::known_networks();
/// rules.add({.pattern = "*visual_projection.weight"});  // linear, and trimmed, too
/// rules.add({.pattern = "*.layers.0.*", .kind = parameter_kind::fixed});  // as in the base
/// @endcode
class name_rules {
 public:
  name_rules() = default;
  /// Adds each in turn, so that later ones override earlier ones. Throws error as add does.
  explicit name_rules(const std::vector<parameter_rule>& rules) {
    for (const parameter_rule& rule : rules) add(rule);
  }

  /// Throws error for a malformed pattern, for `unknown`, and for parts that do not fit the kind.
  void add(parameter_rule rule) {
    const bool fused = rule.kind == parameter_kind::fused_linear;
    const bool may_have_parts = fused || rule.kind == parameter_kind::shift;
    if (rule.kind == parameter_kind::unknown || rule.parts < (fused ? 2 : 1) ||
        (rule.parts > 1 && !may_have_parts)) {
      throw error("rule '" + rule.pattern + "': a parameter of kind " +
                  std::string(name_of(rule.kind)) + " cannot have " + std::to_string(rule.parts) +
                  " parts");
    }
    glob pattern(rule.pattern);
    rules_.push_back({std::move(rule), std::move(pattern)});
  }

  /// Adds all of another list, after those that are here.
  void append(name_rules others) {
    for (compiled_rule& rule : others.rules_) rules_.push_back(std::move(rule));
  }

  /// The rule that decides about a name, or null.
  const parameter_rule* find(std::string_view name) const {
    for (std::size_t i = rules_.size(); i-- > 0;) {
      if (rules_[i].pattern.matches(name)) return &rules_[i].rule;
    }
    return nullptr;
  }

  /// What a parameter is. Whatever the rules say, integers, booleans and other types that are not
  /// arithmetic on weights are fixed. Throws error, naming the tensor and the rule, if its shape
  /// does not fit the kind: linear 2 extents, conv 3 or more, scale and shift 1, d_out divisible by
  /// the parts.
  classification classify(const io::tensor_info& info) const {
    if (!io::scalar_of(info.type)) return {parameter_kind::fixed};
    const parameter_rule* const rule = find(info.name);
    if (rule == nullptr) return {};
    check_shape(*rule, info);
    const bool trim = rule->trim && rule->kind != parameter_kind::fixed;
    return {rule->kind, trim, rule->layout, rule->parts};
  }

  /// Partitions names into groups that share an input, each in the order of `names`, the groups in
  /// the order of their first members.
  std::vector<parameter_group> groups(const std::vector<std::string>& names) const {
    std::vector<parameter_group> result;
    std::map<std::pair<const parameter_rule*, std::string_view>, std::size_t> group_of;
    for (const std::string& name : names) {
      const parameter_rule* const rule = find(name);
      if (rule != nullptr && rule->siblings_share_input) {
        const auto [found, is_new] =
            group_of.emplace(std::pair(rule, parent_of_module(name)), result.size());
        if (!is_new) {
          result[found->second].names.push_back(name);
          continue;
        }
      }
      result.push_back({{name}});
    }
    return result;
  }

 private:
  struct compiled_rule {
    parameter_rule rule;
    glob pattern;
  };

  /// "a.b" for "a.b.q_proj.weight".
  static std::string_view parent_of_module(std::string_view name) {
    for (int level = 0; level < 2; ++level) {
      const std::size_t dot = name.rfind('.');
      name = dot == std::string_view::npos ? std::string_view() : name.substr(0, dot);
    }
    return name;
  }

  static void check_shape(const parameter_rule& rule, const io::tensor_info& info) {
    const std::size_t rank = info.shape.size();
    const auto expect = [&](bool good, const std::string& what) {
      if (good) return;
      throw error("tensor " + io::in_quotes(info.name) + ": expected " + what +
                  " for what the rule '" + rule.pattern + "' calls " +
                  std::string(name_of(rule.kind)) + ", found " + io::describe(info));
    };
    switch (rule.kind) {
      case parameter_kind::linear:
      case parameter_kind::fused_linear: expect(rank == 2, "two extents"); break;
      case parameter_kind::conv: expect(rank >= 3, "three extents or more"); break;
      case parameter_kind::scale:
      case parameter_kind::shift: expect(rank == 1, "one extent"); break;
      case parameter_kind::embedding:
      case parameter_kind::fixed:
      case parameter_kind::unknown: return;
    }
    const bool columns = rank == 2 && rule.layout == matrix_layout::in_out;
    expect(info.shape[columns ? 1 : 0] % rule.parts == 0,
           "an output extent divisible by " + std::to_string(rule.parts));
  }

  std::vector<compiled_rule> rules_;
};

}  // namespace catmerge::model
