// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>
#include <catmerge/io/tensor_entry.hpp>
#include <catmerge/model/general_rules.hpp>
#include <catmerge/model/glob.hpp>
#include <catmerge/model/kinds.hpp>
#include <catmerge/model/parameter_rule.hpp>
#include <catmerge/model/pattern_index.hpp>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace catmerge::model {

/// Parameters with the same input: one set of statistics serves them all.
struct shared_input {
  std::vector<std::string> names;  ///< at least one
};

/// An ordered list of rules. The *last* rule that matches a name decides, as in .gitignore: a
/// user's rules override the earlier ones.
///
/// @code
/// auto rules = catmerge::model::known_networks();
/// rules.add({.pattern = "*visual_projection.weight"});  // linear, and trimmed, too
/// rules.add({.pattern = "*.layers.0.*", .kind = parameter_kind::fixed});  // as in the base
/// @endcode
class name_rules {
 public:
  name_rules() = default;
  /// Adds each in turn: later ones override earlier ones. Throws error as add does.
  explicit name_rules(const std::vector<parameter_rule>& rules) {
    for (const parameter_rule& rule : rules) add(rule);
  }

  /// Throws error for a malformed pattern, for the kinds `unknown` and `packed`, and for parts and
  /// stacks that do not fit the kind.
  void add(parameter_rule rule) {
    check(rule);
    patterns_.add(glob(rule.pattern));
    rules_.push_back(std::move(rule));
  }

  /// Adds all rules of another list after the present ones.
  void append(const name_rules& others) {
    const std::vector<parameter_rule> added = others.rules_;  // `others` may be *this
    for (const parameter_rule& rule : added) add(rule);
    general_ = general_ || others.general_;
  }

  /// Applies the general rule to names that no rule matches.
  void use_general_rule() { general_ = true; }

  /// The rule that decides for a name, or null.
  const parameter_rule* find(std::string_view name) const {
    return find_if(name, [](const parameter_rule&) { return true; });
  }

  /// Classifies a parameter. Types without arithmetic on weights (integers, booleans, 8-bit floats)
  /// are `fixed` if the rule says so, else `packed`. Throws error, naming the tensor and the rule,
  /// if the shape does not fit a user's rule: linear and token table 2 extents, conv 3 or more,
  /// scale and shift 1, one more for stacks, d_out divisible by the parts.
  classification classify(const io::tensor_info& info) const {
    const bool computable = io::scalar_of(info.type).has_value();
    const parameter_rule* const rule = find_if(info.name, [&](const parameter_rule& r) {
      return r.source != rule_source::network || !computable || !misfit(r, info.shape);
    });
    std::optional<parameter_rule> general;
    if (rule == nullptr && general_) general = general_rules::find(info);
    const parameter_rule* const found = general ? &*general : rule;
    if (!computable) {
      if (found == nullptr) return {parameter_kind::packed};
      const bool fixed = found->kind == parameter_kind::fixed;
      return as(*found, fixed ? parameter_kind::fixed : parameter_kind::packed);
    }
    if (found == nullptr) return {};
    if (const auto expected = misfit(*found, info.shape)) {
      throw error("tensor " + io::in_quotes(info.name) + ": expected " + *expected +
                  ", since the rule '" + found->pattern + "' calls it " +
                  std::string(name_of(found->kind)) + ", found " + io::describe(info));
    }
    return as(*found, found->kind);
  }

  /// Partitions names into groups that share an input. Each group keeps the order of `names`;
  /// groups are ordered by their first members.
  std::vector<shared_input> groups(const std::vector<std::string>& names) const {
    std::vector<shared_input> result;
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
  /// "a.b" for "a.b.q_proj.weight".
  static std::string_view parent_of_module(std::string_view name) {
    for (int level = 0; level < 2; ++level) {
      const std::size_t dot = name.rfind('.');
      name = dot == std::string_view::npos ? std::string_view() : name.substr(0, dot);
    }
    return name;
  }

  static void check(const parameter_rule& rule) {
    const auto refuse = [&](const std::string& what) {
      throw error("rule '" + rule.pattern + "': a parameter of kind " +
                  std::string(name_of(rule.kind)) + " cannot " + what);
    };
    using kind = parameter_kind;
    const bool fused = rule.kind == kind::fused_linear;
    const bool vector = rule.kind == kind::scale || rule.kind == kind::shift;
    const bool may_have_parts = fused || rule.kind == kind::shift;
    if (rule.kind == kind::unknown || rule.kind == kind::packed) refuse("be chosen by a rule");
    if (rule.parts < (fused ? 2 : 1) || (rule.parts > 1 && !may_have_parts))
      refuse("have " + std::to_string(rule.parts) + " parts");
    if (rule.stacked && !fused && !vector && rule.kind != kind::linear) refuse("be stacked");
  }

  /// The last rule that matches the name and passes `accept`, or null.
  template <class Accept>
  const parameter_rule* find_if(std::string_view name, const Accept& accept) const {
    const std::size_t found =
        patterns_.find_last(name, [&](std::size_t i) { return accept(rules_[i]); });
    return found == pattern_index::none ? nullptr : &rules_[found];
  }

  static classification as(const parameter_rule& rule, parameter_kind kind) {
    const bool copied = kind == parameter_kind::fixed || kind == parameter_kind::packed ||
                        kind == parameter_kind::running_statistics;
    return {kind,         rule.trim && !copied, rule.layout, rule.parts,
            rule.stacked, rule.source,          rule.pattern};
  }

  /// The shape that the rule expects; none if the shape fits.
  static std::optional<std::string> misfit(const parameter_rule& rule, const io::shape_t& shape) {
    const std::size_t rank = shape.size();
    const bool vector = rule.kind == parameter_kind::scale || rule.kind == parameter_kind::shift;
    switch (rule.kind) {
      case parameter_kind::linear:
      case parameter_kind::fused_linear:
        if (rule.stacked && rank != 3) return "three extents (a stack of matrices)";
        if (!rule.stacked && rank == 3) return "two extents (mark a stack of them as stacked)";
        if (!rule.stacked && rank != 2) return "two extents";
        break;
      case parameter_kind::conv:
        if (rank < 3) return "three extents or more";
        break;
      case parameter_kind::scale:
      case parameter_kind::shift:
        if (rule.stacked && rank != 2) return "two extents (a stack of vectors)";
        if (!rule.stacked && rank != 1) return "one extent";
        break;
      case parameter_kind::token_table:
        if (rank != 2) return "two extents";
        break;
      case parameter_kind::embedding:
      case parameter_kind::running_statistics:
      case parameter_kind::fixed:
      case parameter_kind::packed:
      case parameter_kind::unknown: return std::nullopt;
    }
    const bool columns = !vector && rule.layout == matrix_layout::in_out;
    const std::size_t axis = (rule.stacked ? 1 : 0) + (columns ? 1 : 0);
    if (rule.square_parts && shape[axis] != rule.parts * shape[columns ? axis - 1 : axis + 1])
      return std::to_string(rule.parts) + " parts of d_in x d_in";
    if (shape[axis] % rule.parts == 0) return std::nullopt;
    return "an output extent divisible by " + std::to_string(rule.parts);
  }

  std::vector<parameter_rule> rules_;
  pattern_index patterns_;  // of rules_
  bool general_ = false;
};

/// The rules of a known network. They are skipped for shapes that they do not fit.
inline name_rules network_rules(std::vector<parameter_rule> rules) {
  for (parameter_rule& rule : rules) rule.source = rule_source::network;
  return name_rules(rules);
}

}  // namespace catmerge::model
