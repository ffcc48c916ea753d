// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/fail.hpp>
#include <filesystem>
#include <harness/networks/blip/blip_config.hpp>
#include <harness/networks/blip/text_layer.hpp>
#include <harness/networks/parameter_names.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// A text part of a BLIP: an encoder or a decoder.
struct text_part_names {
  std::string words, places;  ///< the embedding tables
  affine_names embedding_norm;
  std::vector<text_layer_names> layers;
};

/// The names of the parameters of a BLIP in one checkpoint. What it has decides what it is for:
/// an encoder and a decoder answer questions, a decoder writes captions, an encoder matches texts
/// with images.
struct blip_names {
  std::string class_embedding, positions;
  affine_names patches;
  std::vector<encoder_names> vision;
  affine_names vision_norm;
  std::vector<text_part_names> texts;      ///< in forward order
  bool has_decoder = false;                ///< it is the last of `texts`
  affine_names transform, transform_norm;  ///< of the decoder's output
  bool tied = true;                        ///< the output's table is that of the decoder's words
  std::string output_table, output_bias;
  affine_names match, image_projection, text_projection;  ///< of an encoder alone
};

/// The names of a text part's layers after a prefix.
inline text_part_names text_part(const std::string& prefix, const blip_config& config,
                                 const std::vector<std::string>& names,
                                 const std::filesystem::path& file) {
  check_depth(names, prefix + "encoder.layer.", config.text_layers,
              "text_config.num_hidden_layers in " + config.file.string(), file);
  text_part_names n;
  n.words = prefix + "embeddings.word_embeddings.weight";
  n.places = prefix + "embeddings.position_embeddings.weight";
  n.embedding_norm = affine(prefix + "embeddings.LayerNorm");
  for (index_t i = 0; i < config.text_layers; ++i) {
    const std::string at = prefix + "encoder.layer." + std::to_string(i) + ".";
    const std::string self = at + "attention.", cross = at + "crossattention.";
    n.layers.push_back(
        {{affine(self + "output.LayerNorm"),
          {affine(self + "self.query"), affine(self + "self.key"), affine(self + "self.value")},
          affine(self + "output.dense"),
          affine(at + "output.LayerNorm"),
          affine(at + "intermediate.dense"),
          affine(at + "output.dense")},
         affine(cross + "self.query"),
         affine(cross + "self.key"),
         affine(cross + "self.value"),
         affine(cross + "output.dense"),
         affine(cross + "output.LayerNorm")});
  }
  return n;
}

/// The names of transformers with any prefix, which the name of the patch embedding decides.
/// `names`: all tensors of the checkpoint. Throws catmerge::error naming `file`.
/// untied(one, other): of two tensors that the configuration ties, and that the checkpoint holds,
/// each is used for itself.
template <class Untied>
blip_names find_blip_names(const std::vector<std::string>& names, const blip_config& config,
                           const std::filesystem::path& file, const Untied& untied) {
  const std::string patches = "vision_model.embeddings.patch_embedding.weight";
  const auto found = prefix_before(names, patches, "patch embedding of a BLIP", file);
  if (!found) {
    io::fail(file, "not a BLIP with the names of Hugging Face: no tensor's name ends with " +
                       io::in_quotes(patches));
  }
  const std::string& prefix = *found;
  const auto has = [&](const std::string& name) {
    return std::find(names.begin(), names.end(), prefix + name) != names.end();
  };

  const std::string vision = prefix + "vision_model.";
  check_depth(names, vision + "encoder.layers.", config.vision_layers,
              "vision_config.num_hidden_layers in " + config.file.string(), file);
  blip_names n;
  n.class_embedding = vision + "embeddings.class_embedding";
  n.patches = affine(vision + "embeddings.patch_embedding");
  n.positions = vision + "embeddings.position_embedding";
  for (index_t i = 0; i < config.vision_layers; ++i) {
    const std::string at = vision + "encoder.layers." + std::to_string(i) + ".";
    n.vision.push_back({affine(at + "layer_norm1"),
                        {affine(at + "self_attn.qkv")},
                        affine(at + "self_attn.projection"),
                        affine(at + "layer_norm2"),
                        affine(at + "mlp.fc1"),
                        affine(at + "mlp.fc2")});
  }
  n.vision_norm = affine(vision + "post_layernorm");

  const std::string words = "embeddings.word_embeddings.weight";
  n.has_decoder = has("text_decoder.bert." + words);
  if (has("text_encoder." + words))
    n.texts.push_back(text_part(prefix + "text_encoder.", config, names, file));
  if (n.has_decoder)
    n.texts.push_back(text_part(prefix + "text_decoder.bert.", config, names, file));
  if (n.texts.empty() || (!n.has_decoder && !has("itm_head.weight"))) {
    io::fail(file,
             "not a BLIP that writes captions, answers questions or matches texts with images: "
             "expected 'text_decoder.bert." +
                 words + "', or 'text_encoder." + words + "' and 'itm_head.weight'");
  }
  if (n.has_decoder) {
    // Table and bias of the output: its own, or those that they are tied to.
    const auto is_own = [&](const std::string& own, const std::string& tied_to) {
      if (!has(own)) return false;
      return !config.tied || !has(tied_to) || untied(prefix + tied_to, prefix + own);
    };
    const std::string output = "text_decoder.cls.predictions.";
    n.transform = affine(prefix + output + "transform.dense");
    n.transform_norm = affine(prefix + output + "transform.LayerNorm");
    n.tied = config.tied && !is_own(output + "decoder.weight", "text_decoder.bert." + words);
    n.output_table = n.tied ? n.texts.back().words : prefix + output + "decoder.weight";
    const bool has_bias = is_own(output + "decoder.bias", output + "bias");
    n.output_bias = prefix + output + (has_bias ? "decoder.bias" : "bias");
  } else {
    n.match = affine(prefix + "itm_head");
    n.image_projection = affine(prefix + "vision_proj");
    n.text_projection = affine(prefix + "text_proj");
  }
  return n;
}

}  // namespace catmerge::harness
