// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/rule_list.hpp>

/// @file
/// BLIP, by the names of the transformers library (models/blip): networks of captions, of answers
/// to questions, of matching, and BlipModel. Most names are CLIP's (clip.hpp) and BERT's
/// (bert.hpp); the rules here are for the others.
namespace catmerge::model {

/// The names that mean the same in every network. In the vision tower, q, k and v are one parameter
/// of three parts (also in BLIP-2). In a cross attention, k and v take the rows of the image or of
/// the question, q the text's (also in decoders of BERT's names). Before the output, the text
/// decoder has a linear layer and a norm. They are trimmed, since every task writes by them (in
/// BERT, `cls.predictions.transform` is a part of the head of pretraining and left alone). The
/// output's table, which is tied to the decoder's embeddings, and its bias are left alone.
inline name_rules blip() {
  const std::string vision = "vision_model.encoder.layers.*.self_attn.";
  const std::string cross = "encoder.layer.*.crossattention.";
  const std::string before_output = "text_decoder.cls.predictions.transform.";
  rule_list r;
  r.fused(vision + "qkv", 3);
  r.linear(vision + "projection");
  r.left_alone("vision_model.embeddings.position_embedding");
  r.left_alone("vision_model.embeddings.patch_embedding.bias");
  r.shared_linear(cross + "self.{key,value}");
  r.linear(cross + "{self.query,output.dense}");
  r.norm(cross + "output.LayerNorm");
  r.linear(before_output + "dense");
  r.norm(before_output + "LayerNorm");
  return r.rules();
}

/// The last layers of BlipForImageTextRetrieval, left alone as CLIP's projections and all heads
/// are. Other networks have linear layers of these names inside (Grounding DINO).
inline name_rules blip_retrieval() {
  rule_list r;
  r.parameter("{vision_proj,text_proj}.weight", {.trim = false});
  r.left_alone("{vision_proj,text_proj}.bias");
  r.left_alone("itm_head.{weight,bias}");
  return r.rules();
}

}  // namespace catmerge::model
