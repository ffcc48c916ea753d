// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cctype>
#include <map>
#include <string>
#include <string_view>
#include <vector>

/// The place of a parameter in a network, by its name alone.
namespace catmerge::harness::page {

namespace detail {

inline bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

}  // namespace detail

/// "model.layers.11.attn.q.weight" is the parameter "attn.q.weight" of block "model.layers.11" in
/// the family "model.layers.#". Blocks may have two numbers ("layer3.0" of "layer#.#"). A name
/// without a numeric component has no block.
struct block_name {
  block_name() = default;

  explicit block_name(std::string_view name) {
    std::size_t begin = 0;
    while (begin < name.size()) {
      const std::size_t end = std::min(name.find('.', begin), name.size());
      const auto component = name.substr(begin, end - begin);
      if (!component.empty() && std::all_of(component.begin(), component.end(), detail::is_digit) &&
          end < name.size()) {
        block = name.substr(0, end);
        role = name.substr(end + 1);
        break;
      }
      begin = end + 1;
    }
    bool in_number = false;
    for (const char c : block) {
      const bool digit = detail::is_digit(c);
      if (digit && !in_number) {
        family += '#';
        if (!number.empty()) number += '.';
      }
      if (digit)
        number += c;
      else
        family += c;
      in_number = digit;
    }
  }

  std::string family, block, role;
  std::string number;  ///< "11", "3.0"
};

/// The order of names with "layers.2" before "layers.10".
inline bool natural_less(std::string_view a, std::string_view b) {
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (detail::is_digit(a[i]) && detail::is_digit(b[j])) {
      const auto number = [](std::string_view s, std::size_t& at) {
        while (at < s.size() && s[at] == '0') ++at;
        const std::size_t begin = at;
        while (at < s.size() && detail::is_digit(s[at])) ++at;
        return s.substr(begin, at - begin);
      };
      const auto x = number(a, i), y = number(b, j);
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
    } else {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i, ++j;
    }
  }
  return a.size() - i < b.size() - j;
}

/// The blocks of one family, in their order.
struct block_list {
  std::string family;
  std::vector<std::string> blocks;
  std::vector<std::string> numbers;

  std::size_t position(const std::string& block) const {
    return static_cast<std::size_t>(std::find(blocks.begin(), blocks.end(), block) -
                                    blocks.begin());
  }
};

/// All families of two and more blocks among these names, in the order of their first appearance.
inline std::vector<block_list> block_lists(const std::vector<block_name>& names) {
  std::vector<std::string> families;
  std::map<std::string, std::map<std::string, std::string>> found;
  for (const auto& name : names) {
    if (name.block.empty()) continue;
    if (found.find(name.family) == found.end()) families.push_back(name.family);
    found[name.family][name.block] = name.number;
  }
  std::vector<block_list> lists;
  for (const auto& family : families) {
    block_list list;
    list.family = family;
    for (const auto& [block, number] : found[family]) list.blocks.push_back(block);
    std::sort(list.blocks.begin(), list.blocks.end(),
              [](const auto& a, const auto& b) { return natural_less(a, b); });
    for (const auto& block : list.blocks) list.numbers.push_back(found[family][block]);
    if (list.blocks.size() > 1) lists.push_back(std::move(list));
  }
  return lists;
}

}  // namespace catmerge::harness::page
