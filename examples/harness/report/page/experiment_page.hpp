// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/dot_rows.hpp>
#include <harness/report/page/line_chart.hpp>
#include <harness/report/page/run_facts.hpp>
#include <map>

/// The page about experiments.
namespace catmerge::harness {

namespace page {

/// A mean and its spread.
struct measured_value {
  measured_value() = default;
  explicit measured_value(const json& j)
      : mean(number(member(j, "mean"))), spread(number(member(j, "spread"))) {}

  std::string mean_text() const { return score(mean); }
  std::string spread_text() const { return std::isfinite(spread) ? score(spread) : ""; }
  std::string text() const {
    return mean_text() + (std::isfinite(spread) ? " \u00B1 " + spread_text() : "");
  }

  double mean = unknown, spread = unknown;
};

/// The name of a method or a curve.
inline std::string label_of(const json& j) {
  return display_name(text(member(j, "label")), 60);
}

/// Column headings: the tasks.
inline std::vector<std::string> columns_of(const json& results) {
  return task_headings(task_names(results), texts(member(results, "metrics")));
}

/// "Bars: ..." for the captions of figures with whiskers.
inline std::string bars_sentence(const json& results) {
  const double seeds = number(member(results, "seeds"));
  return std::isfinite(seeds) && seeds > 1 ? " Bars: the spread over " + fixed(seeds, 0) + " seeds."
                                           : " Bars: the spread, where there is one.";
}

// ---------------------------------------------------------------- methods side by side

inline std::string table_study(const json& results, const json& study) {
  const json& rows = list(member(study, "rows"));
  const auto columns = columns_of(results);
  bool any_validation = false, any_judged = false, any_seconds = false, any_setting = false;
  std::vector<std::vector<measured_value>> values;  // per row: the tasks, then the average
  dot_rows chart;
  chart.label = "Average over the tasks, by method";
  for (const auto& row : rows) {
    any_validation = any_validation || member(row, "validation").is_object();
    any_judged = any_judged || member(row, "without_labels").is_object();
    any_seconds = any_seconds || std::isfinite(number(member(row, "seconds")));
    any_setting = any_setting || !text(member(row, "setting")).empty();
    auto& line = values.emplace_back();
    const json& tasks = list(member(row, "tasks"));
    for (std::size_t k = 0; k < columns.size(); ++k)
      line.emplace_back(k < tasks.size() ? measured_value(tasks[k]) : measured_value());
    line.emplace_back(member(row, "average"));
    const std::string label = label_of(row);
    const auto& average = line.back();
    chart.rows.push_back(
        {label,
         {{average.mean, average.spread, "after", label + ": " + average.text(), 0}},
         average.mean_text()});
  }

  html_table table(text(member(study, "title")));
  std::vector<std::string> head = {""};
  head.insert(head.end(), columns.begin(), columns.end());
  head.emplace_back("Average");
  if (any_validation) head.emplace_back("Validation");
  if (any_judged) head.emplace_back("Without labels");
  if (any_seconds) head.emplace_back("Seconds");
  if (any_setting) head.emplace_back("Setting");
  table.head(head, any_setting ? 1 : 0);
  std::vector<range> reach(columns.size() + 1);
  for (const auto& line : values)
    for (std::size_t c = 0; c < line.size(); ++c) reach[c].add(line[c].mean);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    table.begin_row();
    table.cell(label_of(rows[r]));
    for (std::size_t c = 0; c < values[r].size(); ++c) {
      const auto& v = values[r][c];
      const double width = reach[c].high - reach[c].low;
      const double tint = std::isfinite(v.mean) && width > 0 ? (v.mean - reach[c].low) / width : 0;
      table.number_cell(v.mean_text(), v.spread_text(), tint);
    }
    const measured_value validation(member(rows[r], "validation"));
    if (any_validation) table.number_cell(validation.mean_text(), validation.spread_text(), 0);
    const measured_value judged(member(rows[r], "without_labels"));
    if (any_judged) table.number_cell(judged.mean_text(), judged.spread_text(), 0);
    if (any_seconds) table.cell(shown(number(member(rows[r], "seconds"))));
    if (any_setting) table.wide_cell(text(member(rows[r], "setting")));
    table.end_row();
  }
  const std::string drawn = figure(
      "Average over the tasks", draw(chart),
      "In the order of the table; the axis does not begin at zero." + bars_sentence(results));
  const std::string numbers =
      table.html() +
      paragraph("Each column is tinted from its smallest number (none) to its largest.", "small");
  // A table of more columns takes the whole width of the page.
  return head.size() <= 7 ? beside(drawn, numbers) : figures(drawn) + numbers;
}

// ---------------------------------------------------------------- curves

/// The n-th series' classes: eight colours, each with a shape of its own.
inline std::string series_class(std::size_t n) {
  return "s" + std::to_string(n % 8);
}

namespace detail {

/// The distinct x of all curves, as text, in the order of their first appearance.
inline std::vector<std::string> names_of(const json& curves) {
  std::vector<std::string> names;
  for (const auto& curve : curves)
    for (const auto& p : list(member(curve, "points"))) {
      const std::string name = setting(member(p, "x"));
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  return names;
}

inline std::string tip(const json& curve, const json& p) {
  const std::string used = text(member(p, "setting"));
  return label_of(curve) + ", " + setting(member(p, "x")) + ": " + measured_value(p).text() +
         (used.empty() ? "" : " (" + used + ")");
}

/// Named positions: a row each, with a lane per curve.
inline std::string draw_names(const json& curves, const std::string& label) {
  dot_rows chart;
  chart.label = label;
  chart.lanes = static_cast<double>(std::max<std::size_t>(1, curves.size()));
  for (const auto& name : names_of(curves)) {
    dot_row row;
    row.label = name;
    for (std::size_t c = 0; c < curves.size(); ++c) {
      dot d{unknown, unknown, series_class(c), "", c};
      for (const auto& p : list(member(curves[c], "points"))) {
        if (setting(member(p, "x")) != name) continue;
        const measured_value v(p);
        d.value = v.mean, d.spread = v.spread, d.tip = tip(curves[c], p);
      }
      row.dots.push_back(std::move(d));
    }
    chart.rows.push_back(std::move(row));
  }
  return draw(chart);
}

inline std::string draw_numbers(const json& curves, const std::string& label, bool logarithmic) {
  line_chart chart;
  chart.label = label;
  chart.logarithmic = logarithmic;
  chart.apart = std::min(2.0, 8 / static_cast<double>(std::max<std::size_t>(1, curves.size())));
  for (std::size_t c = 0; c < curves.size(); ++c) {
    series line;
    line.classes = series_class(c);
    line.shape = c;
    for (const auto& p : list(member(curves[c], "points"))) {
      const double x = number(member(p, "x"));
      const measured_value v(p);
      if (!std::isfinite(x) || (logarithmic && x <= 0)) continue;
      line.points.push_back({x, v.mean, v.spread, tip(curves[c], p)});
    }
    std::stable_sort(line.points.begin(), line.points.end(),
                     [](const point& a, const point& b) { return a.x < b.x; });
    chart.lines.push_back(std::move(line));
  }
  return draw(chart);
}

/// The number of points that a figure cannot show: no number, or not positive on a logarithmic
/// axis.
inline std::size_t not_drawn(const json& curves, const std::string& scale) {
  std::size_t count = 0;
  for (const auto& curve : curves)
    for (const auto& p : list(member(curve, "points"))) {
      const double x = number(member(p, "x"));
      const bool placed = scale == "names" || (std::isfinite(x) && (scale != "log" || x > 0));
      if (!placed || !std::isfinite(number(member(p, "mean")))) ++count;
    }
  return count;
}

}  // namespace detail

inline std::string curves_table(const json& curves, const std::string& x_label,
                                const std::string& title) {
  html_table table(title);
  std::vector<std::string> head = {x_label};
  for (const auto& curve : curves) head.push_back(label_of(curve));
  table.head(head, curves.size());
  for (const auto& name : detail::names_of(curves)) {
    table.begin_row();
    table.cell(display_name(name, 60));
    for (const auto& curve : curves) {
      std::string cell;
      for (const auto& p : list(member(curve, "points"))) {
        if (setting(member(p, "x")) != name) continue;
        const std::string used = text(member(p, "setting"));
        cell += (cell.empty() ? "" : "; ") + measured_value(p).text() +
                (used.empty() ? "" : " (" + used + ")");
      }
      table.wide_cell(cell);
    }
    table.end_row();
  }
  return details("The numbers of this figure", table.html(), true);
}

inline std::string curves_study(const json& results, const json& study) {
  const json& curves = list(member(study, "curves"));
  const std::string x_label = display_name(text(member(member(study, "x"), "label")), 60),
                    scale = text(member(member(study, "x"), "scale")),
                    title = text(member(study, "title"));
  std::vector<key_entry> entries;
  for (std::size_t c = 0; c < curves.size(); ++c)
    entries.push_back({series_class(c), c, label_of(curves[c])});
  const bool names = scale == "names";
  const std::string quantity = text(member(study, "quantity")),
                    shown = quantity.empty() || quantity == "average" ? "the mean over the tasks"
                                                                      : display_name(quantity, 60);
  std::string caption =
      names ? "Across: " + shown + ". Down: " + x_label + "."
            : "Up: " + shown + ". Across: " + x_label + (scale == "log" ? " (logarithmic)." : ".");
  caption += " Its axis does not begin at zero.";
  if (!names && curves.size() > 1)
    caption += " Marks stand a little apart, so that bars do not hide one another.";
  caption += bars_sentence(results);
  if (const auto missing = detail::not_drawn(curves, scale); missing > 0)
    caption += " " + count(missing, "point") + " cannot be drawn and stand" +
               (missing == 1 ? "s" : "") + " in the table alone.";
  const std::string drawn = names ? detail::draw_names(curves, title)
                                  : detail::draw_numbers(curves, title, scale == "log");
  return beside(figure("", key(entries) + drawn, caption), curves_table(curves, x_label, title));
}

inline std::string experiment_header(const json& results) {
  const std::string family = text(member(results, "family"));
  const auto metrics = texts(member(results, "metrics"));
  facts f;
  f.add("Tasks", std::to_string(list(member(results, "tasks")).size()));
  const bool same =
      !metrics.empty() && std::all_of(metrics.begin(), metrics.end(),
                                      [&](const std::string& m) { return m == metrics.front(); });
  f.add("Metric", metrics.empty() ? "" : same ? metrics.front() : "one per task");
  f.add("Seeds", setting(member(results, "seeds")));
  add_run(f, results);
  std::string notes;
  for (const auto& note : texts(member(results, "notes"))) notes += paragraph(note);
  return element("h1", escaped("Merging experiments" + (family.empty() ? "" : ": " + family))) +
         "\n" + task_list(task_names(results)) + f.html() + notes;
}

}  // namespace page

/// The page about a set of experiments: one self-contained HTML document. `results` holds
/// "studies", an array of tables of methods ("type": "table") and of curves ("type": "curves").
inline std::string experiment_page(const json& results) {
  using namespace page;
  sections s;
  std::size_t n = 0;
  for (const auto& study : list(member(results, "studies"))) {
    const std::string type = text(member(study, "type")), note = text(member(study, "note"));
    std::string title = text(member(study, "title"));
    if (title.empty()) title = text(member(study, "name"));
    title = display_name(title, 80);
    const std::string body = type == "table"    ? table_study(results, study)
                             : type == "curves" ? curves_study(results, study)
                                                : paragraph(
                                                      "A study of a type that this page does "
                                                      "not know: " +
                                                      type);
    s.add("study-" + std::to_string(++n), title, (note.empty() ? "" : paragraph(note)) + body);
  }
  const std::string family = text(member(results, "family"));
  return document("Merging experiments" + (family.empty() ? "" : ": " + family),
                  experiment_header(results) + s.html(), footer(results));
}

}  // namespace catmerge::harness
