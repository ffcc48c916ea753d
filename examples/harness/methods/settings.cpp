// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <catmerge/error.hpp>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <harness/methods/settings.hpp>
#include <harness/system/option_error.hpp>
#include <iterator>
#include <limits>

namespace catmerge::harness {

settings::settings(std::string whose, const std::string& text) : whose_(std::move(whose)) {
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t comma = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, comma - begin);
    const auto equals = part.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == part.size())
      throw error("the settings of " + whose_ + ": expected KEY=VALUE, found '" + part + "'");
    const std::string key = part.substr(0, equals);
    for (const auto& [other, value] : given_)
      if (other == key) throw error("the settings of " + whose_ + " give '" + key + "' twice");
    given_.emplace_back(key, part.substr(equals + 1));
    begin = comma + 1;
    if (begin == text.size())
      throw error("the settings of " + whose_ + " end with a comma: '" + text + "'");
  }
}

settings::settings(const std::map<std::string, std::string>& options)
    : given_(options.begin(), options.end()) {}

void settings::put(const std::string& key, const std::string& value) {
  for (auto& [other, text] : given_)
    if (other == key) {
      text = value;
      return;
    }
  given_.emplace_back(key, value);
}

void settings::set(const settings& more) {
  for (const auto& [key, value] : more.given_) put(key, value);
}

std::string settings::text() const {
  std::string text;
  for (const auto& [key, value] : given_) text += (text.empty() ? "" : ",") + key + "=" + value;
  return text;
}

const std::string* settings::find(known setting) {
  known_.push_back(std::move(setting));
  for (const auto& [key, value] : given_)
    if (key == known_.back().key) return &value;
  return nullptr;
}

void settings::refuse(const std::string& key, const std::string& expected,
                      const std::string& found) const {
  const std::string reason = "expected " + expected + ", found '" + found + "'";
  if (whose_.empty()) throw option_error("--" + key, reason);
  throw error("the setting '" + key + "' of " + whose_ + ": " + reason);
}

bool settings::number(const char* key, std::optional<double>& value, const char* help, double least,
                      double most) {
  const std::string* const text =
      find({key, value ? shortest(*value) : "", help, form::number, {}});
  if (text == nullptr) return false;
  char* end = nullptr;
  const double found = std::strtod(text->c_str(), &end);
  if (text->empty() || *end != '\0' || !std::isfinite(found) || found < least || found > most) {
    std::string expected = "a number";
    if (least > -no_limit && most < no_limit)
      expected += " in " + shortest(least) + " ... " + shortest(most);
    else if (least > -no_limit)
      expected += " of at least " + shortest(least);
    refuse(key, expected, *text);
  }
  value = found;
  return true;
}

bool settings::number(const char* key, double& value, const char* help, double least, double most) {
  std::optional<double> found = value;
  const bool given = number(key, found, help, least, most);
  value = *found;
  return given;
}

bool settings::count(const char* key, std::optional<index_t>& value, const char* help,
                     index_t least) {
  const std::string* const text =
      find({key, value ? std::to_string(*value) : "", help, form::count, {}});
  if (text == nullptr) return false;
  index_t found = 0;
  const char* const end = text->data() + text->size();
  const auto [stop, problem] = std::from_chars(text->data(), end, found);
  if (stop != end || problem != std::errc() || found < least)
    refuse(key, "a whole number of at least " + std::to_string(least), *text);
  value = found;
  return true;
}

bool settings::count(const char* key, index_t& value, const char* help, index_t least) {
  std::optional<index_t> found = value;
  const bool given = count(key, found, help, least);
  value = *found;
  return given;
}

const std::string* settings::find_word(known setting) {
  const std::string key = setting.key;
  const std::vector<std::string> words = setting.words;
  const std::string* const text = find(std::move(setting));
  if (text != nullptr && std::find(words.begin(), words.end(), *text) == words.end())
    refuse(key, listed(words), *text);
  return text;
}

bool settings::any_text(const char* key, std::string& value, const char* help) {
  const std::string* const given = find({key, value, help, form::text, {}});
  if (given != nullptr) value = *given;
  return given != nullptr;
}

bool settings::flag(const char* key, bool& value, const char* help) {
  const bool given = word(key, value, {{"yes", true}, {"no", false}}, help);
  known_.back().type = form::flag;
  return given;
}

void settings::at_most_one(const std::vector<std::string>& keys) const {
  std::string first;
  for (const auto& [key, value] : given_) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) continue;
    if (first.empty()) {
      first = key;
      continue;
    }
    if (whose_.empty()) throw option_error("--" + first, "excludes --" + key);
    throw error("the settings of " + whose_ + ": '" + first + "' excludes '" + key + "'");
  }
}

void settings::require_all_known() const {
  std::vector<std::string> keys;
  for (const auto& k : known_) keys.push_back(k.key);
  for (const auto& [key, value] : given_) {
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
    if (whose_.empty()) throw option_error("--" + key, "there is no such option");
    throw error(whose_ + " has no setting '" + key + "'" +
                (keys.empty() ? "" : ": expected " + listed(keys)));
  }
}

std::string listed(const std::vector<std::string>& words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i)
    text += (i == 0 ? "" : i + 1 == words.size() ? " or " : ", ") + words[i];
  return text;
}

std::string shortest(double number) {
  char buffer[32];
  char* const end = std::to_chars(std::begin(buffer), std::end(buffer), number).ptr;
  return {std::begin(buffer), end};
}

}  // namespace catmerge::harness
