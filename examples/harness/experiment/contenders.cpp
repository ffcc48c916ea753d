// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <harness/experiment/laboratory.hpp>

namespace catmerge::harness {

namespace {

/// CAT's grid with the values of the plan.
setting_grid with_plan(setting_grid grid, const experiment_plan& plan) {
  for (auto& [key, values] : grid) {
    std::vector<std::string> own;
    if (key == "lambda")
      for (const double l : plan.lambdas) own.push_back(shortest(l));
    if (key == "rank")
      for (const index_t r : plan.ranks) own.push_back(std::to_string(r));
    if (!own.empty()) values = std::move(own);
  }
  return grid;
}

/// The importances that the method needs with the settings of a text.
importance_kind needed(const method_entry& m, const std::string& text) {
  return parse_method(text).needs_importance() ? m.importance : importance_kind::none;
}

}  // namespace

bool laboratory::is_wanted(const std::string& name) const {
  const auto& wanted = plan_.methods;
  return wanted.empty() || std::find(wanted.begin(), wanted.end(), name) != wanted.end();
}

/// First every method alone, then the methods with transforms. The choices include a paper's
/// defaults.
void laboratory::make_contenders() {
  std::vector<contender> alone, combined;
  for (const auto& m : all_methods()) {
    if (!is_wanted(m.name)) continue;
    for (const auto& t : m.trials) {
      const std::string label = t.label.empty() ? m.label : t.label;
      const auto texts = texts_at(m.name, m.name == "cat" ? with_plan(t.grid, plan_) : t.grid);
      const auto importance = needed(m, texts.front());
      if (importance != importance_kind::none && !files_.has(importance)) {
        notes_.insert(label + ": left out, because the family has no files of importances for it.");
        continue;
      }
      alone.push_back({label, texts, {}, m.unit, importance});
    }
    for (const auto& transform : m.before)
      combined.push_back({transform_entry_of(transform).label + ", then " + m.label,
                          {m.name},
                          {transform},
                          m.unit,
                          needed(m, m.name)});
    for (const auto& transform : m.after) {
      const auto& entry = merged_transform_entry_of(transform);
      combined.push_back({m.label + ", then " + entry.label,
                          {m.name},
                          {},
                          entry.unit.value_or(m.unit),
                          needed(m, m.name),
                          {transform}});
    }
  }
  contenders_ = std::move(alone);
  contenders_.insert(contenders_.end(), combined.begin(), combined.end());
}

}  // namespace catmerge::harness
