// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/fail.hpp>
#include <catmerge/io/file_kind.hpp>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace catmerge::io {

/// The bytes of a file as text.
inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// The bytes of a text, which must outlive them.
inline std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

namespace detail {

/// Builds the parsed value. Refuses duplicate keys and deep nesting, in time n log n of the text's
/// length. (The parser's own callback mode looks at all members of an object again after each one:
/// minutes for a large header.)
class json_builder {
 public:
  using member_user = std::function<void(const std::string& key, nlohmann::json& value)>;

  /// With `use`, each member of the outermost object is passed to it and then dropped.
  json_builder(std::string_view text, const std::filesystem::path& file, const std::string& part,
               member_user use = {})
      : text_(text), file_(file), part_(part), use_(std::move(use)) {}

  /// Parses the text and returns its value, without members passed to `use`.
  nlohmann::json run() {
    // The parser takes a zero byte for the end of the text and would accept anything after it.
    if (text_.find('\0') != std::string_view::npos) fail_invalid("it contains a zero byte");
    nlohmann::json::sax_parse(text_.begin(), text_.end(), this);
    return std::move(root_);
  }

  // The parser's callbacks.
  bool null() { return scalar(nullptr); }
  bool boolean(bool value) { return scalar(value); }
  bool number_integer(nlohmann::json::number_integer_t value) { return scalar(value); }
  bool number_unsigned(nlohmann::json::number_unsigned_t value) { return scalar(value); }
  bool number_float(nlohmann::json::number_float_t value, const std::string&) {
    return scalar(value);
  }
  bool string(std::string& value) { return scalar(std::move(value)); }
  bool binary(nlohmann::json::binary_t& value) { return scalar(std::move(value)); }
  bool start_object(std::size_t) { return start(nlohmann::json::object()); }
  bool start_array(std::size_t) { return start(nlohmann::json::array()); }
  bool end_object() { return end(); }
  bool end_array() { return end(); }
  bool key(std::string& name) {
    if (is_handing_over()) {
      if (!handed_over_.insert(name).second) fail_twice(name);
      name_ = std::move(name);
      next_ = &member_;
      return true;
    }
    const auto [added, is_new] = open_.back()->emplace(std::move(name), nullptr);
    if (!is_new) fail_twice(added.key());
    next_ = &*added;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception& problem) {
    // Not the parser's own words: they quote its last input, which may be megabytes or not UTF-8.
    constexpr int beyond_double = 406;  // the parser's documented number of this error
    fail_invalid(problem.id == beyond_double ? "a number is beyond the range of a double"
                                             : "an error at its byte " + std::to_string(position));
  }

 private:
  /// True if members of the outermost object go to `use` and only that object is open.
  bool is_handing_over() const { return use_ && open_.size() == 1 && root_.is_object(); }

  bool scalar(nlohmann::json value) {
    place(std::move(value));
    return complete();
  }
  bool start(nlohmann::json value) {
    constexpr std::size_t deepest = 64;
    if (open_.size() > deepest) fail(file_, "the " + part_ + " is nested too deeply");
    open_.push_back(&place(std::move(value)));
    return true;
  }
  bool end() {
    open_.pop_back();
    return complete();
  }
  nlohmann::json& place(nlohmann::json value) {
    if (open_.empty()) return root_ = std::move(value);
    if (open_.back()->is_array()) return open_.back()->emplace_back(std::move(value));
    return *next_ = std::move(value);
  }
  bool complete() {
    if (is_handing_over()) {
      use_(name_, member_);
      member_ = nullptr;
    }
    return true;
  }
  [[noreturn]] void fail_invalid(const std::string& why) const {
    fail_unexpected(file_, as_bytes(text_), "the " + part_ + " is not valid JSON: " + why);
  }
  [[noreturn]] void fail_twice(const std::string& name) const {
    fail(file_, "the " + part_ + " has the key " + in_quotes(name) + " twice");
  }

  std::string_view text_;
  const std::filesystem::path& file_;
  const std::string& part_;
  member_user use_;
  nlohmann::json root_, member_;
  std::string name_;                   // of member_
  std::vector<nlohmann::json*> open_;  // open objects and arrays, outermost first
  nlohmann::json* next_ = nullptr;     // the place of the last key's value
  std::set<std::string> handed_over_;  // a tree: no choice of names makes it slow
};

}  // namespace detail

/// Parses a JSON text from outside. It must be one value, in UTF-8, followed by nothing but white
/// space, without duplicate keys (the parser alone would keep the last in silence), nested at most
/// 64 levels deep (files of models need five). Throws error naming `file` and `part`, the place of
/// the text in it ("header").
inline nlohmann::json parse_json(std::string_view text, const std::filesystem::path& file,
                                 const std::string& part) {
  return detail::json_builder(text, file, part).run();
}

/// Parses such a text of one object and calls use(name, value) for each member in the order of the
/// text. Only one member is in memory at a time. `use` may move from the value.
template <class Use>
void for_each_member(std::string_view text, const std::filesystem::path& file,
                     const std::string& part, Use use) {
  const bool is_object = detail::json_builder(text, file, part, std::move(use)).run().is_object();
  if (!is_object) fail(file, "the " + part + " is not a JSON object");
}

}  // namespace catmerge::io
