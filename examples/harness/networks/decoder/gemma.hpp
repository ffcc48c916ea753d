// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <harness/networks/decoder/decoder_config.hpp>
#include <string>
#include <utility>
#include <vector>

/// Gemma 2 and the text part of Gemma 3: norms before and after each branch, which multiply by 1 +
/// w; embeddings times sqrt(d); windows in some layers. Gemma 2 caps scores and logits; Gemma 3 has
/// norms of queries and keys, and other rotary positions in layers with windows.
namespace catmerge::harness {

/// Rotary positions of Gemma 3's layers with windows: their own settings, or in older files
/// `rope_local_base_freq` without any scaling.
inline rotary local_positions(const config_object& top, index_t width) {
  const auto settings = top.find_object("rope_parameters");
  if (settings && settings->has("sliding_attention")) {
    return rotary_config(top, "sliding_attention", 1e4, "rope_local_base_freq").read(width);
  }
  rotary r;
  r.width = width;
  r.base = static_cast<float>(top.positive("rope_local_base_freq", 1e4));
  return r;
}

/// Throws catmerge::error for settings of Gemma 3's positions that transformers ignores.
inline void require_known_positions(const config_object& top) {
  const auto is_nested = [](const config_object& settings) {
    return settings.has("full_attention") || settings.has("sliding_attention");
  };
  const auto both = top.find_object("rope_parameters"), global = top.find_object("rope_scaling");
  if (both && !is_nested(*both))
    top.fail("rope_parameters", "expected settings of 'full_attention' and 'sliding_attention'");
  if (global && is_nested(*global))
    top.fail("rope_scaling", "expected settings of full attention alone (both: rope_parameters)");
}

/// True if read_gemma reads this "model_type".
inline bool is_gemma(const std::string& type) {
  return type == "gemma2" || type == "gemma3" || type == "gemma3_text";
}

inline decoder_plan read_gemma(const config_object& whole, const std::vector<std::string>& names,
                               const std::filesystem::path& file) {
  const std::string type = whole.text("model_type", "");
  const auto text = whole.find_object("text_config");
  const config_object& top = type == "gemma3" && text ? *text : whole;
  const bool is_third = type != "gemma2";
  decoder_plan plan;
  decoder_shape& s = plan.shape;
  s = read_sizes(top, names, {4, 256, 1e-6, is_third ? 262208 : 256000, 2304, 9216, 26, 8});
  s.norms = norm_kind::root_mean_square_one;
  s.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(s.width)));
  s.score_scale = static_cast<float>(1 / std::sqrt(top.positive("query_pre_attn_scalar", 256)));
  s.nonlinearity = top.nonlinearity("hidden_activation", "gelu_pytorch_tanh");
  s.tied = top.flag("tie_word_embeddings", true);
  top.require_usual("use_bidirectional_attention");
  if (is_third) {
    s.of_queries = query_norm::each_head;
    top.require_usual("attn_logit_softcapping", nullptr);
  } else if (!top.is_null("attn_logit_softcapping")) {
    s.score_cap = static_cast<float>(top.positive("attn_logit_softcapping", 50));
  }
  const std::string cap = "final_logit_softcapping";
  if (top.has(cap) || (!is_third && !top.is_null(cap))) {
    s.output_cap = static_cast<float>(top.positive(cap, 30));
  }

  // Every second layer has a window in Gemma 2, five of six in Gemma 3.
  const index_t pattern = is_third ? top.size("sliding_window_pattern", 6) : 2;
  const auto sliding = sliding_layers(top, std::ssize(s.layers),
                                      [&](index_t layer) { return (layer + 1) % pattern != 0; });
  if (is_third) require_known_positions(top);
  const rotary global =
      rotary_config(top, "full_attention", is_third ? 1e6 : 1e4).read(s.head_width);
  const rotary local = is_third ? local_positions(top, s.head_width) : global;
  for (std::size_t i = 0; i < s.layers.size(); ++i) {
    s.layers[i].positions = sliding[i] ? local : global;
    if (sliding[i]) s.layers[i].window = top.size("sliding_window", 4096);
  }

  const std::string layers = find_ends(names, file, plan);
  const bool bias = top.flag("attention_bias", false);
  for (std::size_t i = 0; i < s.layers.size(); ++i) {
    const std::string at = layers + std::to_string(i) + ".";
    decoder_layer_names n;
    n.norm1 = scale_of(at + "input_layernorm");
    name_attention(n, at, bias, bias);
    if (is_third) name_query_norms(n, at);
    n.after1 = scale_of(at + "post_attention_layernorm");
    n.norm2 = scale_of(at + "pre_feedforward_layernorm");
    n.experts = {gate_up_down(at + "mlp.")};
    n.after2 = scale_of(at + "post_feedforward_layernorm");
    plan.names.layers.push_back(std::move(n));
  }
  return plan;
}

}  // namespace catmerge::harness
