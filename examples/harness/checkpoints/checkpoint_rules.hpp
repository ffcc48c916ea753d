// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/adapter_placement.hpp>
#include <catmerge/io/checkpoint.hpp>
#include <catmerge/model/networks.hpp>
#include <charconv>
#include <harness/checkpoints/model_type.hpp>
#include <harness/checkpoints/tensor_windows.hpp>
#include <harness/networks/convnet/convnet_rules.hpp>
#include <harness/system/option_error.hpp>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

/// The name rules of a checkpoint: those of its network, and --rule PATTERN=KIND.
namespace catmerge::harness {

/// The rules for a network of a model_type (empty: unknown): the library's, and this program's own.
inline model::name_rules rules_of(const std::string& model_type) {
  model::name_rules rules = model::rules_for(model_type);
  rules.append(small_convnet());
  return rules;
}

/// The same for a checkpoint's network.
inline model::name_rules rules_of(const io::checkpoint& weights) {
  return rules_of(model_type_of(weights));
}

/// How the rules say that a matrix of the base is stored; none if no rule about it was written
/// down. `rules` must outlive the result.
inline io::known_layout layout_by(const model::name_rules& rules) {
  return [&rules](std::string_view parameter) -> std::optional<bool> {
    const auto* const rule = rules.find(parameter);
    if (rule == nullptr || !is_matrix_kind(rule->kind)) return std::nullopt;
    return rule->layout == model::matrix_layout::in_out;
  };
}

/// PATTERN=KIND or PATTERN=KIND,WORD,...
class rule_words {
 public:
  /// Throws option_error for another form.
  static model::parameter_rule parse(const std::string& text) {
    using kind = model::parameter_kind;
    static const std::map<std::string_view, std::pair<kind, bool>> kinds = {
        {"linear", {kind::linear, true}},
        {"scale", {kind::scale, true}},
        {"shift", {kind::shift, true}},
        {"conv", {kind::conv, true}},
        {"tokens", {kind::token_table, false}},
        {"untrimmed", {kind::embedding, false}},
        {"average", {kind::running_statistics, false}},
        {"fixed", {kind::fixed, false}}};
    const auto equals = text.rfind('=');
    const std::string_view behind =
        equals == std::string::npos ? "" : std::string_view(text).substr(equals + 1);
    std::vector<std::string_view> words;
    for (std::size_t begin = 0; begin <= behind.size();) {
      const std::size_t end = std::min(behind.find(',', begin), behind.size());
      words.push_back(behind.substr(begin, end - begin));
      begin = end + 1;
    }
    const auto found = kinds.find(words.front());
    if (found == kinds.end())
      refuse("expected PATTERN=linear|conv|scale|shift|tokens|untrimmed|average|fixed, found '" +
             text + "'");
    model::parameter_rule rule;
    rule.pattern = text.substr(0, equals);
    std::tie(rule.kind, rule.trim) = found->second;
    for (std::size_t i = 1; i < words.size(); ++i) add_word(words[i], rule, text);
    return rule;
  }

 private:
  [[noreturn]] static void refuse(const std::string& why) { throw option_error("--rule", why); }

  static void add_word(std::string_view word, model::parameter_rule& rule,
                       const std::string& text) {
    using kind = model::parameter_kind;
    const bool is_matrix = rule.kind == kind::linear || rule.kind == kind::fused_linear;
    const bool is_vector = rule.kind == kind::scale || rule.kind == kind::shift;
    if (word == "in-out" && is_matrix) {
      rule.layout = model::matrix_layout::in_out;
    } else if (word == "stacked" && (is_matrix || is_vector)) {
      rule.stacked = true;
    } else if (const auto parts = parts_in(word);
               parts && (is_matrix || rule.kind == kind::shift)) {
      rule.parts = *parts;
      if (is_matrix) rule.kind = kind::fused_linear;
    } else {
      refuse("'" + text + "': '" + std::string(word) + "' does not go with '" +
             std::string(name_of(rule.kind)) +
             "'; linear takes in-out, stacked and 3-parts (or another number), shift stacked and "
             "3-parts, scale stacked");
    }
  }

  /// The number of "3-parts", from 2.
  static std::optional<int> parts_in(std::string_view word) {
    int parts = 0;
    const char* const end = word.data() + word.size();
    const auto [rest, problem] = std::from_chars(word.data(), end, parts);
    if (problem != std::errc() || std::string_view(rest, end) != "-parts" || parts < 2)
      return std::nullopt;
    return parts;
  }
};

/// Adds the rules of --rule, in their order. Throws option_error for other forms and malformed
/// patterns.
inline void add_rules(const std::vector<std::string>& texts, model::name_rules& rules) {
  for (const auto& text : texts)
    blaming("--rule", [&] { return rules.add(rule_words::parse(text)); });
}

}  // namespace catmerge::harness
