// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/rule_list.hpp>

/// @file
/// Encoder-decoder networks, by the names of the transformers library. In the cross attention k and
/// v take the encoder's rows, q the decoder's.
namespace catmerge::model {

/// T5, mT5, UMT5 and FLAN-T5.
inline name_rules t5() {
  const std::string layer = "block.*.layer.*.";
  rule_list r;
  r.shared_linear(layer + "SelfAttention.{q,k,v}");
  r.shared_linear(layer + "EncDecAttention.{k,v}");
  r.linear(layer + "{SelfAttention.o,EncDecAttention.q,EncDecAttention.o}");
  r.shared_linear(layer + "DenseReluDense.{wi_0,wi_1}");
  r.linear(layer + "DenseReluDense.{wi,wo}");
  r.norm(layer + "layer_norm");
  r.norm("{encoder,decoder}.final_layer_norm");
  return r.rules();
}

/// BART, mBART, Pegasus, Marian and Whisper.
inline name_rules bart_like() {
  const std::string layer = "{encoder,decoder}.layers.*.";
  rule_list r;
  r.shared_linear(layer + "self_attn.{q,k,v}_proj");
  r.shared_linear(layer + "encoder_attn.{k,v}_proj");
  r.linear(layer + "{self_attn.out_proj,encoder_attn.q_proj,encoder_attn.out_proj}");
  r.linear(layer + "{fc1,fc2}");
  r.norm(layer + "{self_attn,encoder_attn,final}_layer_norm");
  r.norm("{encoder,decoder}.{layernorm_embedding,layer_norm}");
  r.conv("encoder.{conv1,conv2}");
  r.parameter("final_logits_bias", {.kind = parameter_kind::fixed, .trim = false});
  return r.rules();
}

}  // namespace catmerge::model
