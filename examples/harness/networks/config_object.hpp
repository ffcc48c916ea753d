// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/fail.hpp>
#include <catmerge/tensor/scalar.hpp>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <harness/networks/layers.hpp>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// An object of a config.json. Its values are checked when they are read; every error names the
/// file and the key with its path ("vision_config.hidden_size"). A null counts as absent, as in
/// Python. The file's parsed contents must outlive this object.
class config_object {
 public:
  config_object(std::filesystem::path file, const nlohmann::json& values, std::string prefix = {})
      : file_(std::move(file)), values_(values), prefix_(std::move(prefix)) {
    if (!values_.is_object()) {
      io::fail(file_,
               (prefix_.empty() ? std::string("the configuration")
                                : "key " + io::in_quotes(prefix_.substr(0, prefix_.size() - 1))) +
                   " is not an object");
    }
  }

  [[noreturn]] void fail(const std::string& key, const std::string& what) const {
    io::fail(file_, "key " + io::in_quotes(prefix_ + key) + ": " + what);
  }

  std::optional<config_object> find_object(const std::string& key) const {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return std::nullopt;
    return config_object(file_, *value, prefix_ + key + ".");
  }

  const std::filesystem::path& file() const { return file_; }

  bool has(const std::string& key) const { return find(key) != nullptr; }

  /// True if the key is there, with null for its value: where an absent key has a default, a null
  /// says that there is none.
  bool is_null(const std::string& key) const {
    const auto place = values_.find(key);
    return place != values_.end() && place->is_null();
  }

  /// A size or a count: an integer from 1 to 2^20 (larger than any in use; products of three fit an
  /// index_t). An error if it is absent and has no fallback.
  index_t size(const std::string& key, std::optional<index_t> fallback = {}) const {
    return integer(key, 1, fallback);
  }
  /// An index: an integer from 0 on, otherwise as size.
  index_t index(const std::string& key, std::optional<index_t> fallback = {}) const {
    return integer(key, 0, fallback);
  }

  /// num_attention_heads, which must divide hidden_size, `width`; otherwise as size.
  index_t heads_of(index_t width, std::optional<index_t> fallback = {}) const {
    const std::string key = "num_attention_heads";
    const index_t heads = size(key, fallback);
    if (width % heads != 0) {
      fail(key,
           std::to_string(heads) + " heads do not divide hidden_size " + std::to_string(width));
    }
    return heads;
  }

  /// A number that is positive, also in float32.
  double positive(const std::string& key, double fallback) const {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return fallback;
    const double number = value->is_number() ? value->get<double>() : 0.0;
    if (!(number <= double{std::numeric_limits<float>::max()}) ||
        !(static_cast<float>(number) > 0.0F)) {
      fail(key, "expected a positive number, found " + shown(*value));
    }
    return number;
  }

  bool flag(const std::string& key, bool fallback) const {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) fail(key, "expected true or false, found " + shown(*value));
    return value->get<bool>();
  }

  std::string text(const std::string& key, const std::string& fallback) const {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) fail(key, "expected a string, found " + shown(*value));
    return value->get<std::string>();
  }

  /// The nonlinearity of an MLP.
  activation nonlinearity(const std::string& key, const std::string& fallback) const {
    const std::string name = text(key, fallback);
    const auto known = activation_named(name);
    if (!known) {
      fail(key,
           "expected 'gelu', 'gelu_new', 'gelu_pytorch_tanh', 'quick_gelu', 'silu' or 'swish', "
           "found " +
               io::in_quotes(name));
    }
    return *known;
  }

  /// An error unless `key` is absent, false, or `usual`: other values mean another network.
  void require_usual(const std::string& key, const nlohmann::json& usual = false) const {
    const nlohmann::json* value = find(key);
    if (value == nullptr || *value == usual || *value == false) return;
    fail(key,
         "expected " + usual.dump() + ", for nothing else is implemented, found " + shown(*value));
  }

  /// The numbers of a list, each finite in float32; none if there is no such key.
  std::vector<double> numbers(const std::string& key) const {
    std::vector<double> list;
    for_elements(key, "numbers", [&](const nlohmann::json& element) {
      if (!element.is_number()) return false;
      list.push_back(element.get<double>());
      return std::abs(list.back()) <= double{std::numeric_limits<float>::max()};
    });
    return list;
  }

  /// The strings of a list; none if there is no such key.
  std::vector<std::string> texts(const std::string& key) const {
    std::vector<std::string> list;
    for_elements(key, "strings", [&](const nlohmann::json& element) {
      if (element.is_string()) list.push_back(element.get<std::string>());
      return element.is_string();
    });
    return list;
  }

  /// The keys that have a value.
  std::vector<std::string> keys() const {
    std::vector<std::string> list;
    for (const auto& [key, value] : values_.items()) {
      if (!value.is_null()) list.push_back(key);
    }
    return list;
  }

  /// True if the list under `key` has the string `item`; false if there is no such list.
  bool lists(const std::string& key, const std::string& item) const {
    const nlohmann::json* value = find(key);
    if (value == nullptr || !value->is_array()) return false;
    for (const auto& element : *value) {
      if (element.is_string() && element.get_ref<const std::string&>() == item) return true;
    }
    return false;
  }

 private:
  const nlohmann::json* find(const std::string& key) const {
    const auto place = values_.find(key);
    return place == values_.end() || place->is_null() ? nullptr : &*place;
  }
  /// Calls take(element) for each element of a list; an error unless each returns true.
  template <class Take>
  void for_elements(const std::string& key, const std::string& what, const Take& take) const {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return;
    bool fits = value->is_array();
    if (fits)
      for (const auto& element : *value) fits = fits && take(element);
    if (!fits) fail(key, "expected a list of " + what + ", found " + shown(*value));
  }
  index_t integer(const std::string& key, index_t least, std::optional<index_t> fallback) const {
    constexpr index_t most = index_t{1} << 20;
    const nlohmann::json* value = find(key);
    if (value == nullptr) {
      if (fallback) return *fallback;
      io::fail(file_, "lacks the key " + io::in_quotes(prefix_ + key));
    }
    if (value->is_number_integer()) {  // true also for unsigned integers
      const bool fits = !value->is_number_unsigned() ||
                        value->get<std::uint64_t>() <= static_cast<std::uint64_t>(most);
      const std::int64_t number = fits ? value->get<std::int64_t>() : -1;
      if (number >= least && number <= most) return static_cast<index_t>(number);
    }
    fail(key, "expected an integer from " + std::to_string(least) + " to " + std::to_string(most) +
                  ", found " + shown(*value));
  }
  static std::string shown(const nlohmann::json& value) {
    return io::in_quotes(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }

  std::filesystem::path file_;
  const nlohmann::json& values_;
  std::string prefix_;
};

}  // namespace catmerge::harness
