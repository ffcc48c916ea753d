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

/// An ordered list of patterns that finds those that match a name without trying them all: each is
/// kept under the end of the names that it asks for, "q_proj.weight" of "*.q_proj.weight". A
/// hundred thousand names against a thousand patterns take a fraction of a second.
class pattern_index {
 public:
  /// Of a name that no pattern matches.
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  /// The next pattern; the first has the number 0.
  void add(const glob& pattern) {
    for (const std::string& plain : pattern.alternatives())
      list_for(plain).push_back({count_, plain});
    ++count_;
  }

  /// Calls accept(number) for the patterns that match, the last one first, until it returns true;
  /// returns that number, or none.
  template <class Accept>
  std::size_t find_last(std::string_view name, const Accept& accept) const {
    std::array<const list*, 3> lists = {find(by_two_, last_components(name, 2)),
                                        find(by_one_, last_components(name, 1)), &others_};
    std::array<std::size_t, 3> left = {lists[0]->size(), lists[1]->size(), lists[2]->size()};
    for (;;) {
      std::size_t latest = none;  // the list whose next entry comes last in the order of patterns
      for (std::size_t i = 0; i < lists.size(); ++i) {
        if (left[i] == 0) continue;
        if (latest == none ||
            entry(*lists[i], left[i]).number > entry(*lists[latest], left[latest]).number) {
          latest = i;
        }
      }
      if (latest == none) return none;
      const kept& next = entry(*lists[latest], left[latest]--);
      if (glob::matches_plain(next.pattern, name) && accept(next.number)) return next.number;
    }
  }

 private:
  struct kept {
    std::size_t number;
    std::string pattern;  // without braces
  };
  using list = std::vector<kept>;
  using lists_by_end = std::unordered_map<std::string, list>;

  static const kept& entry(const list& of, std::size_t left) { return of[left - 1]; }

  static const list* find(const lists_by_end& lists, std::string_view end) {
    static const list empty;
    const auto found = lists.find(std::string(end));
    return found == lists.end() ? &empty : &found->second;
  }

  /// What stands behind the dot that is `count` dots from the end: the whole if there is none.
  static std::string_view last_components(std::string_view name, int count) {
    std::size_t dot = name.size();
    for (; count > 0 && dot != std::string_view::npos; --count) {
      dot = dot == 0 ? std::string_view::npos : name.rfind('.', dot - 1);
    }
    return dot == std::string_view::npos ? name : name.substr(dot + 1);
  }

  /// The list of the longest end, of one or two whole components, that every match has.
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
