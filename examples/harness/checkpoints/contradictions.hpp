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
  constexpr std::array<std::string_view, 74> keys = {"model_type",
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
                                                     "rope_scaling",
                                                     "rope_parameters",
                                                     "rope_type",
                                                     "type",
                                                     "factor",
                                                     "low_freq_factor",
                                                     "high_freq_factor",
                                                     "original_max_position_embeddings",
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
                                                     "num_experts",
                                                     "num_local_experts",
                                                     "n_routed_experts",
                                                     "num_experts_per_tok",
                                                     "moe_intermediate_size",
                                                     "norm_topk_prob",
                                                     "attn_logit_softcapping",
                                                     "final_logit_softcapping",
                                                     "query_pre_attn_scalar",
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

/// Adds a sentence for each key with different values on both sides. A missing key has a default,
/// which only the network's own code knows.
inline void compare_configs(const nlohmann::json& base, const nlohmann::json& expert,
                            const std::string& where, std::vector<std::string>& found) {
  if (!base.is_object() || !expert.is_object()) return;
  for (const auto& [key, value] : base.items()) {
    const auto other = expert.find(key);
    if (other == expert.end()) continue;
    if (value.is_object() && other->is_object()) {
      if (is_part_of_network(key) || changes_the_network(key))
        compare_configs(value, *other, where + key + ".", found);
    } else if (changes_the_network(key) && value != *other && !value.is_null() &&
               !other->is_null()) {
      found.push_back("config.json: '" + where + key + "' is " + short_text(value) +
                      " in the base and " + short_text(*other) + " in the expert");
    }
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
  detail::compare_configs(detail::side_object(base, "config.json"),
                          detail::side_object(expert, "config.json"), "", found);
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
