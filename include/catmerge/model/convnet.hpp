// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/name_rules.hpp>
#include <string>

namespace catmerge::model {

/// The convolutional networks of examples/families/convnet: names that begin with "convnet.", whatever
/// stands before that. Convolutions are linear maps on patches, (d_out, rest). Everything is
/// trimmed by default.
inline name_rules small_convnet() {
  using kind = parameter_kind;
  const std::string model = "{,*.}convnet.";
  const std::string stage = model + "stages.*.";
  return network_rules({
      {.pattern = stage + "conv.weight", .kind = kind::conv},
      {.pattern = stage + "conv.bias", .kind = kind::shift},
      {.pattern = stage + "norm.weight", .kind = kind::scale},
      {.pattern = stage + "norm.bias", .kind = kind::shift},
      {.pattern = model + "projection.weight", .kind = kind::linear},
  });
}

}  // namespace catmerge::model
