// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/aggregate.hpp>
#include <harness/report/page/html.hpp>
#include <harness/report/page/merge_conflict.hpp>
#include <harness/report/page/spectrum.hpp>

/// The parameters of a merge with most conflict, and their spectra.
namespace catmerge::harness::page {

/// A pair of tasks, and the shift of one's features by the other's vector.
struct worst_pair {
  std::size_t disturbed = 0, disturber = 0;
  double conflict = unknown;  ///< over the shift by the disturbed task's own vector
};

inline worst_pair find_worst(const parameter& p, moment when) {
  worst_pair worst;
  const grid& s = shifts(p, when);
  for (std::size_t k = 0; k < s.rows; ++k)
    for (std::size_t i = 0; i < s.columns; ++i) {
      if (i == k || !(p.before(k, k) > 0)) continue;
      const double conflict = s(k, i) / p.before(k, k);
      if (!(conflict <= worst.conflict)) worst = {k, i, conflict};
    }
  return worst;
}

/// A table row for one parameter.
struct offender {
  const parameter* p = nullptr;
  double before = unknown, after = unknown;
};

inline std::vector<offender> offenders(const merge_data& data, const std::string& kind) {
  std::vector<offender> list;
  for (const auto& p : data.all) {
    if (p.kind != kind || !p.measured()) continue;
    list.push_back({&p, conflict_level({&p}, data.tasks.size(), moment::before),
                    conflict_level({&p}, data.tasks.size(), moment::after)});
  }
  return list;
}

inline bool removed_more(const offender& a, const offender& b) {
  return a.before - a.after > b.before - b.after;
}

namespace detail {

/// "4", or a range from the least to the most if tasks differ; a dash if nothing is known.
inline std::string removed_counts(const parameter& p) {
  if (p.removed.empty()) return dash;
  std::size_t least = p.removed.front().count, most = least;
  for (const auto& r : p.removed) least = std::min(least, r.count), most = std::max(most, r.count);
  return least == most ? std::to_string(least)
                       : std::to_string(least) + dash + std::to_string(most);
}

inline double largest_known(const std::vector<double>& values) {
  double most = unknown;
  for (const double v : values)
    if (std::isfinite(v) && !(v <= most)) most = v;
  return most;
}

inline std::string pair_text(const merge_data& data, const worst_pair& worst) {
  if (!std::isfinite(worst.conflict)) return dash;
  return shown(worst.conflict, 2) + " \u00B7 " + data.tasks[worst.disturber] + " \u2192 " +
         data.tasks[worst.disturbed];
}

inline const std::vector<std::string>& offender_columns() {
  static const std::vector<std::string> columns = {"Parameter",
                                                   "Kind",
                                                   "Conflict before",
                                                   "After",
                                                   "Removed",
                                                   "Removed per task",
                                                   "Energy removed, most",
                                                   "Worst pair after the trim"};
  return columns;
}

inline void add_row(html_table& table, const merge_data& data, const offender& o) {
  table.begin_row();
  table.cell(o.p->name);
  table.cell(o.p->kind);
  table.cell(shown(o.before));
  table.cell(shown(o.after));
  table.cell(percent(share_removed(o.before, o.after)));
  table.cell(removed_counts(*o.p));
  table.cell(percent(largest_known(o.p->energy_removed)));
  table.wide_cell(pair_text(data, find_worst(*o.p, moment::after)));
  table.end_row();
}

}  // namespace detail

/// The number of parameters in the tables of offenders, and of spectra.
inline constexpr std::size_t most_offenders = 10, most_spectra = 12;

inline std::string offender_table(const merge_data& data, std::vector<offender> list,
                                  const std::string& label) {
  list.resize(std::min(list.size(), most_offenders));
  html_table table(label);
  table.head(detail::offender_columns(), 1);
  for (const auto& o : list) detail::add_row(table, data, o);
  return table.html();
}

inline std::string offenders_section(const merge_data& data) {
  std::string html, rest;
  for (const std::string kind : {"linear", "scale", "shift"}) {
    auto list = offenders(data, kind);
    if (list.empty()) continue;
    // Equal parameters stay in the order of the report.
    std::stable_sort(list.begin(), list.end(),
                     [](const auto& a, const auto& b) { return a.after > b.after; });
    const std::string left = ", most conflict left", removed = ", most conflict removed";
    std::string tables = element("h3", escaped(capital(plural(kind)) + left)) + "\n" +
                         offender_table(data, list, plural(kind) + left);
    std::stable_sort(list.begin(), list.end(), removed_more);
    tables += element("h3", escaped(capital(plural(kind)) + removed)) + "\n" +
              offender_table(data, list, plural(kind) + removed);
    (html.empty() ? html : rest) += tables;
  }
  if (html.empty()) return {};
  return paragraph(
             "Conflict is the mean squared shift of a task\u2019s features by another task\u2019s "
             "vector, over that by the own vector: 1 means as much as its own. Removed per task: "
             "how many directions (linear weights) or coordinates (scales and shifts) were taken "
             "from the others to protect one task. Energy removed: the share of a task "
             "vector\u2019s squared norm that the trim took, for the task that lost most. Worst "
             "pair: the disturbing and the disturbed task of the largest conflict, over the shift "
             "by the disturbed task\u2019s own vector.") +
         html + (rest.empty() ? "" : details("The same for the other kinds of parameters", rest));
}

// ---------------------------------------------------------------- spectra

namespace detail {

/// The removal with the largest leading eigenvalue: that of the task that needed the trim most.
inline const removal* leading_removal(const parameter& p) {
  const removal* leading = nullptr;
  double most = 0;
  for (const auto& r : p.removed) {
    const auto& values = r.spectrum.empty() ? r.eigenvalues : r.spectrum;
    if (values.empty() || !std::isfinite(values.front())) continue;
    if (leading == nullptr || values.front() > most) leading = &r, most = values.front();
  }
  return leading;
}

}  // namespace detail

inline std::string spectra_section(const merge_data& data) {
  auto list = offenders(data, "linear");
  std::stable_sort(list.begin(), list.end(), removed_more);
  std::string html;
  std::size_t drawn = 0, without = 0;
  for (const auto& o : list) {
    const removal* r = detail::leading_removal(*o.p);
    if (r == nullptr) continue;
    spectrum s;
    s.values = r->spectrum.empty() ? r->eigenvalues : r->spectrum;
    s.removed = std::min(r->eigenvalues.size(), s.values.size());
    if (r->spectrum.size() <= r->eigenvalues.size()) ++without;
    s.label = "Eigenvalues of " + o.p->name + ", protecting " + data.tasks[r->task];
    html += panel(o.p->name,
                  "protects " + data.tasks[r->task] + ": " + std::to_string(s.removed) + " removed",
                  draw(s));
    if (++drawn == most_spectra) break;
  }
  if (html.empty()) return {};
  std::string intro =
      "The largest eigenvalues of G\u2096, in descending order, for the linear weights with most "
      "conflict removed, each for the task with the largest. An eigenvalue weighs "
      "the removal of its direction from all other vectors: the gain of task k minus lambda times "
      "the loss of the others (Eq. 8). Blue bars were removed, grey ones were kept; the dashed "
      "line is the cut. A cut at a cliff takes the few directions that matter; tall bars to the "
      "right of it say that a larger rank would remove more.";
  if (without == drawn)
    intro +=
        " This report holds the removed ones only: what lies to the right of the cut is not known.";
  else if (without > 0)
    intro += " Panels without a dashed line show the removed ones only: the rest is not known.";
  return paragraph(intro) + panels(html);
}

// ---------------------------------------------------------------- all parameters

/// The table of all parameters takes some 300 kB at this size.
inline constexpr std::size_t most_rows = 1000;

inline std::string all_parameters(const merge_data& data) {
  if (data.all.empty()) return {};
  html_table table("All parameters");
  table.head(detail::offender_columns(), 1);
  for (std::size_t i = 0; i < std::min(most_rows, data.all.size()); ++i) {
    const auto& p = data.all[i];
    if (p.measured()) {
      detail::add_row(table, data,
                      {&p, conflict_level({&p}, data.tasks.size(), moment::before),
                       conflict_level({&p}, data.tasks.size(), moment::after)});
      continue;
    }
    table.begin_row();
    table.cell(p.name);
    table.cell(p.kind);
    for (int c = 0; c < 3; ++c) table.cell(dash);
    table.cell(p.trimmed ? detail::removed_counts(p) : dash);
    table.cell(percent(detail::largest_known(p.energy_removed)));
    table.wide_cell(p.missing_statistics ? std::string("no statistics: not trimmed")
                    : p.fallback ? "merged by " + (p.merged_by.empty() ? std::string("another rule")
                                                                       : p.merged_by)
                    : p.trimmed  ? "trimmed; conflict is not in the report"
                                 : "not trimmed");
    table.end_row();
  }
  const std::string rest =
      data.all.size() > most_rows
          ? paragraph("The report holds " + std::to_string(data.all.size() - most_rows) + " more.")
          : "";
  return details("Show " + count(data.all.size(), "parameter"), table.html() + rest);
}

}  // namespace catmerge::harness::page
