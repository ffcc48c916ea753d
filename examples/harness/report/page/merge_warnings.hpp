// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/html.hpp>
#include <harness/report/page/merge_conflict.hpp>

/// Warnings and notes on a merge's page.
namespace catmerge::harness::page {

namespace detail {

/// Up to ten names.
inline std::string first_names(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(10, names.size()); ++i)
    text += (i > 0 ? ", " : "") + names[i];
  return names.size() > 10 ? text + " and " + std::to_string(names.size() - 10) + " more" : text;
}

inline bool any_contains(const std::vector<std::string>& sentences, const char* part) {
  return std::any_of(sentences.begin(), sentences.end(),
                     [&](const std::string& s) { return s.find(part) != std::string::npos; });
}

/// The number of removals requested for parameters of a kind; unknown if there are several.
inline double requested_count(const merge_data& data, const std::string& kind) {
  for (const auto& rule : texts(member(data.settings(), "set")))
    if (rule.find("rank=") != std::string::npos) return unknown;
  return number(member(data.settings(), kind == "linear"  ? "rank"
                                        : kind == "scale" ? "scale_rank"
                                                          : "shift_rank"));
}

/// A sentence on removals that were fewer than requested, for lack of positive values.
inline std::string cut_sentence(const merge_data& data, const std::string& kind) {
  const double requested = requested_count(data, kind);
  std::size_t all = 0, fewer = 0, none = 0;
  for (const auto& p : data.all)
    if (p.kind == kind)
      for (const auto& r : p.removed) {
        ++all;
        if (static_cast<double>(r.count) < requested) ++fewer;
        if (r.count == 0) ++none;
      }
  if (fewer == 0) return {};
  const std::string what = kind == "linear" ? "directions" : "coordinates";
  return "Of " + plural(kind) + ", fewer than " + fixed(requested, 0) + " " + what +
         " were removed in " + std::to_string(fewer) + " of " + std::to_string(all) +
         " cases (a parameter and the task that is protected)" +
         (none > 0 ? ", none at all in " + std::to_string(none) : "") + ": " +
         (kind == "shift" ? "they have no more coordinates that differ."
                          : "only " + what +
                                " that spare the protected task more than they cost the others, "
                                "weighed by lambda, are removed (a positive " +
                                std::string(kind == "linear" ? "eigenvalue" : "score") +
                                "), and there were no more.");
}

}  // namespace detail

/// Warnings of the merge, and of the page.
inline std::vector<std::string> warnings_of(const merge_data& data) {
  std::vector<std::string> all = data.warnings;
  std::vector<std::string> missing, emptied, unknown_numbers;
  for (const auto& p : data.all) {
    if (p.missing_statistics) missing.push_back(p.name);
    for (const auto& task : p.emptied) emptied.push_back(p.name + " of " + task);
    if (p.unknown_numbers > 0) unknown_numbers.push_back(p.name);
  }
  // The merge's own warnings say the first two in these words.
  if (!missing.empty() && !detail::any_contains(data.warnings, "have no features"))
    all.push_back(count(missing.size(), "parameter") +
                  " had no statistics and could not be trimmed: " + detail::first_names(missing));
  if (!emptied.empty() && !detail::any_contains(data.warnings, "trimmed to zero"))
    all.push_back(count(emptied.size(), "task vector") +
                  " trimmed to zero, which leaves nothing of the task there: " +
                  detail::first_names(emptied));
  if (!unknown_numbers.empty())
    all.push_back("Numbers that are not finite, or missing, stand in the report of " +
                  count(unknown_numbers.size(), "parameter") +
                  "; figures leave out what they cannot use, and tables show a dash: " +
                  detail::first_names(unknown_numbers));
  return all;
}

/// Notes on facts that are easily overlooked.
inline std::vector<std::string> notes_of(const merge_data& data) {
  std::vector<std::string> all;
  for (const char* kind : {"linear", "scale", "shift"}) {
    std::string sentence = detail::cut_sentence(data, kind);
    if (!sentence.empty()) all.push_back(std::move(sentence));
  }
  return all;
}

/// Sentences in a box; empty without sentences.
inline std::string box(const std::string& title, const std::vector<std::string>& sentences,
                       const std::string& classes) {
  if (sentences.empty()) return {};
  std::string items;
  for (const auto& s : sentences) items += element("li", escaped(s)) + "\n";
  return element("aside",
                 "\n" + element("h2", escaped(title)) + "\n" + element("ul", "\n" + items) + "\n",
                 "class=\"" + classes + "\"") +
         "\n";
}

inline std::string warnings_box(const merge_data& data) {
  const auto all = warnings_of(data);
  return box(count(all.size(), "warning"), all, "warnings");
}

inline std::string notes_box(const merge_data& data) {
  return box("Worth knowing", notes_of(data), "warnings notes");
}

}  // namespace catmerge::harness::page
