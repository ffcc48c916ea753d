// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/fail.hpp>
#include <filesystem>
#include <harness/networks/clip/clip_vision_config.hpp>
#include <harness/networks/encoder_layer.hpp>
#include <harness/networks/parameter_names.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The names of the parameters of a CLIP vision transformer in one checkpoint. The network takes
/// all names from here: another vocabulary is another function that fills this in.
struct clip_vision_names {
  std::string class_embedding;
  std::string patch_embedding;
  std::string position_embedding;
  affine_names pre_norm;
  std::vector<encoder_names> layers;
  affine_names post_norm;
  std::string projection;             ///< empty if there is none
  bool projection_is_in_out = false;  ///< stored d_in x d_out
};

/// `name` if the checkpoint has it, else "". Throws if the configuration requires it.
inline std::string find_projection(const std::string& name, const std::vector<std::string>& names,
                                   const clip_vision_config& config,
                                   const std::filesystem::path& file) {
  if (std::find(names.begin(), names.end(), name) != names.end()) return name;
  if (!config.needs_projection.empty()) {
    io::fail(file, name,
             "is not in the file, but \"" + config.needs_projection + "\" in " +
                 config.file.string() + " names a model with a projection");
  }
  return {};
}

/// The names of transformers (whose own spelling is "pre_layrnorm") after a prefix, which may end
/// with "vision_model.". There is a projection if the checkpoint has one.
inline clip_vision_names hugging_face_names(const std::string& prefix,
                                            const std::vector<std::string>& names,
                                            const clip_vision_config& config,
                                            const std::filesystem::path& file) {
  check_depth(names, prefix + "encoder.layers.", config.layers,
              config.layers_key + " in " + config.file.string(), file);
  clip_vision_names n;
  n.class_embedding = prefix + "embeddings.class_embedding";
  n.patch_embedding = prefix + "embeddings.patch_embedding.weight";
  n.position_embedding = prefix + "embeddings.position_embedding.weight";
  n.pre_norm = affine(prefix + "pre_layrnorm");
  for (index_t i = 0; i < config.layers; ++i) {
    const std::string at = prefix + "encoder.layers." + std::to_string(i) + ".";
    n.layers.push_back({affine(at + "layer_norm1"),
                        {affine(at + "self_attn.q_proj"), affine(at + "self_attn.k_proj"),
                         affine(at + "self_attn.v_proj")},
                        affine(at + "self_attn.out_proj"),
                        affine(at + "layer_norm2"),
                        affine(at + "mlp.fc1"),
                        affine(at + "mlp.fc2")});
  }
  n.post_norm = affine(prefix + "post_layernorm");

  // The projection lies beside the vision model, not in it.
  constexpr std::string_view model = "vision_model.";
  std::string outside = prefix;
  if (outside.ends_with(model)) outside.resize(outside.size() - model.size());
  n.projection = find_projection(outside + "visual_projection.weight", names, config, file);
  return n;
}

/// The names of OpenAI's CLIP and of OpenCLIP after a prefix that ends with "visual.". q, k and v
/// are one weight; the projection is stored d_in x d_out.
inline clip_vision_names open_clip_names(const std::string& prefix,
                                         const std::vector<std::string>& names,
                                         const clip_vision_config& config,
                                         const std::filesystem::path& file) {
  check_depth(names, prefix + "transformer.resblocks.", config.layers,
              config.layers_key + " in " + config.file.string(), file);
  clip_vision_names n;
  n.class_embedding = prefix + "class_embedding";
  n.patch_embedding = prefix + "conv1.weight";
  n.position_embedding = prefix + "positional_embedding";
  n.pre_norm = affine(prefix + "ln_pre");
  for (index_t i = 0; i < config.layers; ++i) {
    const std::string at = prefix + "transformer.resblocks." + std::to_string(i) + ".";
    n.layers.push_back({affine(at + "ln_1"),
                        {{at + "attn.in_proj_weight", at + "attn.in_proj_bias"}},
                        affine(at + "attn.out_proj"),
                        affine(at + "ln_2"),
                        affine(at + "mlp.c_fc"),
                        affine(at + "mlp.c_proj")});
  }
  n.post_norm = affine(prefix + "ln_post");
  n.projection = find_projection(prefix + "proj", names, config, file);
  n.projection_is_in_out = true;
  return n;
}

/// The names of a checkpoint in either vocabulary, whatever the configuration's is. `names`: all
/// its tensors. The prefix is found by the patch embedding's name. Throws catmerge::error naming
/// `file`.
inline clip_vision_names find_clip_vision_names(const std::vector<std::string>& names,
                                                const clip_vision_config& config,
                                                const std::filesystem::path& file) {
  const std::string transformers = "embeddings.patch_embedding.weight",
                    open = "visual.conv1.weight";
  const std::string what = "patch embedding of a CLIP vision model";
  const auto hugging_face = prefix_before(names, transformers, what, file);
  const auto open_clip = prefix_before(names, open, what, file);
  if (hugging_face && open_clip) {
    io::fail(file, "two tensors could be the " + what + ": " +
                       io::in_quotes(*hugging_face + transformers) + " and " +
                       io::in_quotes(*open_clip + open));
  }
  if (hugging_face) return hugging_face_names(*hugging_face, names, config, file);
  if (open_clip) return open_clip_names(*open_clip + "visual.", names, config, file);
  io::fail(file, "not a CLIP vision model: no tensor's name ends with " +
                     io::in_quotes(transformers) + ", as in Hugging Face's, or with " +
                     io::in_quotes(open) + ", as in OpenAI's and OpenCLIP's");
}

}  // namespace catmerge::harness
