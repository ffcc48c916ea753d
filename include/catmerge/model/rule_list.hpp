// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/name_rules.hpp>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::model {

/// Builds the rules of a network by module. A module, after any prefix, has a weight and a bias.
///
/// @code
/// rule_list r;
/// r.shared_linear("layers.*.self_attn.{q,k,v}_proj");  // ....weight linear, ....bias shift
/// r.norm("layers.*.input_layernorm");                   // ....weight scale, ....bias shift
/// return r.rules();
/// @endcode
class rule_list {
 public:
  /// Linear weights, d_out x d_in as in nn.Linear unless `layout` says otherwise.
  void linear(const std::string& module, matrix_layout layout = matrix_layout::out_in) {
    add(module + ".weight", {.layout = layout});
    add(module + ".bias", {.kind = parameter_kind::shift});
  }

  /// Linear weights of modules that have the same input if they have the same parent.
  void shared_linear(const std::string& module) {
    add(module + ".weight", {.siblings_share_input = true});
    add(module + ".bias", {.kind = parameter_kind::shift});
  }

  /// `parts` equal linear weights, one after the other along d_out.
  void fused(const std::string& module, int parts, matrix_layout layout = matrix_layout::out_in) {
    add(module + ".weight",
        {.kind = parameter_kind::fused_linear, .layout = layout, .parts = parts});
    add(module + ".bias", {.kind = parameter_kind::shift, .parts = parts});
  }

  /// A convolution of one group.
  void conv(const std::string& module) {
    add(module + ".weight", {.kind = parameter_kind::conv});
    add(module + ".bias", {.kind = parameter_kind::shift});
  }

  /// A normalisation: LayerNorm, RMSNorm (also 1 + w), BatchNorm, GroupNorm.
  void norm(const std::string& module) {
    add(module + ".weight", {.kind = parameter_kind::scale});
    add(module + ".bias", {.kind = parameter_kind::shift});
  }

  /// A parameter that is left alone: summed as in Task Arithmetic.
  void left_alone(const std::string& name) {
    add(name, {.kind = parameter_kind::embedding, .trim = false});
  }

  /// A parameter by its whole name.
  void parameter(const std::string& name, parameter_rule rule) { add(name, std::move(rule)); }

  /// The rules so far, as those of a known network.
  name_rules rules() const { return network_rules(rules_); }

 private:
  void add(const std::string& name, parameter_rule rule) {
    rule.pattern = "{,*.}" + name;
    rules_.push_back(std::move(rule));
  }

  std::vector<parameter_rule> rules_;
};

}  // namespace catmerge::model
