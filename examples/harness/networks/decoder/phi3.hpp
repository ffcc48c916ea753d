// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <filesystem>
#include <harness/networks/decoder/decoder_config.hpp>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// Phi-3 and Phi-4: a Llama whose q, k and v are rows of one weight, and gate and up of another.
inline decoder_plan read_phi3(const config_object& top, const std::vector<std::string>& names,
                              const std::filesystem::path& file) {
  decoder_plan plan;
  decoder_shape& s = plan.shape;
  s = read_sizes(top, names, {{}, {}, 1e-5});
  s.nonlinearity = top.nonlinearity("hidden_act", "silu");
  s.tied = top.flag("tie_word_embeddings", false);
  const rotary positions = rotary_config(top, "full_attention", 1e4).read(s.head_width, true);
  for (auto& layer : s.layers) {
    layer.positions = positions;
    if (top.has("sliding_window")) layer.window = top.size("sliding_window");
  }

  const std::string layers = find_ends(names, file, plan);
  for (std::size_t i = 0; i < s.layers.size(); ++i) {
    const std::string at = layers + std::to_string(i) + ".";
    decoder_layer_names n;
    n.norm1 = scale_of(at + "input_layernorm");
    n.qkv = {scale_of(at + "self_attn.qkv_proj")};
    n.out = scale_of(at + "self_attn.o_proj");
    n.norm2 = scale_of(at + "post_attention_layernorm");
    n.experts = {{{scale_of(at + "mlp.gate_up_proj")}, scale_of(at + "mlp.down_proj")}};
    plan.names.layers.push_back(std::move(n));
  }
  return plan;
}

}  // namespace catmerge::harness
