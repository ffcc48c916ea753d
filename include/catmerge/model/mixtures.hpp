// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/rule_list.hpp>

/// @file
/// Mixtures of experts: routers, experts with separate names, and stacked experts. The other names
/// of these networks are in decoders.hpp.
namespace catmerge::model {

/// Routers and separate experts (Mixtral; Qwen 2 and 3, DeepSeek, OLMoE), shared experts, and
/// stacks whose names tell their layout: Llama 4's experts are n x d_in x d_out, Granite's n x
/// d_out x d_in; both hold gate and up, one after the other.
///
/// `mlp.experts.gate_up_proj` alone does not tell its layout: such stacks are trimmed only if the
/// network is known (expert_stacks, gpt_oss_stacks).
inline name_rules mixtures() {
  constexpr auto in_out = matrix_layout::in_out;
  const parameter_rule unknown_layout{.trim = false, .stacked = true};
  rule_list r;
  r.shared_linear("block_sparse_moe.experts.*.{w1,w3}");
  r.linear("block_sparse_moe.experts.*.w2");
  r.shared_linear("experts.*.{gate,up}_proj");
  r.linear("experts.*.down_proj");
  r.shared_linear("{shared_expert,shared_experts}.{gate,up}_proj");
  r.linear("{shared_expert,shared_experts}.down_proj");
  r.linear("{mlp,block_sparse_moe,feed_forward}.{gate,router,router.layer,shared_expert_gate}");
  r.left_alone("gate.e_score_correction_bias");  // set by load balancing, not by gradients
  r.left_alone("self_attn.sinks");               // a logit per head beside the scores
  r.parameter("experts.{gate_up_proj,down_proj}", unknown_layout);
  r.parameter("experts.{gate_up_proj,down_proj}_bias",
              {.kind = parameter_kind::shift, .stacked = true});
  r.parameter(
      "feed_forward.experts.gate_up_proj",
      {.kind = parameter_kind::fused_linear, .layout = in_out, .parts = 2, .stacked = true});
  r.parameter("feed_forward.experts.down_proj", {.layout = in_out, .stacked = true});
  r.parameter("block_sparse_moe.input_linear.weight",
              {.kind = parameter_kind::fused_linear, .parts = 2, .stacked = true});
  r.parameter("block_sparse_moe.output_linear.weight", {.stacked = true});
  return r.rules();
}

/// The experts of Mixtral, Qwen and Granite in transformers 5: n x d_out x d_in, gate and up one
/// after the other.
inline name_rules expert_stacks() {
  rule_list r;
  r.parameter("{mlp,block_sparse_moe}.experts.gate_up_proj",
              {.kind = parameter_kind::fused_linear, .parts = 2, .stacked = true});
  r.parameter("{mlp,block_sparse_moe}.experts.down_proj", {.stacked = true});
  return r.rules();
}

/// gpt-oss: n x d_in x d_out; gate and up alternate, so gate_up_proj is one matrix.
inline name_rules gpt_oss_stacks() {
  rule_list r;
  r.parameter("mlp.experts.{gate_up_proj,down_proj}",
              {.layout = matrix_layout::in_out, .stacked = true});
  return r.rules();
}

}  // namespace catmerge::model
