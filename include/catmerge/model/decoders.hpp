// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/rule_list.hpp>

/// @file
/// Decoders of language models, by the names of the transformers library. The general rule finds
/// the tables of tokens at both ends (embed_tokens, wte, lm_head; token_tables.hpp).
namespace catmerge::model {

/// Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3, Phi 1 to 4, OLMo, StableLM, Granite, StarCoder 2,
/// OPT, and the attention of DeepSeek 2 and 3. Norms that multiply by 1 + w (Gemma) are scales,
/// too: their differences of weights are the same.
///
/// Fused weights: gate_up_proj holds gate and up, one after the other. In qkv_proj (Phi-3) q, k and
/// v are three equal parts only if queries are not grouped; then each is as square as d_in.
/// Otherwise qkv_proj is trimmed as one matrix.
inline name_rules llama_like() {
  const std::string layer = "layers.*.";
  rule_list r;
  r.shared_linear(layer + "self_attn.{q,k,v}_proj");
  r.linear(layer + "self_attn.{o_proj,out_proj,dense,qkv_proj}");
  r.parameter(layer + "self_attn.qkv_proj.weight",
              {.kind = parameter_kind::fused_linear, .parts = 3, .square_parts = true});
  r.shared_linear(layer + "self_attn.{q_a_proj,kv_a_proj_with_mqa}");
  r.linear(layer + "self_attn.{q_b_proj,kv_b_proj}");
  r.norm(layer + "self_attn.{q_norm,k_norm,q_layernorm,k_layernorm,q_a_layernorm,kv_a_layernorm}");
  r.shared_linear(layer + "{mlp,feed_forward}.{gate,up}_proj");
  r.linear(layer + "{mlp,feed_forward}.{down_proj,fc1,fc2,c_fc,c_proj}");
  r.fused(layer + "{mlp,feed_forward}.gate_up_proj", 2);
  r.linear(layer + "{fc1,fc2}");
  r.norm(layer + "{input,post_attention,pre_feedforward,post_feedforward}_layernorm");
  r.norm(layer + "{self_attn_layer_norm,final_layer_norm}");
  r.norm("{model.norm,language_model.norm,final_layernorm,final_layer_norm}");
  r.linear("decoder.{project_in,project_out}");
  return r.rules();
}

/// GPT-2: its Conv1D stores d_in x d_out. c_attn holds q, k and v (k and v in a cross attention).
inline name_rules gpt2() {
  const std::string block = "h.*.";
  constexpr auto in_out = matrix_layout::in_out;
  rule_list r;
  r.fused(block + "attn.c_attn", 3, in_out);
  r.fused(block + "crossattention.c_attn", 2, in_out);
  r.linear(block + "{attn.c_proj,crossattention.q_attn,crossattention.c_proj}", in_out);
  r.linear(block + "mlp.{c_fc,c_proj}", in_out);
  r.norm(block + "{ln_1,ln_2,ln_cross_attn}");
  r.norm("ln_f");
  return r.rules();
}

/// Networks with GPT-2's names that store d_out x d_in: GPT-Neo, GPTBigCode, the first Qwen. c_attn
/// is one matrix: its q, k and v are not equal parts one after the other.
inline name_rules gpt2_stored_out_in() {
  rule_list r;
  r.linear("h.*.attn.{c_attn,c_proj}");
  r.linear("h.*.mlp.{c_fc,c_proj}");
  return r.rules();
}

/// GPT-Neo and GPT-J: attention and blocks, except for GPT-Neo's mlp (gpt2_stored_out_in).
inline name_rules gpt_neo_and_j() {
  rule_list r;
  r.shared_linear("h.*.{attn,attn.attention}.{q,k,v}_proj");
  r.linear("h.*.{attn,attn.attention}.out_proj");
  r.linear("h.*.mlp.{fc_in,fc_out}");
  return r.rules();
}

/// GPT-NeoX (Pythia), BLOOM and Falcon. query_key_value holds q, k and v of one head after the
/// other, so it is one matrix, not three.
inline name_rules neox_like() {
  const std::string block = "{layers,h}.*.";
  rule_list r;
  r.linear(block + "{attention,self_attention}.{query_key_value,dense}");
  r.linear(block + "mlp.{dense_h_to_4h,dense_4h_to_h}");
  r.norm(block + "{input_layernorm,post_attention_layernorm,ln_attn,ln_mlp}");
  r.norm("{word_embeddings_layernorm,ln_f,final_layer_norm}");
  return r.rules();
}

/// MPT: Wqkv holds q, k and v, one after the other.
inline name_rules mpt() {
  rule_list r;
  r.fused("blocks.*.attn.Wqkv", 3);
  r.linear("blocks.*.attn.out_proj");
  r.linear("blocks.*.ffn.{up_proj,down_proj}");
  r.norm("blocks.*.{norm_1,norm_2}");
  r.norm("norm_f");
  return r.rules();
}

}  // namespace catmerge::model
