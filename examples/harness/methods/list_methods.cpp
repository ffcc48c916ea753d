// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <cstdio>
#include <harness/methods/list_methods.hpp>
#include <harness/methods/spec.hpp>

namespace catmerge::harness {

namespace {

template <class Any>
void list(const std::vector<offered<Any>>& all) {
  for (const auto& one : all) {
    std::printf("\n  %-16s %s\n", one.name.c_str(), one.summary.c_str());
    settings nothing(one.name, "");
    const Any made = one.make(nothing, {});
    std::string needs;
    if (made.needs_statistics(layer_kind::linear) || made.needs_statistics(layer_kind::scale))
      needs = "features or samples of every task";
    if (made.needs_importance())
      needs += (needs.empty() ? "" : ", and ") + std::string("--importance");
    if (!needs.empty()) std::printf("    needs %s\n", needs.c_str());
    if (made.scan_wanted()) std::printf("    looks at the whole model before it merges\n");
    for (const auto& s : nothing.documented())
      std::printf("    %-16s %s%s\n", s.key.c_str(), s.help.c_str(),
                  s.value.empty() ? "" : (" (" + s.value + ")").c_str());
  }
}

}  // namespace

void list_methods() {
  std::printf(
      "Methods, for --method NAME or --method NAME:KEY=VALUE,...; defaults in parentheses.\n");
  list(offered_methods());
  std::printf("\nTransforms of task vectors, for --before.\n");
  list(offered_transforms());
}

}  // namespace catmerge::harness
