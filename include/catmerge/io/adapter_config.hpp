// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <catmerge/io/json.hpp>
#include <catmerge/io/mapped_file.hpp>
#include <catmerge/io/module_pattern.hpp>
#include <catmerge/io/safetensors_header.hpp>
#include <cmath>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// adapter_config.json of PEFT (LoraConfig, as of PEFT 0.21). Each key is honoured, only
/// informative, or refused by name if it is set.
namespace catmerge::io {

/// A value for all modules, and others for the modules that patterns match. (PEFT sorts the
/// patterns when it saves them. Where several match a module with different values, it loads the
/// adapter with another value than the one that it was trained with; this is read as PEFT loads
/// it.)
template <class T>
struct module_values {
  /// A pattern and its value.
  struct exception {
    module_pattern pattern;  ///< of the modules
    T value;                 ///< theirs
  };
  T otherwise{};                        ///< the value where no pattern matches
  std::vector<exception> exceptions{};  ///< in the order of the file

  /// The value of a module: that of the first pattern that matches it, as PEFT's get_pattern_key
  /// decides. Throws error if there are patterns and the name is not of printable ASCII.
  const T& of(std::string_view module) const {
    if (exceptions.empty()) return otherwise;
    if (!module_pattern::is_plain(module)) {
      throw error("module " + in_quotes(module) +
                  ": its name has characters beyond ASCII, for which patterns are not read here "
                  "as Python does");
    }
    for (const exception& each : exceptions) {
      if (each.pattern.matches(module)) return each.value;
    }
    // PEFT looks the name itself up at last.
    for (const exception& each : exceptions) {
      if (each.pattern.text() == module) return each.value;
    }
    return otherwise;
  }
};

/// The biases that an adapter holds in full.
enum class adapter_biases {
  none,      ///< none
  all,       ///< those of all modules
  lora_only  ///< those of its targets
};

/// The entries of a configuration that tell how an adapter's tensors are read.
struct adapter_config {
  module_values<index_t> rank;                    ///< r and rank_pattern; positive
  module_values<double> alpha;                    ///< lora_alpha and alpha_pattern; finite
  bool use_rslora = false;                        ///< the scale is alpha / sqrt(r), else alpha / r
  bool fan_in_fan_out = false;                    ///< weights of linear layers are d_in x d_out
  bool lora_bias = false;                         ///< B has a bias, added times the scale
  adapter_biases bias = {};                       ///< biases that the adapter holds
  std::vector<std::string> modules_to_save = {};  ///< ends of names of modules held in full
  std::vector<std::string> target_modules = {};   ///< informative; one entry if it is a pattern
  std::string base_model = {};                    ///< base_model_name_or_path; empty if null
  std::string revision = {};                      ///< of the base; empty if null
  std::string task_type = {};                     ///< such as "SEQ_CLS"; empty if null

  /// The factor s of the difference s B A of a module's weight.
  double scale_of(std::string_view module) const {
    const auto r = static_cast<double>(rank.of(module));
    return alpha.of(module) / (use_rslora ? std::sqrt(r) : r);
  }
};

namespace detail {

/// The way out for adapters that are no sum of products.
inline constexpr std::string_view merge_in_peft =
    "merge it into its network first (peft: merge_and_unload, then save_pretrained) and name the "
    "result in its place";

/// A key that changes the result, and how.
struct refused_key {
  std::string_view key, reason;
};
inline constexpr std::array<refused_key, 13> refused_keys = {{
    {"use_dora", "DoRA scales the rows of the merged weight, which is no low-rank difference"},
    {"kasa_config", "KaSA cuts singular values off the base and puts a diagonal between A and B"},
    {"use_qalora", "QALoRA averages groups of inputs before A"},
    {"use_bdlora", "BD-LoRA stores the blocks of a block-diagonal factor"},
    {"alora_invocation_tokens",
     "aLoRA acts on some tokens only, so that no merged weight has its effect"},
    {"arrow_config", "Arrow chooses among adapters at run time"},
    {"velora_config", "VeLoRA replaces the pass through A"},
    {"monteclora_config", "MonteCLoRA adds random samples to the factors"},
    {"layer_replication", "its layers are numbered in a stack that repeats those of the base"},
    {"target_parameters", "stacked parameters have factors of several matrices in one"},
    {"trainable_token_indices", "it replaces rows of an embedding"},
    {"megatron_config", "Megatron cuts layers over processors"},
    {"ensure_weight_tying", "the factors of tied layers are shared"},
}};

/// Keys that say how the adapter was made or loaded and change nothing in its tensors' meaning.
/// (PEFT reads the *_config keys only under the init_lora_weights of that name.)
inline constexpr std::array<std::string_view, 19> informative_keys = {"auto_mapping",
                                                                      "peft_version",
                                                                      "inference_mode",
                                                                      "exclude_modules",
                                                                      "lora_dropout",
                                                                      "eva_config",
                                                                      "layers_to_transform",
                                                                      "layers_pattern",
                                                                      "qalora_group_size",
                                                                      "loftq_config",
                                                                      "corda_config",
                                                                      "lora_ga_config",
                                                                      "megatron_core",
                                                                      "runtime_config",
                                                                      "task_type",
                                                                      "base_model_name_or_path",
                                                                      "revision",
                                                                      "target_modules",
                                                                      "peft_type"};

/// True for the values that Python takes for false.
inline bool is_off(const nlohmann::json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
         (value.is_number() && value.get<double>() == 0) ||
         (value.is_string() && value.get_ref<const std::string&>().empty()) ||
         (value.is_structured() && value.empty());
}

/// Notes the keys of the objects in the outermost object, in the order of the text, which
/// nlohmann::json does not keep.
class key_order final : public nlohmann::json_sax<nlohmann::json> {
 public:
  /// The keys of the member of that name.
  const std::vector<std::string>& of(std::string_view name) const {
    static const std::vector<std::string> none;
    const auto found = std::find_if(members_.begin(), members_.end(),
                                    [&](const auto& member) { return member.first == name; });
    return found == members_.end() ? none : found->second;
  }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return ++depth_ > 0; }
  bool end_object() override { return depth_-- > 0; }
  bool start_array(std::size_t) override { return ++depth_ > 0; }
  bool end_array() override { return depth_-- > 0; }
  bool key(string_t& name) override {
    if (depth_ == 1) members_.emplace_back(name, std::vector<std::string>());
    if (depth_ == 2) members_.back().second.push_back(name);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) override {
    return false;
  }

 private:
  int depth_ = 0;
  std::vector<std::pair<std::string, std::vector<std::string>>> members_;
};

/// Reads the members of a configuration. Messages name the file and the key.
class adapter_config_reader {
 public:
  adapter_config_reader(std::string_view text, const std::filesystem::path& file)
      : file_(file), all_(parse_json(text, file, "adapter's configuration")) {
    if (!all_.is_object()) io::fail(file_, "the adapter's configuration is not a JSON object");
    nlohmann::json::sax_parse(text, &order_);
  }

  adapter_config run() const {
    const std::string type = text_of("peft_type");
    if (type != "LORA") {
      io::fail(file_, "peft_type: expected 'LORA', found " + in_quotes(type) +
                          ": only LoRA adapters are read; " + std::string(merge_in_peft));
    }
    refuse_unsupported();
    adapter_config config;
    config.rank = values_of<index_t>("r", "rank_pattern", &adapter_config_reader::rank_from);
    config.alpha =
        values_of<double>("lora_alpha", "alpha_pattern", &adapter_config_reader::number_from);
    config.use_rslora = flag("use_rslora");
    config.fan_in_fan_out = flag("fan_in_fan_out");
    config.lora_bias = flag("lora_bias");
    config.bias = biases();
    config.modules_to_save = names_of("modules_to_save");
    config.target_modules = names_of("target_modules");
    config.base_model = text_of("base_model_name_or_path");
    config.revision = text_of("revision");
    config.task_type = text_of("task_type");
    return config;
  }

 private:
  [[noreturn]] void fail(std::string_view key, const std::string& what) const {
    io::fail(file_, std::string(key) + ": " + what);
  }
  [[noreturn]] void fail_type(std::string_view key, const std::string& expected,
                              const nlohmann::json& value) const {
    fail(key, "expected " + expected + ", found " + json_in_quotes(value));
  }

  /// The value of a key; null if there is none.
  const nlohmann::json& at(std::string_view key) const {
    static const nlohmann::json nothing;
    const auto found = all_.find(std::string(key));
    return found == all_.end() ? nothing : *found;
  }

  void refuse_unsupported() const {
    for (const refused_key& each : refused_keys) {
      if (is_off(at(each.key))) continue;
      fail(each.key, "is set, and such adapters are not read here: " + std::string(each.reason) +
                         "; " + std::string(merge_in_peft));
    }
    const nlohmann::json& start = at("init_lora_weights");
    if (!start.is_null() && !start.is_boolean() && !start.is_string()) {
      fail_type("init_lora_weights", "a boolean or a name", start);
    }
    // PEFT compares these names in other spellings for some of them.
    std::string name = text_or_nothing(start);
    std::transform(name.begin(), name.end(), name.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    if (name.starts_with("pissa") || name.starts_with("corda") || name == "olora" ||
        name == "loftq" || name == "lora_ga") {
      fail("init_lora_weights",
           "is " + in_quotes(name) +
               ", which changes the base's weights at the start, so that A and B do not belong to "
               "the base: convert the adapter (peft: save_pretrained with "
               "path_initial_model_for_weight_conversion), or " +
               std::string(merge_in_peft));
    }
    if (!name.empty() && name != "gaussian" && name != "eva" && name != "orthogonal" &&
        name != "mica") {
      fail("init_lora_weights", "unknown start " + in_quotes(name) +
                                    ": if it leaves the base's weights as they are, write true");
    }
    constexpr std::array<std::string_view, 11> honoured = {
        "r",         "lora_alpha",      "rank_pattern",      "alpha_pattern",  "use_rslora", "bias",
        "lora_bias", "modules_to_save", "init_lora_weights", "fan_in_fan_out", "peft_type"};
    const auto is_in = [](const auto& list, std::string_view key) {
      return std::find(list.begin(), list.end(), key) != list.end();
    };
    for (const auto& [key, value] : all_.items()) {
      if (is_in(honoured, key) || is_in(informative_keys, key) || is_off(value)) continue;
      fail(key.size() > 100 ? "a key of " + std::to_string(key.size()) + " bytes" : in_quotes(key),
           "is an unknown key with the value " + json_in_quotes(value) +
               ": if it does not change what the adapter's tensors mean, remove it from the file, "
               "otherwise " +
               std::string(merge_in_peft));
    }
  }

  static std::string text_or_nothing(const nlohmann::json& value) {
    return value.is_string() ? value.get<std::string>() : std::string();
  }
  std::string text_of(std::string_view key) const {
    const nlohmann::json& value = at(key);
    if (!value.is_null() && !value.is_string()) fail_type(key, "a text", value);
    return text_or_nothing(value);
  }
  bool flag(std::string_view key) const {
    const nlohmann::json& value = at(key);
    if (!value.is_null() && !value.is_boolean()) fail_type(key, "true or false", value);
    return value.is_boolean() && value.get<bool>();
  }
  std::vector<std::string> names_of(std::string_view key) const {
    const nlohmann::json& value = at(key);
    if (value.is_null()) return {};
    if (value.is_string()) return {value.get<std::string>()};
    std::vector<std::string> names;
    if (!value.is_array()) fail_type(key, "a list of names", value);
    for (const nlohmann::json& each : value) {
      if (!each.is_string()) fail_type(key, "a list of names", value);
      names.push_back(each.get<std::string>());
    }
    return names;
  }
  adapter_biases biases() const {
    const nlohmann::json& value = at("bias");
    const std::string name = value.is_null() ? "none" : text_of("bias");
    if (name == "none") return adapter_biases::none;
    if (name == "all") return adapter_biases::all;
    if (name != "lora_only")
      fail("bias", "expected none, all or lora_only, found " + in_quotes(name));
    return adapter_biases::lora_only;
  }

  index_t rank_from(std::string_view key, const nlohmann::json& value) const {
    if (!is_index(value) || value.get<index_t>() == 0) fail_type(key, "a positive integer", value);
    return value.get<index_t>();
  }
  double number_from(std::string_view key, const nlohmann::json& value) const {
    if (!value.is_number()) fail_type(key, "a number", value);
    return value.get<double>();
  }

  module_pattern pattern_from(std::string_view key, const std::string& text) const {
    try {
      return module_pattern(text);
    } catch (const error& problem) {
      fail(key, problem.what());
    }
  }

  template <class T>
  module_values<T> values_of(std::string_view key, std::string_view patterns,
                             T (adapter_config_reader::*read)(std::string_view,
                                                              const nlohmann::json&) const) const {
    if (at(key).is_null()) {
      fail(key, "is missing: write the value that the adapter was trained with");
    }
    module_values<T> values{(this->*read)(key, at(key)), {}};
    const nlohmann::json& map = at(patterns);
    if (map.is_null()) return values;
    if (!map.is_object()) fail_type(patterns, "an object of patterns and numbers", map);
    for (const std::string& text : order_.of(patterns)) {
      values.exceptions.push_back(
          {pattern_from(patterns, text), (this->*read)(patterns, map.at(text))});
    }
    return values;
  }

  const std::filesystem::path& file_;
  nlohmann::json all_;
  key_order order_;
};

}  // namespace detail

/// Reads the text of a configuration; `file` is for messages. Throws error, naming the file and the
/// key, if it is not of a LoRA adapter, if a value has a wrong type, or if a key is set that
/// changes the meaning of the tensors and is not supported; unknown keys that are set are refused,
/// too. A value is not set if Python takes it for false (null, false, 0, empty).
inline adapter_config parse_adapter_config(std::string_view text,
                                           const std::filesystem::path& file) {
  return detail::adapter_config_reader(text, file).run();
}

/// Reads adapter_config.json. Throws error as parse_adapter_config does.
inline adapter_config read_adapter_config(const std::filesystem::path& path) {
  const mapped_file file(path);
  return parse_adapter_config(as_text(file.bytes()), path);
}

}  // namespace catmerge::io
