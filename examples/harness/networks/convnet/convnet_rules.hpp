// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/name_rules.hpp>
#include <string>

namespace catmerge::harness {

/// The name rules of the convolutional networks of examples/families/convnet: names that begin with
/// "convnet.", after any prefix. Convolutions are linear maps on patches, d_out x rest. Every
/// parameter is trimmed.
inline model::name_rules small_convnet() {
  using kind = model::parameter_kind;
  const std::string network = "{,*.}convnet.";
  const std::string stage = network + "stages.*.";
  return model::network_rules({
      {.pattern = stage + "conv.weight", .kind = kind::conv},
      {.pattern = stage + "conv.bias", .kind = kind::shift},
      {.pattern = stage + "norm.weight", .kind = kind::scale},
      {.pattern = stage + "norm.bias", .kind = kind::shift},
      {.pattern = network + "projection.weight", .kind = kind::linear},
  });
}

}  // namespace catmerge::harness
