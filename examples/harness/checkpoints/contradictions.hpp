// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <catmerge/io/checkpoint.hpp>
#include <catmerge/io/json.hpp>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Checks that an expert can come from the base, by the files beside the weights: keys of
/// config.json that define the network, and the order of tokens.
namespace catmerge::harness {

namespace detail {

/// The JSON object of a file in a checkpoint's folder; null if there is none.
inline nlohmann::json side_object(const io::checkpoint& checkpoint, const char* name) {
  std::error_code ignored;
  const auto path = checkpoint.path() / name;
  if (checkpoint.format() == io::checkpoint_format::safetensors_file ||
      !std::filesystem::is_regular_file(path, ignored))
    return {};
  const io::mapped_file file(path);
  return io::parse_json(io::as_text(file.bytes()), path, "file");
}

/// True if two checkpoints have the same bytes in a side file, which then need not be parsed.
inline bool same_side_file(const io::checkpoint& a, const io::checkpoint& b, const char* name) {
  std::error_code ignored;
  const auto one = a.path() / name, other = b.path() / name;
  if (!std::filesystem::is_regular_file(one, ignored) ||
      !std::filesystem::is_regular_file(other, ignored))
    return false;
  const io::mapped_file x(one), y(other);
  return std::equal(x.bytes().begin(), x.bytes().end(), y.bytes().begin(), y.bytes().end());
}

/// True for keys of config.json that change the network's function of the same weights. Left out on
/// purpose: settings that fine-tuning may change (heads and labels, dropout, the number of tokens,
/// the longest input) and settings of running (caches, types, versions).
inline bool changes_the_network(std::string_view key) {
  constexpr std::array<std::string_view, 87> keys = {"model_type",
                                                     "hidden_size",
                                                     "intermediate_size",
                                                     "num_hidden_layers",
                                                     "num_attention_heads",
                                                     "num_key_value_heads",
                                                     "head_dim",
                                                     "hidden_act",
                                                     "hidden_activation",
                                                     "activation_function",
                                                     "activation",
                                                     "feed_forward_proj",
                                                     "dense_act_fn",
                                                     "rope_theta",
                                                     "rope_type",
                                                     "factor",
                                                     "low_freq_factor",
                                                     "high_freq_factor",
                                                     "original_max_position_embeddings",
                                                     "attention_factor",
                                                     "beta_fast",
                                                     "beta_slow",
                                                     "mscale",
                                                     "mscale_all_dim",
                                                     "truncate",
                                                     "short_factor",
                                                     "long_factor",
                                                     "rope_local_base_freq",
                                                     "partial_rotary_factor",
                                                     "rotary_pct",
                                                     "rotary_emb_base",
                                                     "rotary_dim",
                                                     "rms_norm_eps",
                                                     "layer_norm_eps",
                                                     "layer_norm_epsilon",
                                                     "norm_epsilon",
                                                     "norm_eps",
                                                     "layernorm_epsilon",
                                                     "n_embd",
                                                     "n_layer",
                                                     "n_head",
                                                     "n_inner",
                                                     "d_model",
                                                     "d_kv",
                                                     "d_ff",
                                                     "num_layers",
                                                     "num_heads",
                                                     "encoder_layers",
                                                     "decoder_layers",
                                                     "encoder_attention_heads",
                                                     "decoder_attention_heads",
                                                     "encoder_ffn_dim",
                                                     "decoder_ffn_dim",
                                                     "ffn_dim",
                                                     "dim",
                                                     "n_heads",
                                                     "n_layers",
                                                     "hidden_dim",
                                                     "embedding_size",
                                                     "position_embedding_type",
                                                     "relative_attention_num_buckets",
                                                     "relative_attention_max_distance",
                                                     "patch_size",
                                                     "image_size",
                                                     "num_channels",
                                                     "depths",
                                                     "hidden_sizes",
                                                     "window_size",
                                                     "sliding_window",
                                                     "use_sliding_window",
                                                     "max_window_layers",
                                                     "sliding_window_pattern",
                                                     "layer_types",
                                                     "num_experts",
                                                     "num_local_experts",
                                                     "n_routed_experts",
                                                     "num_experts_per_tok",
                                                     "moe_intermediate_size",
                                                     "norm_topk_prob",
                                                     "decoder_sparse_step",
                                                     "mlp_only_layers",
                                                     "attn_logit_softcapping",
                                                     "final_logit_softcapping",
                                                     "query_pre_attn_scalar",
                                                     "scale_attn_weights",
                                                     "scale_attn_by_inverse_layer_idx",
                                                     "alibi"};
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

/// True for keys whose objects describe parts of the network.
inline bool is_part_of_network(std::string_view key) {
  return key.ends_with("_config") && key != "quantization_config" && key != "generation_config";
}

inline std::string short_text(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 57) + "..." : text;
}

inline std::string difference(const std::string& key, const nlohmann::json& base,
                              const nlohmann::json& expert) {
  return "config.json: '" + key + "' is " + short_text(base) + " in the base and " +
         short_text(expert) + " in the expert";
}

/// True for keys where a null says that there is no such thing; elsewhere it is as an absent key.
inline bool has_meaning_as_null(std::string_view key) {
  return key == "sliding_window" || key == "attn_logit_softcapping" ||
         key == "final_logit_softcapping";
}

/// A configuration with rotary positions in one form, beside the other keys: version 4 of
/// transformers writes `rope_theta` and `rope_scaling`, version 5 `rope_parameters`, in Gemma 3 for
/// each kind of layers; "su" is the first name of "longrope". Windows that are not in use are left
/// out.
inline nlohmann::json comparable(nlohmann::json config) {
  const auto take = [](nlohmann::json& from, const char* key) {
    const auto found = from.find(key);
    nlohmann::json value = found == from.end() ? nlohmann::json() : *found;
    from.erase(key);
    return value;
  };
  auto positions = take(config, "rope_parameters");
  auto scaling = take(config, "rope_scaling");
  if (positions.is_object()) {
    const auto local = take(positions, "sliding_attention");
    if (local.is_object() && local.contains("rope_theta"))
      config["rope_local_base_freq"] = local["rope_theta"];
    if (auto global = take(positions, "full_attention"); global.is_object()) positions = global;
  }
  if (scaling.is_object()) positions = scaling;
  if (!positions.is_object()) positions = nlohmann::json::object();
  if (auto type = take(positions, "type"); !type.is_null() && !positions.contains("rope_type"))
    positions["rope_type"] = type;
  if (positions.value("rope_type", nlohmann::json()) == "su") positions["rope_type"] = "longrope";
  config["rope_type"] = "default";
  for (const auto& [key, value] : positions.items()) {
    // (Phi-3 has this one beside its settings, and it counts before theirs.)
    if (key != "original_max_position_embeddings" || !config.contains(key)) config[key] = value;
  }

  const auto windows = config.find("use_sliding_window");
  const auto type = config.find("model_type");
  const bool is_qwen = type != config.end() && type->is_string() &&
                       type->get_ref<const std::string&>().starts_with("qwen");
  if (windows == config.end() ? is_qwen : *windows == false) {
    config.erase("sliding_window");
    config.erase("max_window_layers");
  }
  return config;
}

/// Adds a sentence for each key with different values on both sides. A missing key has a default,
/// which only the network's own code knows.
inline void compare_configs(const nlohmann::json& base, const nlohmann::json& expert,
                            const std::string& where, std::vector<std::string>& found) {
  if (!base.is_object() || !expert.is_object()) return;
  const auto of_base = comparable(base), of_expert = comparable(expert);
  for (const auto& [key, value] : of_base.items()) {
    const auto other = of_expert.find(key);
    if (other == of_expert.end()) continue;
    if (value.is_object() && other->is_object()) {
      if (is_part_of_network(key)) compare_configs(value, *other, where + key + ".", found);
    } else if (changes_the_network(key) && value != *other &&
               (has_meaning_as_null(key) || (!value.is_null() && !other->is_null()))) {
      found.push_back(difference(where + key, value, *other));
    }
  }
}

/// Adds a sentence for each token that a BLIP's texts begin, end or are filled up with, if both
/// name different ones: they are part of how it writes.
inline void compare_writing(const nlohmann::json& base, const nlohmann::json& expert,
                            std::vector<std::string>& found) {
  const auto text_of = [](const nlohmann::json& config) {
    const bool is_blip =
        config.is_object() && config.value("model_type", nlohmann::json()) == "blip";
    return is_blip ? config.value("text_config", nlohmann::json()) : nlohmann::json();
  };
  const auto one = text_of(base), other = text_of(expert);
  if (!one.is_object() || !other.is_object()) return;
  for (const char* key : {"bos_token_id", "sep_token_id", "pad_token_id"}) {
    if (one.contains(key) && other.contains(key) && one[key] != other[key])
      found.push_back(difference(std::string("text_config.") + key, one[key], other[key]));
  }
}

/// The tokens of tokenizer.json (a map, or a list of pairs in order) or vocab.json, by number.
inline std::map<std::int64_t, std::string> tokens_of(const nlohmann::json& tokenizer) {
  std::map<std::int64_t, std::string> tokens;
  const auto add_map = [&](const nlohmann::json& map) {
    for (const auto& [token, number] : map.items())
      if (number.is_number_integer()) tokens[number.get<std::int64_t>()] = token;
  };
  if (!tokenizer.is_object()) return tokens;
  const auto model = tokenizer.find("model");
  if (model == tokenizer.end()) {
    add_map(tokenizer);
    return tokens;
  }
  const auto vocab = model->is_object() ? model->find("vocab") : model->end();
  if (model->is_object() && vocab != model->end()) {
    if (vocab->is_object()) add_map(*vocab);
    if (vocab->is_array())
      for (std::size_t i = 0; i < vocab->size(); ++i)
        if (const auto& pair = (*vocab)[i]; pair.is_array() && !pair.empty() && pair[0].is_string())
          tokens[static_cast<std::int64_t>(i)] = pair[0].get<std::string>();
  }
  return tokens;
}

/// The tokens of a side file by number: a line each in vocab.txt; the other files are JSON.
inline std::map<std::int64_t, std::string> tokens_in(const io::checkpoint& checkpoint,
                                                     const std::string& name) {
  std::error_code ignored;
  const auto path = checkpoint.path() / name;
  if (name != "vocab.txt") return tokens_of(side_object(checkpoint, name.c_str()));
  std::map<std::int64_t, std::string> tokens;
  if (!std::filesystem::is_regular_file(path, ignored)) return tokens;
  const io::mapped_file file(path);
  std::string_view rest = io::as_text(file.bytes());
  for (std::int64_t number = 0; !rest.empty(); ++number) {
    const auto end = std::min(rest.find('\n'), rest.size());
    tokens.emplace(number, rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return tokens;
}

/// Adds a sentence if both have different tokens under a number. (Added tokens are not compared:
/// fine-tuning adds them, and renames reserved ones.)
inline void compare_tokens(const std::map<std::int64_t, std::string>& base,
                           const std::map<std::int64_t, std::string>& expert,
                           const std::string& file, std::vector<std::string>& found) {
  std::size_t different = 0;
  std::string example;
  for (const auto& [number, token] : base) {
    const auto other = expert.find(number);
    if (other == expert.end() || other->second == token) continue;
    if (different++ == 0)
      example = "token " + std::to_string(number) + " is " + short_text(token) +
                " in the base and " + short_text(other->second) + " in the expert";
  }
  if (different > 0)
    found.push_back(file + ": " + example +
                    (different > 1 ? "; " + std::to_string(different) + " tokens differ" : ""));
}

}  // namespace detail

/// The reasons why an expert cannot belong to the base, in sentences.
inline std::vector<std::string> contradictions_of(const io::checkpoint& base,
                                                  const io::checkpoint& expert) {
  std::vector<std::string> found;
  const auto of_base = detail::side_object(base, "config.json"),
             of_expert = detail::side_object(expert, "config.json");
  detail::compare_configs(of_base, of_expert, "", found);
  detail::compare_writing(of_base, of_expert, found);
  for (const char* name : {"tokenizer.json", "vocab.json", "vocab.txt"}) {
    if (base.format() == io::checkpoint_format::safetensors_file ||
        expert.format() == io::checkpoint_format::safetensors_file ||
        detail::same_side_file(base, expert, name))
      continue;
    const auto one = detail::tokens_in(base, name), other = detail::tokens_in(expert, name);
    if (one.empty() || other.empty()) continue;
    detail::compare_tokens(one, other, name, found);
    break;
  }
  return found;
}

/// tie_word_embeddings of config.json, or of its text_config; none if neither has it. In a BLIP
/// either ties, and an absent one does, as transformers has it.
inline std::optional<bool> declared_ties(const io::checkpoint& checkpoint) {
  const auto config = detail::side_object(checkpoint, "config.json");
  const auto read = [](const nlohmann::json& object) -> std::optional<bool> {
    if (!object.is_object()) return std::nullopt;
    const auto found = object.find("tie_word_embeddings");
    if (found == object.end() || !found->is_boolean()) return std::nullopt;
    return found->get<bool>();
  };
  const auto own = read(config);
  const auto of_text = config.is_object() && config.contains("text_config")
                           ? read(config["text_config"])
                           : std::nullopt;
  const bool is_blip =
      config.is_object() && config.contains("model_type") && config["model_type"] == "blip";
  if (is_blip && (own || of_text)) return own.value_or(true) || of_text.value_or(true);
  return own ? own : of_text;
}

}  // namespace catmerge::harness
