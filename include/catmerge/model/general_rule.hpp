// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/tensor_entry.hpp>
#include <catmerge/model/parameter_rule.hpp>
#include <optional>

namespace catmerge::model {

/// What a parameter is whose name no network has; none where that cannot be told.
inline std::optional<parameter_rule> general_rule(const io::tensor_info& info) {
  parameter_rule rule;
  rule.source = rule_source::general;
  if (info.name.ends_with("num_batches_tracked") || info.name.ends_with("position_ids")) {
    rule.pattern = "counters and positions are the base's";
    rule.kind = parameter_kind::fixed;
    return rule;
  }
  if (info.name.ends_with("running_mean") || info.name.ends_with("running_var")) {
    rule.pattern = "running_mean and running_var are running statistics";
    rule.kind = parameter_kind::running_statistics;
    return rule;
  }
  return std::nullopt;
}

}  // namespace catmerge::model
