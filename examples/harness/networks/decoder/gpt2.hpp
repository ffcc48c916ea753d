// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <harness/networks/decoder/decoder_config.hpp>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// GPT-2: layer norms with shifts, learned positions, a plain feed-forward layer, and linear
/// weights stored d_in x d_out. c_attn holds q, k and v.
inline decoder_plan read_gpt2(const config_object& top, const std::vector<std::string>& names,
                              const std::filesystem::path& file) {
  decoder_plan plan;
  decoder_shape& s = plan.shape;
  s.file = top.file();
  s.width = top.size("n_embd");
  s.words = top.size("vocab_size");
  s.places = top.size("n_positions");
  s.heads = s.key_heads = top.size("n_head");
  if (s.width % s.heads != 0) {
    top.fail("n_head",
             std::to_string(s.heads) + " heads do not divide n_embd " + std::to_string(s.width));
  }
  s.head_width = s.width / s.heads;
  s.score_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(s.head_width)));
  s.norms = norm_kind::layer;
  s.epsilon = static_cast<float>(top.positive("layer_norm_epsilon", 1e-5));
  s.nonlinearity = top.nonlinearity("activation_function", "gelu_new");
  s.gated = false;
  s.is_in_out = true;
  s.tied = top.flag("tie_word_embeddings", true);
  s.layers.resize(static_cast<std::size_t>(count_of_modules(top, "n_layer", names)));
  for (auto& layer : s.layers) layer.feed_forward.width = top.size("n_inner", 4 * s.width);
  if (!top.flag("scale_attn_weights", true)) {
    top.fail("scale_attn_weights", "expected true, for nothing else is implemented, found false");
  }
  top.require_usual("scale_attn_by_inverse_layer_idx");
  top.require_usual("add_cross_attention");

  const std::string words = "wte.weight";
  const auto prefix = prefix_before(names, words, "table of tokens", file);
  if (!prefix) {
    io::fail(file, "not a GPT-2 with the names of Hugging Face: no tensor's name ends with " +
                       io::in_quotes(words));
  }
  plan.names.words = *prefix + words;
  plan.names.places = *prefix + "wpe.weight";
  plan.names.norm = affine(*prefix + "ln_f");
  const std::string head = "lm_head.weight";
  if (!s.tied || std::find(names.begin(), names.end(), head) != names.end()) plan.names.head = head;
  check_depth(names, *prefix + "h.", std::ssize(s.layers), "n_layer in " + s.file.string(), file);
  for (std::size_t i = 0; i < s.layers.size(); ++i) {
    const std::string at = *prefix + "h." + std::to_string(i) + ".";
    decoder_layer_names n;
    n.norm1 = affine(at + "ln_1");
    n.qkv = {affine(at + "attn.c_attn")};
    n.out = affine(at + "attn.c_proj");
    n.norm2 = affine(at + "ln_2");
    n.experts = {{{affine(at + "mlp.c_fc")}, affine(at + "mlp.c_proj")}};
    plan.names.layers.push_back(std::move(n));
  }
  return plan;
}

}  // namespace catmerge::harness
