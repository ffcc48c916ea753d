// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/fail.hpp>
#include <catmerge/tensor/scalar.hpp>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

namespace catmerge::harness {

/// An object of a config.json whose values are read with checks; every error names the file and the
/// key, with the object's own key before it ("vision_config.hidden_size"). A null counts as absent,
/// as in Python. The file's parsed contents outlive this.
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

  /// A size or a count: an integer from 1 to 2^20 (larger than any that exists, small enough that
  /// products of three fit an index_t). An error if it is absent and has no fallback.
  index_t size(const std::string& key, std::optional<index_t> fallback = {}) const {
    constexpr index_t most = index_t{1} << 20;
    const nlohmann::json* value = find(key);
    if (value == nullptr) {
      if (fallback) return *fallback;
      io::fail(file_, "lacks the key " + io::in_quotes(prefix_ + key));
    }
    if (value->is_number_integer()) {  // true for unsigned ones too
      const bool fits = !value->is_number_unsigned() ||
                        value->get<std::uint64_t>() <= static_cast<std::uint64_t>(most);
      const std::int64_t number = fits ? value->get<std::int64_t>() : 0;
      if (number >= 1 && number <= most) return static_cast<index_t>(number);
    }
    fail(key, "expected an integer from 1 to " + std::to_string(most) + ", found " + shown(*value));
  }

  float positive(const std::string& key, float fallback) const {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return fallback;
    const double number = value->is_number() ? value->get<double>() : 0.0;
    if (!(number > 0.0) || number > double{std::numeric_limits<float>::max()}) {
      fail(key, "expected a positive number, found " + shown(*value));
    }
    return static_cast<float>(number);
  }

  std::string text(const std::string& key, const std::string& fallback) const {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) fail(key, "expected a string, found " + shown(*value));
    return value->get<std::string>();
  }

  /// Whether the list under `key` has the string `item`; false if there is no such list.
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
  static std::string shown(const nlohmann::json& value) {
    return io::in_quotes(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }

  std::filesystem::path file_;
  const nlohmann::json& values_;
  std::string prefix_;
};

}  // namespace catmerge::harness
