// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <harness/networks/decoder/decoder_config.hpp>
#include <string>
#include <vector>

/// Llama and those that change little of it: Mistral (a window), Qwen 2 (biases of q, k, v), Qwen 3
/// (norms of queries and keys), and mixtures of experts in place of the feed-forward layer
/// (Mixtral, Qwen 3 MoE).
namespace catmerge::harness {

/// True if read_llama reads this "model_type".
inline bool is_llama(const std::string& type) {
  return type == "llama" || type == "mistral" || type == "qwen2" || type == "qwen3" ||
         type == "mixtral" || type == "qwen3_moe";
}

/// `names`: all tensors of the checkpoint. Throws catmerge::error naming the configuration and the
/// key, or the checkpoint and the tensor.
inline decoder_plan read_llama(const config_object& top, const std::vector<std::string>& names,
                               const std::filesystem::path& file) {
  const std::string type = top.text("model_type", "");
  const bool is_qwen3 = type == "qwen3" || type == "qwen3_moe";
  const bool is_qwen = is_qwen3 || type == "qwen2";
  const bool is_mixtral = type == "mixtral";
  decoder_plan plan;
  decoder_shape& s = plan.shape;
  size_defaults absent;
  if (type == "mistral" || is_mixtral) absent.num_key_value_heads = 8;
  if (type == "qwen2" || type == "qwen3") absent.num_key_value_heads = 32;
  if (type == "qwen3_moe") absent.num_key_value_heads = 4;
  if (type == "qwen3") absent.head_dim = 128;
  if (is_mixtral) absent.rms_norm_eps = 1e-5;
  s = read_sizes(top, names, absent);
  if (is_qwen3) s.of_queries = query_norm::each_head;
  s.nonlinearity = top.nonlinearity("hidden_act", "silu");
  s.tied = top.flag("tie_word_embeddings", false);
  top.require_usual("use_bidirectional_attention");

  const rotary positions =
      rotary_config(top, "full_attention", is_mixtral ? 1e6 : 1e4).read(s.head_width);
  const std::string window = "sliding_window";
  const bool windows = is_qwen ? top.flag("use_sliding_window", false) && !top.is_null(window)
                       : type == "mistral" ? !top.is_null(window)
                                           : is_mixtral && top.has(window);
  const index_t first_window =
      is_qwen && windows && type != "qwen3_moe" ? top.index("max_window_layers", 28) : 0;
  const auto by_default = [&](index_t layer) { return windows && layer >= first_window; };
  const auto sliding = sliding_layers(top, std::ssize(s.layers), by_default);
  // Of these, Qwen 2 and 3 alone take a choice of layers, and only where windows are in use at all:
  // the transformers library ignores it elsewhere.
  const bool chooses = windows && (type == "qwen2" || type == "qwen3");
  for (std::size_t i = 0; i < sliding.size(); ++i) {
    if (!chooses && sliding[i] != by_default(static_cast<index_t>(i))) {
      top.fail("layer_types", "the attention of layer " + std::to_string(i) +
                                  " is another one by the other keys, which decide for '" + type +
                                  "'");
    }
  }
  const std::string count =
      is_mixtral || top.has("num_local_experts") ? "num_local_experts" : "num_experts";
  const index_t experts =
      is_mixtral || type == "qwen3_moe" ? count_of_modules(top, count, names) : 0;
  const auto plain_layers = top.numbers("mlp_only_layers");
  const index_t step = top.size("decoder_sparse_step", 1);
  for (std::size_t i = 0; i < s.layers.size(); ++i) {
    auto& layer = s.layers[i];
    layer.positions = positions;
    if (sliding[i]) layer.window = top.size(window, 4096);
    const bool is_plain = std::find(plain_layers.begin(), plain_layers.end(),
                                    static_cast<double>(i)) != plain_layers.end();
    if (experts == 0 || is_plain || (static_cast<index_t>(i) + 1) % step != 0) continue;
    auto& mixture = layer.feed_forward;
    mixture.experts = experts;
    mixture.chosen = top.size("num_experts_per_tok");
    if (mixture.chosen > experts) {
      top.fail("num_experts_per_tok", "expected at most " + std::to_string(experts) +
                                          ", the number of experts, found " +
                                          std::to_string(mixture.chosen));
    }
    mixture.renormalises = is_mixtral || top.flag("norm_topk_prob", false);
    if (!is_mixtral) mixture.width = top.size("moe_intermediate_size");
  }

  const std::string layers = find_ends(names, file, plan);
  // Qwen 2 has biases of q, k and v whatever the key says; Mistral and Mixtral have none.
  const bool bias = (type == "llama" || is_qwen3) && top.flag("attention_bias", false);
  for (std::size_t i = 0; i < s.layers.size(); ++i) {
    const std::string at = layers + std::to_string(i) + ".";
    decoder_layer_names n;
    n.norm1 = scale_of(at + "input_layernorm");
    name_attention(n, at, bias || type == "qwen2", bias);
    if (is_qwen3) name_query_norms(n, at);
    n.norm2 = scale_of(at + "post_attention_layernorm");
    const auto& shape = s.layers[i].feed_forward;
    const std::string moe = at + (is_mixtral ? "block_sparse_moe." : "mlp.");
    if (shape.experts == 0) {
      n.experts = {gate_up_down(at + "mlp.", type == "llama" && top.flag("mlp_bias", false))};
    } else {
      n.router = scale_of(moe + "gate");
    }
    for (index_t e = 0; e < shape.experts; ++e) {
      const std::string expert = moe + "experts." + std::to_string(e) + ".";
      n.experts.push_back(
          is_mixtral ? feed_forward_names{{scale_of(expert + "w1"), scale_of(expert + "w3")},
                                          scale_of(expert + "w2")}
                     : gate_up_down(expert));
    }
    plan.names.layers.push_back(std::move(n));
  }
  return plan;
}

}  // namespace catmerge::harness
