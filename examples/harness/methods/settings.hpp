// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/scalar.hpp>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

/// Settings of methods: "density=0.1,merge=sum", or options of the command line.
namespace catmerge::harness {

/// The settings in a text, read by their users. Every read states the default and explains the
/// setting, so that the same code reads and documents.
///
/// @code
/// settings s("ties", "density=0.1");
/// s.number("density", options.density, "share of each task's entries that are kept", 0, 1);
/// s.require_all_known();
/// @endcode
class settings {
 public:
  /// The types of values.
  enum class form { number, count, word, flag, text };

  /// A bound that no finite number exceeds.
  static constexpr double no_limit = std::numeric_limits<double>::max();

  /// A setting that was read.
  struct known {
    std::string key;
    std::string value;  ///< the default; empty: none
    std::string help;
    form type;
    std::vector<std::string> words;  ///< the possible values of a word
  };

  /// Reads "KEY=VALUE,KEY=VALUE". Throws catmerge::error for another form and for a repeated key.
  /// `whose`: the owner's name in messages, "ties".
  settings(std::string whose, const std::string& text);

  /// Takes options of the command line by their names without dashes. Throws option_errors.
  explicit settings(const std::map<std::string, std::string>& options);

  /// Adds settings; they replace values of the same keys.
  void set(const settings& more);
  /// The given settings as "KEY=VALUE,KEY=VALUE".
  std::string text() const;
  /// The given keys and values, in their order.
  const std::vector<std::pair<std::string, std::string>>& given() const { return given_; }
  /// The same values under other keys.
  template <class Rename>
  settings renamed(const Rename& rename) const {
    settings other(whose_, "");
    for (const auto& [key, value] : given_) other.put(rename(key), value);
    return other;
  }

  /// Each of these stores the given setting in `value`, and returns false if none is given. Throws
  /// unless it is a finite number in [least, most], a whole number of at least `least`, or one of
  /// the words. An empty `value` is a default that is no number.
  bool number(const char* key, double& value, const char* help, double least, double most);
  bool number(const char* key, std::optional<double>& value, const char* help, double least,
              double most);
  bool count(const char* key, index_t& value, const char* help, index_t least = 0);
  bool count(const char* key, std::optional<index_t>& value, const char* help, index_t least = 0);
  /// words: each with its value; `value` is one of these values.
  template <class Value>
  bool word(const char* key, Value& value,
            const std::type_identity_t<std::vector<std::pair<std::string, Value>>>& words,
            const char* help) {
    known setting{key, "", help, form::word, {}};
    for (const auto& [name, meaning] : words) {
      setting.words.push_back(name);
      if (meaning == value) setting.value = name;
    }
    const std::string* const text = find_word(std::move(setting));
    if (text == nullptr) return false;
    for (const auto& [name, meaning] : words)
      if (name == *text) value = meaning;
    return true;
  }
  /// Any text without a comma.
  bool any_text(const char* key, std::string& value, const char* help);
  /// "yes" or "no".
  bool flag(const char* key, bool& value, const char* help);

  /// Throws if more than one of these keys is given.
  void at_most_one(const std::vector<std::string>& keys) const;
  /// Throws, listing the known keys, for a key that was not read.
  void require_all_known() const;
  /// The settings that were read.
  const std::vector<known>& documented() const { return known_; }

 private:
  void put(const std::string& key, const std::string& value);
  const std::string* find(known setting);
  const std::string* find_word(known setting);
  [[noreturn]] void refuse(const std::string& key, const std::string& expected,
                           const std::string& found) const;

  std::string whose_;  // empty: options of the command line
  std::vector<std::pair<std::string, std::string>> given_;
  std::vector<known> known_;
};

/// "a, b or c".
std::string listed(const std::vector<std::string>& words);

/// The shortest text that reads back as the same number.
std::string shortest(double number);

}  // namespace catmerge::harness
