// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/fail.hpp>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <network/config.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace catmerge::harness {

/// The names of a layer's two parameters in a checkpoint.
struct affine_names {
  std::string weight;
  std::string bias;
};

/// What the parameters of a CLIP vision transformer are called in one checkpoint. The network knows
/// no other names, so another vocabulary is another function that fills this in.
struct clip_vision_names {
  struct layer {
    affine_names norm1, q, k, v, out, norm2, fc1, fc2;
  };
  std::string class_embedding;
  std::string patch_embedding;
  std::string position_embedding;
  affine_names pre_norm;
  std::vector<layer> layers;
  affine_names post_norm;
  std::string projection;  ///< empty if there is none
};

namespace detail {

/// What stands before `suffix` in the one name that ends with it: "", "vision_model.",
/// "model.vision_model.", ...
inline std::string common_prefix(const std::vector<std::string>& names, std::string_view suffix,
                                 const std::filesystem::path& file) {
  const std::string* found = nullptr;
  for (const std::string& name : names) {
    if (!name.ends_with(suffix)) continue;
    // A part of a name ends with a dot: "my_embeddings" is not "embeddings".
    if (name.size() > suffix.size() && name[name.size() - suffix.size() - 1] != '.') continue;
    if (found != nullptr) {
      io::fail(file, "two tensors could be the patch embedding of a CLIP vision model: " +
                         io::in_quotes(*found) + " and " + io::in_quotes(name));
    }
    found = &name;
  }
  if (found == nullptr) {
    io::fail(file,
             "not a CLIP vision model with the names of Hugging Face: no tensor's name ends with " +
                 io::in_quotes(suffix));
  }
  return found->substr(0, found->size() - suffix.size());
}

/// Throws if a name says that there are more encoder layers than the configuration counts: the
/// network would run, and be another one.
inline void check_depth(const std::vector<std::string>& names, const std::string& layers_prefix,
                        const clip_vision_config& config, const std::filesystem::path& file) {
  for (const std::string& name : names) {
    if (!name.starts_with(layers_prefix)) continue;
    index_t number = -1;
    const char* const begin = name.data() + layers_prefix.size();
    std::from_chars(begin, name.data() + name.size(), number);
    if (number >= config.layers) {
      io::fail(file, name,
               "expected " + std::to_string(config.layers) + " layers, as num_hidden_layers in " +
                   config.file.string() + " says");
    }
  }
}

}  // namespace detail

/// The names that transformers gives them (its "pre_layrnorm" is no slip of ours). `names`: all
/// tensors of the checkpoint; whatever stands before a name's known part is found out from them.
/// There is a projection if the checkpoint has one. Throws catmerge::error naming `file`.
inline clip_vision_names hugging_face_names(const std::vector<std::string>& names,
                                            const clip_vision_config& config,
                                            const std::filesystem::path& file) {
  const std::string patch = "embeddings.patch_embedding.weight";
  const std::string prefix = detail::common_prefix(names, patch, file);
  detail::check_depth(names, prefix + "encoder.layers.", config, file);
  const auto affine = [](const std::string& module) {
    return affine_names{module + ".weight", module + ".bias"};
  };

  clip_vision_names n;
  n.class_embedding = prefix + "embeddings.class_embedding";
  n.patch_embedding = prefix + patch;
  n.position_embedding = prefix + "embeddings.position_embedding.weight";
  n.pre_norm = affine(prefix + "pre_layrnorm");
  for (index_t i = 0; i < config.layers; ++i) {
    const std::string at = prefix + "encoder.layers." + std::to_string(i) + ".";
    n.layers.push_back({affine(at + "layer_norm1"), affine(at + "self_attn.q_proj"),
                        affine(at + "self_attn.k_proj"), affine(at + "self_attn.v_proj"),
                        affine(at + "self_attn.out_proj"), affine(at + "layer_norm2"),
                        affine(at + "mlp.fc1"), affine(at + "mlp.fc2")});
  }
  n.post_norm = affine(prefix + "post_layernorm");

  // The projection lies beside the vision model, not in it.
  constexpr std::string_view model = "vision_model.";
  std::string outside = prefix;
  if (outside.ends_with(model)) outside.resize(outside.size() - model.size());
  const std::string projection = outside + "visual_projection.weight";
  if (std::find(names.begin(), names.end(), projection) != names.end()) {
    n.projection = projection;
  } else if (config.needs_projection) {
    io::fail(file, projection,
             "is not in the file, but \"architectures\" in " + config.file.string() +
                 " names a model with a projection");
  }
  return n;
}

}  // namespace catmerge::harness
