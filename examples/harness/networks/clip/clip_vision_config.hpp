// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/fail.hpp>
#include <filesystem>
#include <harness/networks/activations.hpp>
#include <harness/networks/config_object.hpp>
#include <harness/networks/layers.hpp>
#include <harness/networks/patches.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace catmerge::harness {

/// The configuration of a CLIP vision transformer.
struct clip_vision_config {
  std::filesystem::path file;  ///< its path, for messages
  std::string layers_key;      ///< the file's key of `layers`, for messages
  index_t width = 0;           ///< hidden_size, d
  index_t mlp_width = 0;       ///< intermediate_size
  index_t layers = 0;          ///< num_hidden_layers
  index_t heads = 0;           ///< num_attention_heads; divides width
  patch_grid grid;             ///< num_channels, image_size and patch_size
  index_t projection = 0;  ///< projection_dim: the width of image_embeds if there is a projection
  std::string needs_projection;  ///< the key that requires a projection; empty if none does
  activation mlp_activation = activation::quick_gelu;
  float epsilon = 1e-5F;  ///< layer_norm_eps
};

/// Reads a config.json of transformers: of CLIPVisionModel, CLIPVisionModelWithProjection, or the
/// "vision_config" of a whole CLIPModel. transformers writes all keys of a vision model's own file,
/// but of a nested object only those that differ from its defaults. So the defaults replace missing
/// keys of a nested object; elsewhere the sizes are required. Throws catmerge::error naming the
/// file and the key.
inline clip_vision_config read_hugging_face_clip(const config_object& top) {
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
  c.file = top.file();
  c.layers_key = "num_hidden_layers";
  c.width = size("hidden_size", 768);
  c.mlp_width = size("intermediate_size", 3072);
  c.layers = size("num_hidden_layers", 12);
  c.heads = at.heads_of(c.width, nested ? std::optional<index_t>(12) : std::nullopt);
  c.grid.image_size = size("image_size", 224);
  c.grid.patch_size = size("patch_size", 32);
  c.grid.channels = at.size("num_channels", 3);
  c.projection = at.size("projection_dim", 512);
  if (nested) c.projection = top.size("projection_dim", c.projection);
  c.epsilon = static_cast<float>(at.positive("layer_norm_eps", 1e-5));
  c.mlp_activation = at.nonlinearity("hidden_act", "quick_gelu");
  check_patches(c.grid, at);
  if (top.lists("architectures", "CLIPVisionModelWithProjection") ||
      top.lists("architectures", "CLIPModel")) {
    c.needs_projection = "architectures";
  }
  return c;
}

/// Reads a configuration of OpenCLIP 3.3.0: the "model_cfg" of an open_clip_config.json, or that
/// object alone, as in open_clip's own model_configs. Absent keys have the defaults of its
/// CLIPVisionCfg. An unknown key, or a value that would make it another network, is an error.
/// Throws catmerge::error naming the file and the key.
///
/// "quick_gelu" decides the activation. OpenAI's weights need it (open_clip sets it when it loads
/// them, whatever the file says).
inline clip_vision_config read_open_clip(const config_object& top) {
  const std::optional<config_object> nested = top.find_object("model_cfg");
  const config_object& model = nested ? *nested : top;
  const std::optional<config_object> vision = model.find_object("vision_cfg");
  if (!vision) model.fail("vision_cfg", "is missing");
  const config_object& at = *vision;

  at.require_usual("pool_type", "tok");
  at.require_usual("block_type", "default");
  // Keys read in this function, and keys without effect here: dropout of patches is for training,
  // the norm after pooling is the pooled token's norm, a fixed position embedding is in the
  // checkpoint like any other, and details of poolers and of timm's models need another key to take
  // effect. Any other key is an error unless it is off.
  const std::string_view known_keys =
      " layers width head_width mlp_ratio patch_size image_size pool_type block_type "
      " patch_dropout final_ln_after_pool pos_embed_type output_tokens "
      " attn_pooler_queries attn_pooler_heads timm_model_pretrained timm_pool timm_proj "
      " timm_proj_bias timm_drop timm_drop_path ";
  for (const std::string& key : at.keys()) {
    if (known_keys.find(" " + key + " ") == std::string_view::npos) at.require_usual(key);
  }

  clip_vision_config c;
  c.file = top.file();
  c.layers_key = "layers";
  c.width = at.size("width", 768);
  c.layers = at.size("layers", 12);
  const index_t head_width = at.size("head_width", 64);
  c.heads = c.width / head_width;
  if (c.heads == 0 || c.width % c.heads != 0) {
    at.fail("head_width", "heads of " + std::to_string(head_width) + " do not divide width " +
                              std::to_string(c.width));
  }
  // In double and truncated, as by Python's int().
  const double mlp_width = static_cast<double>(c.width) * at.positive("mlp_ratio", 4.0);
  if (!(mlp_width >= 1.0 && mlp_width <= double{1 << 20})) {
    at.fail("mlp_ratio", "the MLP would have " + std::to_string(mlp_width) + " columns");
  }
  c.mlp_width = static_cast<index_t>(mlp_width);
  c.grid.image_size = at.size("image_size", 224);
  c.grid.patch_size = at.size("patch_size", 16);
  check_patches(c.grid, at);
  c.grid.channels = 3;
  c.projection = model.size("embed_dim");
  c.needs_projection = "embed_dim";
  c.mlp_activation = model.flag("quick_gelu", false) ? activation::quick_gelu : activation::gelu;
  c.epsilon = 1e-5F;
  return c;
}

}  // namespace catmerge::harness
