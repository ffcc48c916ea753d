// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <catmerge/model/glob.hpp>
#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace catmerge::model {

/// An ordered list of patterns with a fast search: each is filed under the end of the names that it
/// matches, "q_proj.weight" for "*.q_proj.weight". A hundred thousand names against a thousand
/// patterns take a fraction of a second.
class pattern_index {
 public:
  /// The result for a name without a match.
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  /// Adds the next pattern; numbers begin with 0.
  void add(const glob& pattern) {
    for (const std::string& plain : pattern.alternatives())
      list_for(plain).push_back({count_, plain});
    ++count_;
  }

  /// Calls accept(number) for each matching pattern, the last one first, until it returns true.
  /// Returns that number, or none.
  template <class Accept>
  std::size_t find_last(std::string_view name, const Accept& accept) const {
    std::array<const list*, 3> lists = {find(by_two_, last_components(name, 2)),
                                        find(by_one_, last_components(name, 1)), &others_};
    std::array<std::size_t, 3> left = {lists[0]->size(), lists[1]->size(), lists[2]->size()};
    for (;;) {
      std::size_t latest = none;  // the list with the latest pattern left
      for (std::size_t i = 0; i < lists.size(); ++i) {
        if (left[i] == 0) continue;
        if (latest == none ||
            last_of(*lists[i], left[i]).number > last_of(*lists[latest], left[latest]).number) {
          latest = i;
        }
      }
      if (latest == none) return none;
      const entry& next = last_of(*lists[latest], left[latest]--);
      if (glob::matches_plain(next.pattern, name) && accept(next.number)) return next.number;
    }
  }

 private:
  struct entry {
    std::size_t number;
    std::string pattern;  // without braces
  };
  using list = std::vector<entry>;
  using lists_by_end = std::unordered_map<std::string, list>;

  static const entry& last_of(const list& entries, std::size_t left) { return entries[left - 1]; }

  static const list* find(const lists_by_end& lists, std::string_view end) {
    static const list empty;
    const auto found = lists.find(std::string(end));
    return found == lists.end() ? &empty : &found->second;
  }

  /// The last `count` components of a name, or the whole name if it has fewer.
  static std::string_view last_components(std::string_view name, int count) {
    std::size_t dot = name.size();
    for (; count > 0 && dot != std::string_view::npos; --count) {
      dot = dot == 0 ? std::string_view::npos : name.rfind('.', dot - 1);
    }
    return dot == std::string_view::npos ? name : name.substr(dot + 1);
  }

  /// The list of the longest end, one or two whole components, that all matches share.
  list& list_for(const std::string& plain) {
    const std::size_t wild = plain.find_last_of("*?");
    const bool literal = wild == std::string::npos;
    const std::string_view tail = std::string_view(plain).substr(literal ? 0 : wild + 1);
    const auto is_whole = [&](std::string_view end) { return literal || end.size() < tail.size(); };
    if (const auto two = last_components(tail, 2); is_whole(two)) return by_two_[std::string(two)];
    if (const auto one = last_components(tail, 1); is_whole(one)) return by_one_[std::string(one)];
    return others_;
  }

  lists_by_end by_two_, by_one_;
  list others_;
  std::size_t count_ = 0;
};

}  // namespace catmerge::model
