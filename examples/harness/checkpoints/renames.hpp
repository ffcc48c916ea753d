// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

/// Rules for names of an expert that differ from the base's: `--rename EXPERT:FROM=TO`.
namespace catmerge::harness {

/// A rule for one name, or for a pattern with a *: "bert.*" to "*", "*.gamma" to "*.weight".
class rename_rule {
 public:
  /// EXPERT:FROM=TO, or FROM=TO for every expert. FROM and TO hold one * each, for the same
  /// characters, or none. Throws catmerge::error for another form.
  explicit rename_rule(const std::string& text) : text_(text) {
    const auto equals = text.find('=');
    if (equals == std::string::npos) refuse("expected EXPERT:FROM=TO or FROM=TO");
    const auto colon = text.substr(0, equals).find(':');
    if (colon != std::string::npos) expert_ = text.substr(0, colon);
    const auto begin = colon == std::string::npos ? 0 : colon + 1;
    from_ = text.substr(begin, equals - begin);
    to_ = text.substr(equals + 1);
    const auto stars = [](const std::string& s) { return std::count(s.begin(), s.end(), '*'); };
    if (from_.empty() || to_.empty()) refuse("neither side may be empty (* stands for the rest)");
    if (stars(from_) > 1 || stars(from_) != stars(to_))
      refuse("expected one * on each side, or none");
  }
  rename_rule(std::string from, std::string to)
      : text_(from + "=" + to), from_(std::move(from)), to_(std::move(to)) {}

  const std::string& text() const { return text_; }
  /// The expert of the rule; empty for all.
  const std::string& expert() const { return expert_; }

  /// The new name; none if the rule does not apply.
  std::optional<std::string> renamed(std::string_view name) const {
    const auto star = from_.find('*');
    if (star == std::string::npos) return name == from_ ? std::optional(to_) : std::nullopt;
    const auto head = std::string_view(from_).substr(0, star),
               tail = std::string_view(from_).substr(star + 1);
    if (name.size() < head.size() + tail.size() || !name.starts_with(head) || !name.ends_with(tail))
      return std::nullopt;
    const auto middle = name.substr(head.size(), name.size() - head.size() - tail.size());
    const auto to_star = to_.find('*');
    return to_.substr(0, to_star) + std::string(middle) + to_.substr(to_star + 1);
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw error("--rename: " + why + ", found '" + text_ + "'");
  }

  std::string text_, expert_, from_, to_;
};

/// Applies the rules in their order to a name until in_base(name). So a rule that adds a prefix
/// does not change names that have it. `used` counts the uses of each rule.
template <class InBase>
std::string renamed(std::string name, const std::vector<rename_rule>& rules, const InBase& in_base,
                    std::vector<std::size_t>& used) {
  for (std::size_t r = 0; r < rules.size() && !in_base(name); ++r)
    if (auto next = rules[r].renamed(name); next && *next != name) {
      name = std::move(*next);
      ++used[r];
    }
  return name;
}

/// Rename rules that turn names of an expert into the base's.
struct rename_suggestion {
  std::vector<rename_rule> rules;
  std::size_t explained = 0;  ///< the number of missing names that they produce
};

namespace detail {

/// The longest common end of two names, from a dot on: "layer.0.weight" of "bert.layer.0.weight"
/// and "model.layer.0.weight".
inline std::string_view common_end(std::string_view a, std::string_view b) {
  std::size_t same = 0, at_dot = 0;
  while (same < std::min(a.size(), b.size()) && a[a.size() - 1 - same] == b[b.size() - 1 - same]) {
    ++same;
    const auto starts_part = [&](std::string_view s) {
      return same == s.size() || s[s.size() - 1 - same] == '.';
    };
    if (starts_part(a) && starts_part(b)) at_dot = same;
  }
  return a.substr(a.size() - at_dot);
}

}  // namespace detail

/// Searches for one exchange of a prefix, for the old spelling of norms (gamma and beta for weight
/// and bias), or for both, that turns names of the expert alone (`extra`) into names that it lacks
/// (`missing`). None if such rules explain less than half of the missing names.
inline std::optional<rename_suggestion> suggest_renames(const std::vector<std::string>& missing,
                                                        const std::vector<std::string>& extra) {
  if (missing.empty() || extra.empty()) return std::nullopt;
  const std::unordered_set<std::string> wanted(missing.begin(), missing.end());
  const auto never = [&](const std::string& name) { return wanted.contains(name); };
  const auto explained = [&](const std::vector<rename_rule>& rules) {
    std::size_t count = 0;
    std::vector<std::size_t> used(rules.size());
    for (const auto& name : extra)
      if (wanted.contains(renamed(name, rules, never, used))) ++count;
    return count;
  };
  // Spellings of norms: unchanged, old to new, new to old.
  const std::vector<std::vector<rename_rule>> spellings = {
      {},
      {{"*.gamma", "*.weight"}, {"*.beta", "*.bias"}},
      {{"*.weight", "*.gamma"}, {"*.bias", "*.beta"}}};
  // Prefixes before the longest common end of two names. A few names of the base suffice.
  std::map<std::pair<std::string, std::string>, std::size_t> prefixes{{{"", ""}, 0}};
  constexpr std::size_t sample_size = 8;  // names of the base; all of the expert's
  for (std::size_t i = 0; i < std::min(sample_size, missing.size()); ++i) {
    const std::string_view name =
        missing[i * missing.size() / std::min(sample_size, missing.size())];
    std::string_view best, best_extra;
    for (const auto& other : extra)
      if (const auto end = detail::common_end(name, other); end.size() > best.size())
        best = end, best_extra = other;
    const bool whole = best.size() == name.size() || best.size() == best_extra.size();
    if (best.empty() || (!whole && best.find('.') == std::string_view::npos))
      continue;  // "weight" alone is no evidence
    ++prefixes[{std::string(best_extra.substr(0, best_extra.size() - best.size())),
                std::string(name.substr(0, name.size() - best.size()))}];
  }
  std::optional<rename_suggestion> best;
  for (const auto& [prefix, count] : prefixes)
    for (const auto& spelling : spellings) {
      std::vector<rename_rule> rules;
      if (prefix.first != prefix.second)
        rules.emplace_back(prefix.first + "*", prefix.second + "*");
      rules.insert(rules.end(), spelling.begin(), spelling.end());
      if (rules.empty()) continue;
      const std::size_t found = explained(rules);
      if (found * 2 < missing.size() || (best && found <= best->explained)) continue;
      best = rename_suggestion{std::move(rules), found};
    }
  if (!best) return best;
  // Keep the rules that are used.
  std::vector<std::size_t> used(best->rules.size());
  for (const auto& name : extra) renamed(name, best->rules, never, used);
  std::vector<rename_rule> needed;
  for (std::size_t r = 0; r < used.size(); ++r)
    if (used[r] > 0) needed.push_back(best->rules[r]);
  best->rules = std::move(needed);
  return best;
}

}  // namespace catmerge::harness
