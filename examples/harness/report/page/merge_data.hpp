// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/block_names.hpp>
#include <harness/report/page/text.hpp>
#include <harness/report/page/values.hpp>

/// A merge's report as the page needs it. Absent values and values of another type are empty or
/// `unknown`.
namespace catmerge::harness::page {

/// The removal that protects one task.
struct removal {
  std::size_t task = 0;
  std::size_t count = 0;            ///< directions, or coordinates of scales and shifts
  std::vector<double> eigenvalues;  ///< of the directions
  std::vector<double> spectrum;     ///< more eigenvalues of the same matrix, the removed ones first
};

struct parameter {
  std::string name, kind;
  block_name place;
  bool trimmed = false, missing_statistics = false, fallback = false;
  std::string merged_by;  ///< in words; empty in older reports
  grid before, after;     ///< entry (k, i): ||X_k T_i||^2, and of the trimmed vector
  grid overlap;
  std::vector<double> deviation, norm, energy_removed, drift, drift_scale;
  std::vector<removal> removed;
  std::vector<std::string> emptied;
  std::size_t unknown_numbers = 0;

  /// The mean over the tasks of ||X_k T_k||^2, which divides this parameter's numbers before they
  /// are summed with those of others. Not positive if it is unknown.
  double own_shift() const {
    double sum = 0;
    for (std::size_t k = 0; k < before.rows; ++k) sum += before(k, k);
    return before.rows == 0 ? 0 : sum / static_cast<double>(before.rows);
  }

  /// True if all conflicts are known, so that sums over parameters may include them.
  bool measured() const {
    const auto known = [](const grid& g) {
      return !g.empty() && std::all_of(g.values.begin(), g.values.end(),
                                       [](double v) { return std::isfinite(v); });
    };
    return known(before) && known(after) && own_shift() > 0;
  }
};

using parameters = std::vector<const parameter*>;

struct merge_data {
  std::vector<std::string> tasks;
  std::vector<parameter> all;
  std::size_t copied = 0;
  std::vector<std::string> warnings;
  const json* report = nullptr;

  const json& settings() const { return member(member(*report, "catmerge"), "settings"); }

  template <class Condition>
  parameters chosen(const Condition& condition) const {
    parameters list;
    for (const auto& p : all)
      if (condition(p)) list.push_back(&p);
    return list;
  }

  /// The parameters of a kind with known conflicts.
  parameters measured(const std::string& kind) const {
    return chosen([&](const parameter& p) { return p.kind == kind && p.measured(); });
  }
};

namespace detail {

inline removal read_removal(const json& j, const std::vector<std::string>& tasks) {
  removal r;
  const auto found = std::find(tasks.begin(), tasks.end(), text(member(j, "protects")));
  r.task = static_cast<std::size_t>(found - tasks.begin());
  r.eigenvalues = numbers(member(j, "eigenvalues"));
  r.spectrum = numbers(member(j, "spectrum"));
  r.count = r.eigenvalues.size() + list(member(j, "coordinates")).size();
  return r;
}

inline parameter read_parameter(const json& j, const std::vector<std::string>& tasks) {
  const std::size_t n = tasks.size();
  parameter p;
  p.name = display_name(text(member(j, "name")), 120);
  p.kind = text(member(j, "kind"));
  p.place = block_name(text(member(j, "name")));
  p.place.role = display_name(p.place.role);
  p.trimmed = member(j, "trimmed") == true;
  p.fallback = member(j, "fallback") == true;
  p.merged_by = text(member(j, "merged_by"));
  p.missing_statistics = member(j, "missing_statistics") == true;
  p.before = square(member(j, "shifts_before"), n);
  p.after = square(member(j, "shifts_after"), n);
  p.overlap = square(member(j, "overlap"), n);
  p.deviation = numbers(member(j, "deviation"), n);
  p.norm = numbers(member(j, "task_vector_norm"), n);
  p.energy_removed = numbers(member(j, "energy_removed"), n);
  p.drift = numbers(member(j, "drift"), n);
  p.drift_scale = numbers(member(j, "drift_scale"), n);
  for (const auto& removed : list(member(j, "removed"))) {
    removal r = read_removal(removed, tasks);
    if (r.task < n) p.removed.push_back(std::move(r));
  }
  for (const auto& task : texts(member(j, "trimmed_to_zero")))
    p.emptied.push_back(display_name(task));
  p.unknown_numbers = count_unknown(j);
  return p;
}

}  // namespace detail

inline merge_data read_merge(const json& report) {
  merge_data data;
  data.report = &report;
  data.tasks = texts(member(report, "tasks"));
  for (const auto& j : list(member(report, "parameters")))
    data.all.push_back(detail::read_parameter(j, data.tasks));
  for (auto& task : data.tasks) task = display_name(task);
  data.copied = list(member(report, "copied")).size();
  data.warnings = texts(member(report, "warnings"));
  return data;
}

}  // namespace catmerge::harness::page
