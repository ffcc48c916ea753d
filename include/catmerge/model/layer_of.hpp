// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/layer_kind.hpp>
#include <catmerge/model/kinds.hpp>

namespace catmerge::model {

/// The kind of layer of a classified parameter. Convolutions are linear maps on patches; parameters
/// that are not trimmed are layer_kind::other.
constexpr layer_kind layer_of(const classification& c) {
  if (!c.trim) return layer_kind::other;
  switch (c.kind) {
    case parameter_kind::linear:
    case parameter_kind::fused_linear:
    case parameter_kind::conv: return layer_kind::linear;
    case parameter_kind::scale: return layer_kind::scale;
    case parameter_kind::shift: return layer_kind::shift;
    case parameter_kind::embedding:
    case parameter_kind::token_table:
    case parameter_kind::running_statistics:
    case parameter_kind::fixed:
    case parameter_kind::packed:
    case parameter_kind::unknown: break;
  }
  return layer_kind::other;
}

}  // namespace catmerge::model
