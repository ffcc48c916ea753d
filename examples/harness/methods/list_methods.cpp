// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <cstdio>
#include <harness/methods/catalogue.hpp>
#include <harness/methods/list_methods.hpp>

namespace catmerge::harness {

namespace {

/// A method or a transform with default settings.
struct described_entry {
  explicit described_entry(const merged_transform_entry& entry)
      : described_entry(entry, [&](settings& s) { return entry.make(s); }) {}
  explicit described_entry(const auto& entry)
      : described_entry(entry, [&](settings& s) { return entry.make(s, {}); }) {}

  described_entry(const auto& entry, const auto& make) {
    settings nothing(entry.name, "");
    const auto made = make(nothing);
    needs_features =
        made.needs_statistics(layer_kind::linear) || made.needs_statistics(layer_kind::scale);
    needs_importance = made.needs_importance();
    scans = made.scan_wanted();
    keys = nothing.documented();
  }
  bool needs_features, needs_importance, scans;
  std::vector<settings::known> keys;
};

void list(const auto& entries) {
  for (const auto& entry : entries) {
    std::printf("\n  %-16s %s", entry.name.c_str(), entry.summary.c_str());
    if (!entry.source.text.empty())
      std::printf(" (%s, arXiv %s)", entry.source.text.c_str(), entry.source.arxiv.c_str());
    std::printf("\n");
    const described_entry made(entry);
    std::string needs;
    if (made.needs_features) needs = "features or samples of every task";
    if (made.needs_importance)
      needs += (needs.empty() ? "" : ", and ") + std::string("--importance");
    if (!needs.empty()) std::printf("    needs %s\n", needs.c_str());
    if (made.scans) std::printf("    looks at the whole model before it merges\n");
    for (const auto& s : made.keys) {
      const std::string value = s.value.empty() ? "" : " (" + s.value + ")";
      std::printf("    %-16s %s%s\n", s.key.c_str(), s.help.c_str(), value.c_str());
    }
  }
}

/// A note on a row of an experiment that needs no importances, although the method takes some.
std::string without_importance(const method_entry& m) {
  for (const auto& t : m.trials) {
    std::string text = m.name;
    for (const auto& [key, values] : t.grid) text = with_settings(text, key + "=" + values.front());
    if (!parse_method(text).needs_importance()) return ", or nothing (" + t.label + ")";
  }
  return "";
}
std::string without_importance(const auto&) {
  return "";
}

/// The inputs of an entry beside task vectors, in words.
std::string needs_of(const auto& entry) {
  const described_entry made(entry);
  std::string needs = made.needs_features ? "features" : "";
  const auto add = [&](const std::string& more) { needs += (needs.empty() ? "" : "; ") + more; };
  if (made.needs_importance) add(words_of(entry.importance) + without_importance(entry));
  if (made.scans) add("the whole model");
  return needs.empty() ? "nothing" : needs;
}

std::string link_to(const publication& paper) {
  return paper.text.empty() ? "-"
                            : "[" + paper.text + "](https://arxiv.org/abs/" + paper.arxiv + ")";
}

void print_table(const std::string& what, const std::string& calls, const std::string& option,
                 const auto& entries) {
  std::printf("| %s | needs | %s | `%s` | paper |\n|---|---|---|---|---|\n", what.c_str(),
              calls.c_str(), option.c_str());
  for (const auto& entry : entries)
    std::printf("| %s | %s | %s | `%s` | %s |\n", entry.label.c_str(), needs_of(entry).c_str(),
                entry.calls.c_str(), entry.name.c_str(), link_to(entry.source).c_str());
}

}  // namespace

void list_methods_as_markdown() {
  print_table("method", "call for one parameter", "--method", all_methods());
  std::printf("\n");
  print_table("transform, before any method", "type, for `chain`", "--before", all_transforms());
  std::printf("\n");
  print_table("transform, after any method", "type, for `then`", "--after",
              all_merged_transforms());
}

void list_methods() {
  std::printf(
      "Methods, for --method NAME or --method NAME:KEY=VALUE,...; defaults in parentheses.\n");
  list(all_methods());
  std::printf("\nTransforms of task vectors, for --before.\n");
  list(all_transforms());
  std::printf("\nTransforms of the merged vector, for --after.\n");
  list(all_merged_transforms());
}

}  // namespace catmerge::harness
