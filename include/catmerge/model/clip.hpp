// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/name_rules.hpp>
#include <string>
#include <utility>

namespace catmerge::model {

/// The vision transformer of CLIP as the transformers library names it: CLIPVisionModel and
/// CLIPVisionModelWithProjection, and the vision part of CLIPModel. The text part has no rules.
/// Names are understood with and without `vision_model.` and whatever stands before that.
///
/// Left alone by default, as in the paper: the class, position and patch embeddings and the final
/// projection. Each can be opted in by a rule of its own.
inline name_rules hugging_face_clip_vision() {
  using kind = parameter_kind;
  const std::string model = "{,vision_model.,*.vision_model.}";
  const std::string layer = model + "encoder.layers.*.";
  const auto rule = [](std::string pattern, kind what, bool trim = true) {
    parameter_rule result;
    result.pattern = std::move(pattern);
    result.kind = what;
    result.trim = trim;
    return result;
  };
  parameter_rule query_key_value = rule(layer + "self_attn.{q,k,v}_proj.weight", kind::linear);
  query_key_value.siblings_share_input = true;
  return name_rules({
      query_key_value,
      rule(layer + "self_attn.out_proj.weight", kind::linear),
      rule(layer + "self_attn.{q,k,v,out}_proj.bias", kind::shift),
      rule(layer + "mlp.fc{1,2}.weight", kind::linear),
      rule(layer + "mlp.fc{1,2}.bias", kind::shift),
      rule(layer + "layer_norm{1,2}.weight", kind::scale),
      rule(layer + "layer_norm{1,2}.bias", kind::shift),
      rule(model + "{pre_layrnorm,post_layernorm}.weight", kind::scale),  // "layrnorm": theirs
      rule(model + "{pre_layrnorm,post_layernorm}.bias", kind::shift),
      rule(model + "embeddings.{class_embedding,position_embedding.weight,patch_embedding.weight}",
           kind::embedding, false),
      rule(model + "embeddings.position_ids", kind::fixed, false),
      rule("{,*.}visual_projection.weight", kind::linear, false),
  });
}

}  // namespace catmerge::model
