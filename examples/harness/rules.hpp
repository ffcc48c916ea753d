// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>
#include <catmerge/model/name_rules.hpp>
#include <map>
#include <string>
#include <utility>
#include <vector>

/// --rule PATTERN=KIND: what parameters of a name are.
namespace catmerge::harness {

inline model::parameter_rule parse_rule(const std::string& text) {
  using kind = model::parameter_kind;
  const auto equals = text.rfind('=');
  const std::string name = equals == std::string::npos ? "" : text.substr(equals + 1);
  const std::map<std::string, std::pair<kind, bool>> kinds = {
      {"linear", {kind::linear, true}},        {"scale", {kind::scale, true}},
      {"shift", {kind::shift, true}},          {"conv", {kind::conv, true}},
      {"untrimmed", {kind::embedding, false}}, {"fixed", {kind::fixed, false}}};
  const auto found = kinds.find(name);
  if (found == kinds.end())
    throw CLI::ValidationError(
        "--rule", "expected PATTERN=linear|conv|scale|shift|untrimmed|fixed, found '" + text + "'");
  model::parameter_rule rule;
  rule.pattern = text.substr(0, equals);
  rule.kind = found->second.first;
  rule.trim = found->second.second;
  return rule;
}

inline void add_rules(const std::vector<std::string>& given, model::name_rules& rules) {
  for (const auto& text : given) {
    const auto rule = parse_rule(text);
    try {
      rules.add(rule);
    } catch (const error& problem) {  // a malformed pattern
      throw CLI::ValidationError("--rule", problem.what());
    }
  }
}

inline void add_rule_option(CLI::App& command, std::vector<std::string>& given) {
  command
      .add_option("--rule", given,
                  "What parameters of a name are, where the built-in rules do not know: "
                  "PATTERN=linear, conv, "
                  "scale, shift, untrimmed or fixed; the last that matches decides")
      ->type_name("PATTERN=KIND")
      ->expected(1)
      ->take_all();
}

}  // namespace catmerge::harness
