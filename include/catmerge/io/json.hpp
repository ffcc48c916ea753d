// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/fail.hpp>
#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace catmerge::io {

/// Parses a JSON text that comes from outside: one value, nothing after it but white space, UTF-8,
/// no key twice in an object (the parser alone would keep the last without a word), nested at most
/// 64 levels deep (files of models need five). Throws error naming `file` and `part`, the part of
/// the file that the text is ("header").
inline nlohmann::json parse_json(std::string_view text, const std::filesystem::path& file,
                                 const std::string& part) {
  constexpr int deepest = 64;
  // The parser takes a zero byte for the end of the text and would accept anything after it.
  if (text.find('\0') != std::string_view::npos) {
    fail(file, "the " + part + " is not valid JSON: it contains a zero byte");
  }
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using event_t = nlohmann::json::parse_event_t;
    if (depth > deepest) fail(file, "the " + part + " is nested too deeply");
    if (event == event_t::object_start) keys.emplace_back();
    if (event == event_t::object_end) keys.pop_back();
    if (event == event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!keys.back().insert(key).second) {
        fail(file, "the " + part + " has the key " + in_quotes(key) + " twice");
      }
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text.begin(), text.end(), check);
  } catch (const nlohmann::json::parse_error& problem) {
    // Not the parser's own words: they quote what it read last, be it megabytes or not UTF-8.
    fail(file, "the " + part + " is not valid JSON: an error at its byte " +
                   std::to_string(problem.byte));
  } catch (const nlohmann::json::out_of_range&) {
    fail(file, "the " + part + " is not valid JSON: a number is beyond the range of a double");
  }
}

/// The bytes of a file as text.
inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// The bytes of a text, which must outlive them.
inline std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

}  // namespace catmerge::io
