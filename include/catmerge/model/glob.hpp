// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace catmerge::model {

/// A pattern of whole parameter names:
///
///     *        any characters, dots included, or none
///     ?        one character
///     {a,b}    a or b; either may be empty and may hold * and ?, but no braces
///
/// Every other character matches itself: `*.{q,k,v}_proj.weight`.
class glob {
 public:
  /// Throws error if braces do not pair up, are nested, or stand for more than 1000 patterns.
  explicit glob(std::string pattern) : pattern_(std::move(pattern)), plain_({""}) {
    std::string_view rest = pattern_;
    while (!rest.empty()) {
      const std::size_t open = rest.find_first_of("{}");
      extend({rest.substr(0, open)});
      if (open == std::string_view::npos) break;
      const std::size_t close = rest.find_first_of("{}", open + 1);
      if (rest[open] == '}' || close == std::string_view::npos || rest[close] == '{') {
        throw error("pattern '" + pattern_ + "': braces must come in pairs and not be nested");
      }
      extend(split(rest.substr(open + 1, close - open - 1)));
      rest.remove_prefix(close + 1);
    }
  }

  /// The pattern as written.
  const std::string& pattern() const { return pattern_; }

  /// The patterns without braces that this one stands for. A name matches if it matches one of
  /// them.
  const std::vector<std::string>& alternatives() const { return plain_; }

  /// True if the whole of `name` matches, dots and case as written.
  bool matches(std::string_view name) const {
    for (const std::string& pattern : plain_) {
      if (matches_plain(pattern, name)) return true;
    }
    return false;
  }

  /// True if the whole of `name` matches a pattern without braces. Only the last * is ever
  /// extended, so this takes at most |pattern| |name| steps.
  static bool matches_plain(std::string_view pattern, std::string_view name) {
    std::size_t p = 0, n = 0;
    std::size_t star = std::string_view::npos, star_end = 0;  // the last *, the end of its match
    while (n < name.size()) {
      if (p < pattern.size() && pattern[p] == '*') {
        star = p++;
        star_end = n;
      } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
        ++p;
        ++n;
      } else if (star != std::string_view::npos) {
        p = star + 1;
        n = ++star_end;
      } else {
        return false;
      }
    }
    return pattern.find_first_not_of('*', p) == std::string_view::npos;
  }

 private:
  static std::vector<std::string_view> split(std::string_view list) {
    std::vector<std::string_view> parts;
    for (std::size_t comma; (comma = list.find(',')) != std::string_view::npos;) {
      parts.push_back(list.substr(0, comma));
      list.remove_prefix(comma + 1);
    }
    parts.push_back(list);
    return parts;
  }

  /// Appends each of the alternatives to every pattern so far.
  void extend(const std::vector<std::string_view>& alternatives) {
    constexpr std::size_t most = 1000;  // three lists of ten; keeps a typo from filling the memory
    std::vector<std::string> extended;
    for (const std::string& begin : plain_) {
      for (const std::string_view end : alternatives) extended.push_back(begin + std::string(end));
    }
    if (extended.size() > most) {
      throw error("pattern '" + pattern_ + "': the braces stand for more than 1000 patterns");
    }
    plain_ = std::move(extended);
  }

  std::string pattern_;
  std::vector<std::string> plain_;  // without braces
};

}  // namespace catmerge::model
