// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/fail.hpp>
#include <catmerge/io/json.hpp>
#include <catmerge/io/mapped_file.hpp>
#include <filesystem>
#include <network/config_object.hpp>
#include <network/layers.hpp>
#include <network/matrix.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace catmerge::harness {

/// What config.json says about a CLIP vision transformer.
struct clip_vision_config {
  std::filesystem::path file;  ///< where it was read, for messages
  index_t width = 0;           ///< hidden_size, d
  index_t mlp_width = 0;       ///< intermediate_size
  index_t layers = 0;          ///< num_hidden_layers
  index_t heads = 0;           ///< num_attention_heads; divides width
  index_t channels = 0;        ///< num_channels
  index_t image_size = 0;      ///< pixels along each side
  index_t patch_size = 0;      ///< divides image_size
  index_t projection = 0;  ///< projection_dim: width of image_embeds where there is a projection
  bool needs_projection = false;  ///< "architectures" names a model that has one
  activation mlp_activation = activation::quick_gelu;
  float epsilon = 1e-5F;  ///< layer_norm_eps

  index_t grid() const { return image_size / patch_size; }
  index_t tokens() const { return grid() * grid() + 1; }
  index_t pixels() const { return channels * image_size * image_size; }
};

/// Reads the text of a config.json: of CLIPVisionModel, CLIPVisionModelWithProjection, or of a
/// whole CLIPModel, whose "vision_config" is taken. transformers writes all keys of a vision
/// model's own file, and of a nested one only those that differ from its defaults; so in a nested
/// one those defaults stand in for what is missing, while elsewhere the sizes must be there. `file`
/// is named in messages. Throws catmerge::error naming the file and the key.
inline clip_vision_config parse_clip_vision_config(std::string_view text,
                                                   const std::filesystem::path& file) {
  const nlohmann::json whole = io::parse_json(text, file, "configuration");
  const config_object top(file, whole);
  const std::optional<config_object> nested = top.find_object("vision_config");
  const config_object& at = nested ? *nested : top;

  const std::string kind = top.text("model_type", nested ? "clip" : "clip_vision_model");
  if (kind != (nested ? "clip" : "clip_vision_model")) {
    top.fail("model_type",
             "expected 'clip_vision_model', or 'clip' with a 'vision_config', found " +
                 io::in_quotes(kind));
  }

  // The defaults of transformers' CLIPVisionConfig: those of ViT-B/32.
  const auto size = [&](const char* key, index_t fallback) {
    return at.size(key, nested ? std::optional(fallback) : std::nullopt);
  };
  clip_vision_config c;
  c.file = file;
  c.width = size("hidden_size", 768);
  c.mlp_width = size("intermediate_size", 3072);
  c.layers = size("num_hidden_layers", 12);
  c.heads = size("num_attention_heads", 12);
  c.image_size = size("image_size", 224);
  c.patch_size = size("patch_size", 32);
  c.channels = at.size("num_channels", 3);
  c.projection = at.size("projection_dim", 512);
  if (nested) c.projection = top.size("projection_dim", c.projection);
  c.epsilon = at.positive("layer_norm_eps", 1e-5F);

  const std::string act = at.text("hidden_act", "quick_gelu");
  if (const auto known = activation_named(act)) {
    c.mlp_activation = *known;
  } else {
    at.fail("hidden_act", "expected 'quick_gelu' or 'gelu', found " + io::in_quotes(act));
  }
  if (c.width % c.heads != 0) {
    at.fail("num_attention_heads", std::to_string(c.heads) + " heads do not divide hidden_size " +
                                       std::to_string(c.width));
  }
  if (c.image_size % c.patch_size != 0) {
    at.fail("patch_size", "patches of " + std::to_string(c.patch_size) +
                              " pixels do not divide image_size " + std::to_string(c.image_size));
  }
  c.needs_projection = top.lists("architectures", "CLIPVisionModelWithProjection") ||
                       top.lists("architectures", "CLIPModel");
  return c;
}

inline clip_vision_config read_clip_vision_config(const std::filesystem::path& file) {
  const io::mapped_file contents(file);
  return parse_clip_vision_config(io::as_text(contents.bytes()), file);
}

}  // namespace catmerge::harness
