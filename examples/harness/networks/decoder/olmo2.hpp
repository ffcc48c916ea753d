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

/// OLMo 2: a Llama with its norms after the branches, and norms of all queries and all keys.
inline decoder_plan read_olmo2(const config_object& top, const std::vector<std::string>& names,
                               const std::filesystem::path& file) {
  decoder_plan plan;
  decoder_shape& s = plan.shape;
  s = read_sizes(top, names, {{}, {}, 1e-5});
  s.of_queries = query_norm::all_heads;
  s.nonlinearity = top.nonlinearity("hidden_act", "silu");
  s.tied = top.flag("tie_word_embeddings", false);
  const rotary positions = rotary_config(top, "full_attention", 1e4).read(s.head_width);
  for (auto& layer : s.layers) layer.positions = positions;

  const std::string layers = find_ends(names, file, plan);
  const bool bias = top.flag("attention_bias", false);
  for (std::size_t i = 0; i < s.layers.size(); ++i) {
    const std::string at = layers + std::to_string(i) + ".";
    decoder_layer_names n;
    name_attention(n, at, bias, bias);
    name_query_norms(n, at);
    n.after1 = scale_of(at + "post_attention_layernorm");
    n.experts = {gate_up_down(at + "mlp.")};
    n.after2 = scale_of(at + "post_feedforward_layernorm");
    plan.names.layers.push_back(std::move(n));
  }
  return plan;
}

}  // namespace catmerge::harness
