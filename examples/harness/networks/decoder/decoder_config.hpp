// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/fail.hpp>
#include <cmath>
#include <cstddef>
#include <harness/networks/config_object.hpp>
#include <harness/networks/decoder/decoder_shape.hpp>
#include <harness/networks/parameter_names.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// Reads the keys that configurations of decoders share, and finds a decoder's parameters by the
/// names that the transformers library gives them.
namespace catmerge::harness {

/// The settings of rotary positions: `rope_parameters`, or in older files `rope_scaling` beside
/// `rope_theta`.
class rotary_config {
 public:
  /// layer: "full_attention" or "sliding_attention", for a network with settings for each. top: the
  /// network's configuration. base: if the file names none. beside: the key of the base where the
  /// settings lack it.
  rotary_config(const config_object& top, const std::string& layer, double base,
                const std::string& beside = "rope_theta")
      : top_(top),
        settings_(settings_of(top, layer)),
        base_(settings_ && settings_->has("rope_theta") ? settings_->positive("rope_theta", base)
                                                        : top.positive(beside, base)) {}

  /// width: of a head. is_phi3: positions may turn a part of a head's columns only, longrope has
  /// two older names, and the length before the stretch stands in the network's configuration.
  rotary read(index_t width, bool is_phi3 = false) const {
    rotary r;
    r.base = static_cast<float>(base_);
    const double part = from_either("partial_rotary_factor", 1);
    if (part != 1 && !is_phi3) {
      top_.fail("partial_rotary_factor", "expected 1, for nothing else is implemented here");
    }
    r.width = part > 1 ? 0 : static_cast<index_t>(static_cast<double>(width) * part);
    if (r.width < 4 || r.width % 2 != 0) {
      top_.fail("partial_rotary_factor",
                "expected positions in an even number of columns from 4 to " +
                    std::to_string(width) + ", a head's width, found " + std::to_string(r.width));
    }
    if (!settings_) return r;
    const config_object& s = *settings_;
    std::string type = s.text("rope_type", s.text("type", "default"));
    if (is_phi3 && (type == "su" || type == "yarn")) type = "longrope";
    if (type == "default") return r;
    r.factor = s.positive("factor", 1);
    if (type == "linear") {
      r.scaling = rotary_scaling::linear;
    } else if (type == "dynamic") {
      r.scaling = rotary_scaling::dynamic;
      r.length = top_.size("max_position_embeddings");
    } else if (type == "llama3") {
      r.scaling = rotary_scaling::llama3;
      r.low = s.positive("low_freq_factor", 1);
      r.high = s.positive("high_freq_factor", 4);
      if (!(r.low < r.high)) s.fail("high_freq_factor", "expected more than low_freq_factor");
      r.length = known_length(is_phi3);
    } else if (type == "yarn") {
      read_yarn(r, is_phi3);
    } else if (type == "longrope") {
      read_longrope(r, is_phi3);
    } else {
      s.fail("rope_type",
             "expected 'default', 'linear', 'dynamic', 'llama3', 'yarn' or 'longrope', found " +
                 io::in_quotes(type));
    }
    return r;
  }

 private:
  static std::optional<config_object> settings_of(const config_object& top,
                                                  const std::string& layer) {
    const auto found =
        top.find_object(top.has("rope_scaling") ? "rope_scaling" : "rope_parameters");
    const bool nested = found && (found->has("full_attention") || found->has("sliding_attention"));
    return nested ? found->find_object(layer) : found;
  }

  /// A number of the settings or, if they lack it, of the whole configuration.
  double from_either(const std::string& key, double fallback) const {
    return settings_ && settings_->has(key) ? settings_->positive(key, fallback)
                                            : top_.positive(key, fallback);
  }

  /// The length of the texts before the stretch. Beside the settings it counts before them. Phi-3
  /// has it there alone.
  index_t known_length(bool is_phi3) const {
    const std::string key = "original_max_position_embeddings";
    if (is_phi3) return top_.size(key, 4096);
    if (top_.has(key)) return top_.size(key);
    return settings_->has(key) ? settings_->size(key) : top_.size("max_position_embeddings");
  }

  double default_factor(index_t length) const {
    if (settings_->has("factor")) return settings_->positive("factor", 1);
    return static_cast<double>(top_.size("max_position_embeddings")) / static_cast<double>(length);
  }

  void read_yarn(rotary& r, bool is_phi3) const {
    const config_object& s = *settings_;
    r.scaling = rotary_scaling::yarn;
    r.length = known_length(is_phi3);
    r.factor = default_factor(r.length);
    r.beta_fast = s.positive("beta_fast", 32);
    r.beta_slow = s.positive("beta_slow", 1);
    r.truncate = s.flag("truncate", true);
    const auto longer = [&](double by) {
      return r.factor <= 1 ? 1 : 0.1 * by * std::log(r.factor) + 1;
    };
    double stretch = longer(1);
    if (s.has("mscale") && s.has("mscale_all_dim")) {
      stretch = longer(s.positive("mscale", 1)) / longer(s.positive("mscale_all_dim", 1));
    }
    r.stretch = static_cast<float>(s.positive("attention_factor", stretch));
  }

  void read_longrope(rotary& r, bool is_phi3) const {
    const config_object& s = *settings_;
    r.scaling = rotary_scaling::longrope;
    r.length = known_length(is_phi3);
    r.factor = default_factor(r.length);
    const auto list = [&](const std::string& key) {
      std::vector<float> found;
      for (const double x : s.numbers(key)) {
        if (!(static_cast<float>(x) > 0)) s.fail(key, "expected positive numbers");
        found.push_back(static_cast<float>(x));
      }
      if (std::ssize(found) != r.width / 2) {
        s.fail(key, "expected " + std::to_string(r.width / 2) +
                        " numbers, one for each two columns, found " +
                        std::to_string(found.size()));
      }
      return found;
    };
    r.short_list = list("short_factor");
    r.long_list = list("long_factor");
    const double stretch =
        r.factor <= 1 ? 1
                      : std::sqrt(1 + std::log(r.factor) / std::log(static_cast<double>(r.length)));
    r.stretch = static_cast<float>(s.positive("attention_factor", stretch));
  }

  const config_object& top_;
  std::optional<config_object> settings_;
  double base_;
};

/// Which layers attend to a window only: `layer_types`, or what `by_default` says for a layer's
/// number.
template <class ByDefault>
std::vector<bool> sliding_layers(const config_object& top, index_t layers,
                                 const ByDefault& by_default) {
  std::vector<bool> sliding;
  const auto types = top.texts("layer_types");
  if (!types.empty() && std::ssize(types) != layers) {
    top.fail("layer_types", "expected " + std::to_string(layers) +
                                " entries, as num_hidden_layers says, found " +
                                std::to_string(types.size()));
  }
  for (index_t i = 0; i < layers; ++i) {
    if (types.empty()) {
      sliding.push_back(by_default(i));
      continue;
    }
    const std::string& type = types[static_cast<std::size_t>(i)];
    if (type != "full_attention" && type != "sliding_attention") {
      top.fail("layer_types",
               "expected 'full_attention' or 'sliding_attention', found " + io::in_quotes(type));
    }
    sliding.push_back(type == "sliding_attention");
  }
  return sliding;
}

/// The values that transformers gives to absent keys of a family. The text_config of a Gemma 3 with
/// vision lacks every key that has its default.
struct size_defaults {
  std::optional<index_t> num_key_value_heads{};  ///< none: num_attention_heads
  std::optional<index_t> head_dim{};             ///< none: hidden_size / num_attention_heads
  double rms_norm_eps = 1e-6;
  /// None: an error.
  std::optional<index_t> vocab_size{}, hidden_size{}, intermediate_size{}, num_hidden_layers{},
      num_attention_heads{};
};

/// A number of layers or of experts: at most as many as there are tensors, or the names alone would
/// fill the memory.
inline index_t count_of_modules(const config_object& top, const std::string& key,
                                const std::vector<std::string>& names,
                                std::optional<index_t> fallback = {}) {
  const index_t count = top.size(key, fallback);
  if (count > std::ssize(names)) {
    top.fail(key, "expected at most the number of tensors in the checkpoint, " +
                      std::to_string(names.size()) + ", found " + std::to_string(count));
  }
  return count;
}

/// Sizes under the keys that all but GPT-2 share. A null counts as absent for num_key_value_heads
/// and head_dim where there is no number for an absent key, and is an error where there is one.
inline decoder_shape read_sizes(const config_object& top, const std::vector<std::string>& names,
                                const size_defaults& defaults) {
  decoder_shape s;
  s.file = top.file();
  s.width = top.size("hidden_size", defaults.hidden_size);
  s.words = top.size("vocab_size", defaults.vocab_size);
  s.heads = top.size("num_attention_heads", defaults.num_attention_heads);
  const std::string keys = "num_key_value_heads";
  s.key_heads =
      top.size(keys, top.is_null(keys) ? s.heads : defaults.num_key_value_heads.value_or(s.heads));
  if (s.heads % s.key_heads != 0) {
    top.fail(keys, std::to_string(s.key_heads) + " heads do not divide num_attention_heads " +
                       std::to_string(s.heads));
  }
  const std::string head = "head_dim";
  if (top.has(head) || defaults.head_dim) {
    s.head_width = top.is_null(head) ? top.size(head) : top.size(head, defaults.head_dim);
  } else {
    s.head_width = s.width / s.heads;
    if (s.width % s.heads != 0) {
      top.fail(
          "num_attention_heads",
          std::to_string(s.heads) + " heads do not divide hidden_size " + std::to_string(s.width));
    }
  }
  s.score_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(s.head_width)));
  s.epsilon = static_cast<float>(top.positive("rms_norm_eps", defaults.rms_norm_eps));
  s.layers.resize(static_cast<std::size_t>(
      count_of_modules(top, "num_hidden_layers", names, defaults.num_hidden_layers)));
  for (auto& layer : s.layers)
    layer.feed_forward.width = top.size("intermediate_size", defaults.intermediate_size);
  return s;
}

/// The names of transformers for everything but the layers: `embed_tokens`, `norm` and `lm_head`
/// with any prefix ("model.", "language_model.model.", ...). Returns the prefix of the layers'
/// names ("model.layers."). Throws catmerge::error naming `file`.
inline std::string find_ends(const std::vector<std::string>& names,
                             const std::filesystem::path& file, decoder_plan& plan) {
  const std::string words = "embed_tokens.weight";
  const auto found = prefix_before(names, words, "table of tokens", file);
  if (!found) {
    io::fail(file, "not a decoder with the names of Hugging Face: no tensor's name ends with " +
                       io::in_quotes(words));
  }
  plan.names.words = *found + words;
  plan.names.norm = {*found + "norm.weight", {}};
  const std::string head = "lm_head.weight";
  const auto before = prefix_before(names, head, "output's table", file);
  if (before) plan.names.head = *before + head;
  if (!before && !plan.shape.tied) {
    io::fail(file, "no tensor's name ends with " + io::in_quotes(head) + ", and " +
                       plan.shape.file.string() +
                       " does not say that it is the table of tokens (tie_word_embeddings)");
  }
  std::string layers = *found + "layers.";
  check_depth(names, layers, std::ssize(plan.shape.layers),
              "num_hidden_layers in " + plan.shape.file.string(), file);
  return layers;
}

/// MODULE.weight, and MODULE.bias if there is a bias.
inline affine_names affine_with(const std::string& module, bool bias) {
  return {module + ".weight", bias ? module + ".bias" : std::string()};
}
inline affine_names scale_of(const std::string& module) {
  return affine_with(module, false);
}

/// The gated feed-forward layer of most decoders.
inline feed_forward_names gate_up_down(const std::string& module, bool bias = false) {
  return {{affine_with(module + "gate_proj", bias), affine_with(module + "up_proj", bias)},
          affine_with(module + "down_proj", bias)};
}

/// self_attn.{q,k,v,o}_proj
inline void name_attention(decoder_layer_names& n, const std::string& layer, bool qkv_bias,
                           bool out_bias) {
  for (const char* each : {"q_proj", "k_proj", "v_proj"}) {
    n.qkv.push_back(affine_with(layer + "self_attn." + each, qkv_bias));
  }
  n.out = affine_with(layer + "self_attn.o_proj", out_bias);
}

/// self_attn.{q,k}_norm
inline void name_query_norms(decoder_layer_names& n, const std::string& layer) {
  n.query_norm = scale_of(layer + "self_attn.q_norm");
  n.key_norm = scale_of(layer + "self_attn.k_norm");
}

}  // namespace catmerge::harness
