// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <filesystem>
#include <harness/networks/config_object.hpp>
#include <harness/networks/encoder_layer.hpp>
#include <harness/networks/patches.hpp>
#include <string>

namespace catmerge::harness {

/// The configuration of a BLIP.
struct blip_config {
  std::filesystem::path file;  ///< its path, for messages
  patch_grid grid;             ///< of the images
  encoder_shape vision;        ///< norms before the branches
  encoder_shape text;          ///< norms after the branches; of encoder and decoder alike
  index_t vision_layers = 0;   ///< num_hidden_layers
  index_t text_layers = 0;     ///< of the encoder and of the decoder
  index_t words = 0;           ///< vocab_size
  index_t places = 0;          ///< max_position_embeddings
  index_t begin = 0;           ///< bos_token_id: the token before a text that is written
  index_t end = 0;             ///< sep_token_id: the token after it
  index_t pad = 0;             ///< pad_token_id
  bool tied = true;  ///< the output has the decoder's table of tokens, unless its own differs
  index_t matching_width = 0;  ///< image_text_hidden_size: of the projections for matching
};

/// The layers that an object of a BLIP's configuration describes. heads, epsilon: the defaults of
/// num_attention_heads and layer_norm_eps.
inline encoder_shape read_blip_layers(const config_object& at, index_t heads, double epsilon,
                                      norm_place norms) {
  encoder_shape s;
  s.width = at.size("hidden_size", 768);
  s.mlp_width = at.size("intermediate_size", 3072);
  s.heads = at.heads_of(s.width, heads);
  s.mlp_activation = at.nonlinearity("hidden_act", "gelu");
  s.epsilon = static_cast<float>(at.positive("layer_norm_eps", epsilon));
  s.norms = norms;
  return s;
}

/// Reads a config.json of transformers with the model_type "blip". As there, a nested object has
/// only the keys that differ from the defaults; those of BlipVisionConfig and BlipTextConfig
/// replace the others. Note the heads of a text layer: 8 by default, 12 in released checkpoints.
/// Throws catmerge::error naming the file and the key, also for settings of another network.
inline blip_config read_blip(const config_object& top) {
  const auto part = [&](const char* key) {
    const auto found = top.find_object(key);
    if (!found) top.fail(key, "is missing");
    return *found;
  };
  const config_object vision = part("vision_config"), text = part("text_config");
  blip_config c;
  c.file = top.file();
  c.grid = {3, vision.size("image_size", 384), vision.size("patch_size", 16)};
  check_patches(c.grid, vision);
  c.vision = read_blip_layers(vision, 12, 1e-5, norm_place::before);
  c.vision_layers = vision.size("num_hidden_layers", 12);
  c.text = read_blip_layers(text, 8, 1e-12, norm_place::after);
  c.text_layers = text.size("num_hidden_layers", 12);
  if (!text.flag("is_decoder", true))
    text.fail("is_decoder", "expected true: without it there is no cross attention");
  text.require_usual("position_embedding_type", "absolute");
  c.words = text.size("vocab_size", 30524);
  if (c.words < 2) text.fail("vocab_size", "expected 2 or more, found 1");
  c.places = text.size("max_position_embeddings", 512);
  const auto token = [&](const char* key, index_t fallback) {
    const index_t found = text.index(key, fallback);
    if (found >= c.words)
      text.fail(key, "expected 0 to " + std::to_string(c.words - 1) + ", the last of vocab_size, " +
                         "found " + std::to_string(found));
    return found;
  };
  c.begin = token("bos_token_id", 30522);
  c.end = token("sep_token_id", 102);
  c.pad = token("pad_token_id", 0);
  // As transformers has it, either key ties them.
  c.tied = text.flag("tie_word_embeddings", true) || top.flag("tie_word_embeddings", true);
  c.matching_width = top.size("image_text_hidden_size", 256);
  return c;
}

}  // namespace catmerge::harness
