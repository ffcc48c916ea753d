// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/name_rules.hpp>
#include <catmerge/model/rule_list.hpp>
#include <string>
#include <utility>

namespace catmerge::model {

/// The vision transformer of CLIP, by the names of the transformers library: CLIPVisionModel,
/// CLIPVisionModelWithProjection, and the vision part of CLIPModel. `vision_model.`, with any
/// prefix, may stand before the names. The text part has no rules.
///
/// By default the class, position and patch embeddings and the final projection are left alone, as
/// in the paper. A rule of one's own opts in to each.
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
  return network_rules({
      query_key_value,
      rule(layer + "self_attn.out_proj.weight", kind::linear),
      rule(layer + "self_attn.{q,k,v,out}_proj.bias", kind::shift),
      rule(layer + "mlp.fc{1,2}.weight", kind::linear),
      rule(layer + "mlp.fc{1,2}.bias", kind::shift),
      rule(layer + "layer_norm{1,2}.weight", kind::scale),
      rule(layer + "layer_norm{1,2}.bias", kind::shift),
      rule(model + "{pre_layrnorm,post_layernorm}.weight", kind::scale),  // "layrnorm" is the
                                                                          // library's spelling
      rule(model + "{pre_layrnorm,post_layernorm}.bias", kind::shift),
      rule(model + "embeddings.{class_embedding,position_embedding.weight,patch_embedding.weight}",
           kind::embedding, false),
      rule(model + "embeddings.position_ids", kind::fixed, false),
      rule("{,*.}visual_projection.weight", kind::linear, false),
  });
}

/// The vision transformer of CLIP, by the names of OpenAI and OpenCLIP. Names begin with `visual.`
/// or have it behind another prefix (`model.visual.`). The text part has the same names of layers
/// without it, and no rules. q, k and v are one parameter of three parts; the patch embedding is
/// `conv1`; `proj` is stored d_in x d_out.
///
/// By default the same parameters as in hugging_face_clip_vision are left alone.
inline name_rules open_clip_vision() {
  using kind = parameter_kind;
  const std::string model = "{,*.}visual.";
  const std::string layer = model + "transformer.resblocks.*.";
  const auto rule = [](std::string pattern, kind what, int parts = 1) {
    parameter_rule result;
    result.pattern = std::move(pattern);
    result.kind = what;
    result.parts = parts;
    result.trim = what != kind::embedding;
    return result;
  };
  parameter_rule projection = rule(model + "proj", kind::linear);
  projection.layout = matrix_layout::in_out;
  projection.trim = false;
  return network_rules({
      rule(layer + "attn.in_proj_weight", kind::fused_linear, 3),
      rule(layer + "attn.in_proj_bias", kind::shift, 3),
      rule(layer + "{attn.out_proj,mlp.c_fc,mlp.c_proj}.weight", kind::linear),
      rule(layer + "{attn.out_proj,mlp.c_fc,mlp.c_proj}.bias", kind::shift),
      rule(layer + "ln_{1,2}.weight", kind::scale),
      rule(layer + "ln_{1,2}.bias", kind::shift),
      rule(model + "ln_{pre,post}.weight", kind::scale),
      rule(model + "ln_{pre,post}.bias", kind::shift),
      rule(model + "{class_embedding,positional_embedding,conv1.weight}", kind::embedding),
      projection,
  });
}

/// The text transformer of CLIP, by the names of OpenAI and OpenCLIP: the layers of
/// open_clip_vision without "visual.". The text_projection is stored d_in x d_out and left alone,
/// like the tables.
inline name_rules open_clip_text() {
  const std::string layer = "transformer.resblocks.*.";
  rule_list r;
  r.parameter(layer + "attn.in_proj_weight", {.kind = parameter_kind::fused_linear, .parts = 3});
  r.parameter(layer + "attn.in_proj_bias", {.kind = parameter_kind::shift, .parts = 3});
  r.linear(layer + "{attn.out_proj,mlp.c_fc,mlp.c_proj}");
  r.norm(layer + "ln_{1,2}");
  r.norm("ln_final");
  r.parameter("text_projection", {.trim = false, .layout = matrix_layout::in_out});
  return r.rules();
}

}  // namespace catmerge::model
