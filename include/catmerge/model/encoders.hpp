// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/rule_list.hpp>

/// @file
/// Encoders of text and sound other than BERT (bert.hpp), by the names of the transformers library.
namespace catmerge::model {

/// DistilBERT.
inline name_rules distilbert() {
  const std::string layer = "transformer.layer.*.";
  rule_list r;
  r.shared_linear(layer + "attention.{q,k,v}_lin");
  r.linear(layer + "{attention.out_lin,ffn.lin1,ffn.lin2}");
  r.norm(layer + "{sa_layer_norm,output_layer_norm}");
  return r.rules();
}

/// ALBERT. Its layers share their parameters.
inline name_rules albert() {
  const std::string layer = "albert_layer_groups.*.albert_layers.*.";
  rule_list r;
  r.shared_linear(layer + "attention.{query,key,value}");
  r.linear(layer + "{attention.dense,ffn,ffn_output}");
  r.norm(layer + "{attention.LayerNorm,full_layer_layer_norm}");
  r.linear("encoder.embedding_hidden_mapping_in");
  r.linear("albert.pooler");
  return r.rules();
}

/// DeBERTa 1 to 3, and ELECTRA's names beyond BERT's. The keys and queries of DeBERTa 2 and 3 also
/// take the relative positions, so they do not share the input of the values. DeBERTa's in_proj
/// holds q, k and v of one head after the other, so it is one matrix.
inline name_rules deberta_and_electra() {
  const std::string attention = "encoder.layer.*.attention.self.";
  rule_list r;
  r.shared_linear(attention + "{query_proj,key_proj}");
  r.linear(attention + "{value_proj,in_proj}");
  r.shared_linear(attention + "{pos_key_proj,pos_query_proj}");
  r.shared_linear(attention + "{pos_proj,pos_q_proj}");
  r.parameter(attention + "{q_bias,v_bias}", {.kind = parameter_kind::shift});
  r.norm("encoder.{LayerNorm,conv.LayerNorm}");
  r.conv("encoder.conv.conv");
  r.linear("embeddings_project");
  return r.rules();
}

/// ModernBERT. Wqkv holds q, k and v, Wi the gated half and the gate, one after the other.
inline name_rules modernbert() {
  rule_list r;
  r.fused("layers.*.attn.Wqkv", 3);
  r.fused("layers.*.mlp.Wi", 2);
  r.linear("layers.*.{attn,mlp}.Wo");
  r.norm("layers.*.{attn_norm,mlp_norm}");
  r.norm("{embeddings.norm,final_norm}");
  return r.rules();
}

/// wav2vec 2 and HuBERT. Their attention has the names of vit_like (vision.hpp). The convolution of
/// positions is grouped and left alone.
inline name_rules wav2vec2() {
  const std::string layer = "encoder.layers.*.";
  rule_list r;
  r.linear(layer + "feed_forward.{intermediate_dense,output_dense}");
  r.norm(layer + "{layer_norm,final_layer_norm}");
  r.norm("{encoder.layer_norm,feature_projection.layer_norm}");
  r.linear("feature_projection.projection");
  r.conv("feature_extractor.conv_layers.*.conv");
  r.norm("feature_extractor.conv_layers.*.layer_norm");
  r.left_alone("pos_conv_embed.conv.{weight,weight_g,weight_v}");
  r.left_alone("pos_conv_embed.conv.parametrizations.weight.{original0,original1}");
  r.parameter("pos_conv_embed.conv.bias", {.kind = parameter_kind::shift});
  return r.rules();
}

}  // namespace catmerge::model
