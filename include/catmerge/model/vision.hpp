// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/rule_list.hpp>

/// @file
/// Networks of images other than CLIP (clip.hpp), by the names of the transformers library and
/// torchvision. Tokens, positions and patch embeddings are left alone.
namespace catmerge::model {

/// ViT, DeiT, BEiT, ViT-MAE and DINOv2, by the names of published checkpoints and of the modules of
/// transformers 5. The gated mlp of DINOv2 (weights_in) holds the gate and the gated half, one
/// after the other.
inline name_rules vit_like() {
  const std::string layer = "encoder.layer.*.";
  rule_list r;
  r.shared_linear(layer + "attention.attention.{query,key,value}");
  r.linear(layer + "{attention.output.dense,intermediate.dense,output.dense}");
  r.norm(layer + "{layernorm_before,layernorm_after,norm1,norm2}");
  r.norm("layernorm");
  r.shared_linear("{layer,layers}.*.attention.{q,k,v}_proj");
  r.linear("{layer,layers}.*.attention.{o_proj,out_proj}");
  r.norm("layers.*.{layernorm_before,layernorm_after}");
  r.shared_linear(layer + "mlp.{gate,up}_proj");
  r.linear(layer + "mlp.down_proj");
  r.linear(layer + "mlp.{fc1,fc2,weights_out}");
  r.fused(layer + "mlp.weights_in", 2);
  r.parameter(layer + "{layer_scale1,layer_scale2}.lambda1", {.kind = parameter_kind::scale});
  r.parameter(layer + "{lambda_1,lambda_2}", {.kind = parameter_kind::scale});
  return r.rules();
}

/// Swin and Swin 2.
inline name_rules swin() {
  const std::string block = "encoder.layers.*.blocks.*.";
  rule_list r;
  r.shared_linear(block + "attention.self.{query,key,value}");
  r.linear(block + "{attention.output.dense,intermediate.dense,output.dense}");
  r.norm(block + "{layernorm_before,layernorm_after}");
  r.linear("downsample.reduction");
  r.norm("{downsample.norm,embeddings.norm}");
  r.left_alone(block + "attention.self.{relative_position_bias_table,logit_scale}");
  r.linear(block + "attention.self.continuous_position_bias_mlp.*");
  return r.rules();
}

/// ConvNeXt 1 and 2. Depthwise convolutions are left alone, and so are the scales of responses
/// (grn), which are no vectors.
inline name_rules convnext() {
  const std::string layer = "stages.*.layers.*.";
  rule_list r;
  r.left_alone(layer + "dwconv.weight");
  r.parameter(layer + "dwconv.bias", {.kind = parameter_kind::shift});
  r.left_alone(layer + "grn.{weight,bias}");
  r.linear(layer + "{pwconv1,pwconv2}");
  r.norm(layer + "layernorm");
  r.parameter(layer + "layer_scale_parameter", {.kind = parameter_kind::scale});
  r.norm("stages.*.downsampling_layer.0");
  r.conv("stages.*.downsampling_layer.1");
  r.norm("{embeddings.layernorm,layernorm}");
  return r.rules();
}

/// ResNet and RegNet of the transformers library, and torchvision's ResNet.
inline name_rules resnet() {
  rule_list r;
  r.conv("{embedder.embedder,layer.*,shortcut}.convolution");
  r.norm("{embedder.embedder,layer.*,shortcut}.normalization");
  r.conv("layer{1,2,3,4}.*.conv{1,2,3}");
  r.norm("layer{1,2,3,4}.*.bn{1,2,3}");
  r.conv("layer{1,2,3,4}.*.downsample.0");
  r.norm("layer{1,2,3,4}.*.downsample.1");
  return r.rules();
}

/// The two towers of SigLIP, and the text tower of CLIP. Final projections are left alone, as in
/// CLIP's vision tower. SigLIP's vision tower ends in an attention with a probe as its query:
/// in_proj holds q, k and v of two different inputs, so it is not trimmed.
inline name_rules two_towers() {
  const std::string tower = "{text_model,vision_model}.";
  rule_list r;
  r.shared_linear(tower + "encoder.layers.*.self_attn.{q,k,v}_proj");
  r.linear(tower + "encoder.layers.*.{self_attn.out_proj,mlp.fc1,mlp.fc2}");
  r.norm(tower + "encoder.layers.*.layer_norm{1,2}");
  r.norm("{text_model.final_layer_norm,vision_model.post_layernorm}");
  r.parameter("{text_projection,text_model.head}.weight", {.trim = false});
  r.left_alone("text_model.head.bias");
  r.left_alone("{logit_scale,logit_bias}");
  r.left_alone("vision_model.embeddings.patch_embedding.{weight,bias}");
  r.parameter("vision_model.head.attention.in_proj_weight",
              {.kind = parameter_kind::fused_linear, .trim = false, .parts = 3});
  r.parameter("vision_model.head.attention.in_proj_bias",
              {.kind = parameter_kind::shift, .parts = 3});
  r.linear("vision_model.head.{attention.out_proj,mlp.fc1,mlp.fc2}");
  r.norm("vision_model.head.layernorm");
  r.left_alone("vision_model.head.probe");
  return r.rules();
}

}  // namespace catmerge::model
