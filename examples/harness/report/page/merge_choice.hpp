// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/line_chart.hpp>
#include <harness/report/page/merge_data.hpp>
#include <harness/report/page/run_facts.hpp>

/// The settings that outputs on unlabeled samples decided.
namespace catmerge::harness::page {

/// " (0.3 to 0.4)"; empty if there is no range.
inline std::string interval_text(const std::vector<double>& range) {
  if (range.size() != 2 || !std::isfinite(range[0]) || !std::isfinite(range[1])) return "";
  return " (" + shortest(range[0]) + " to " + shortest(range[1]) + ")";
}

/// A curve of distances over a setting, a line per method.
inline std::string choice_figure(const std::string& name, const std::string& across,
                                 const std::vector<const json*>& curves) {
  line_chart chart;
  chart.label = name;
  std::vector<key_entry> entries;
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const json& curve = *curves[i];
    const std::string label = display_name(text(member(curve, "method")), 60);
    const auto values = numbers(member(curve, "values")),
               distances = numbers(member(curve, "distance"));
    series line;
    line.classes = "s" + std::to_string(i % 8);
    line.shape = i;
    for (std::size_t p = 0; p < std::min(values.size(), distances.size()); ++p)
      if (std::isfinite(values[p]) && std::isfinite(distances[p]))
        line.points.push_back({values[p], distances[p], 0,
                               (label.empty() ? "" : label + ", ") + shortest(values[p]) + ": " +
                                   shown(distances[p])});
    entries.push_back({line.classes, i,
                       (label.empty() ? "" : label + ": ") + setting(member(curve, "chosen")) +
                           interval_text(numbers(member(curve, "interval")))});
    chart.lines.push_back(std::move(line));
  }
  return figure(
      name, key(entries) + draw(chart),
      "Up: the distance of the merged network\u2019s outputs from the experts\u2019, mean "
      "over the tasks. Across: " +
          across +
          ". The key names the value that was chosen, and in brackets the range of choices in 95 "
          "of 100 resamplings of the samples.");
}

/// The distances per task of the base, the prior and the merged network, and the largest
/// probability that the expert gives a class.
inline std::string choice_table(const merge_data& data, const json& distance,
                                const json& confidence) {
  html_table table("Distance of the outputs from the experts\u2019");
  std::vector<std::string> head = {""};
  for (const auto& task : data.tasks) head.push_back(display_name(task, 40));
  table.head(head, 0);
  const std::pair<const char*, const char*> rows[] = {
      {"base", "Base"}, {"prior", "Prior"}, {"merged", "Merged"}};
  for (const auto& [name, label] : rows) {
    const auto values = numbers(member(distance, name), data.tasks.size());
    table.begin_row();
    table.cell(label);
    for (const double v : values) table.cell(shown(v));
    table.end_row();
  }
  if (confidence.is_array()) {
    table.begin_row();
    table.cell("Confidence of the expert");
    for (const double v : numbers(confidence, data.tasks.size())) table.cell(shown(v));
    table.end_row();
  }
  return table.html();
}

inline std::string choice_section(const merge_data& data) {
  const json& choice = member(*data.report, "choice");
  if (!choice.is_object()) return "";
  std::string html = paragraph(text(member(choice, "summary")), "lead");
  std::vector<const json*> curves;
  for (const auto& curve : list(member(choice, "alpha"))) curves.push_back(&curve);
  std::string drawn;
  if (!curves.empty()) drawn += choice_figure("Distance over alpha", "alpha", curves);
  if (const json& gain = member(choice, "gain_by_cross_fitting"); gain.is_object())
    drawn += choice_figure("Distance over the length of the prior, on left-out samples",
                           "the factor of the prior", {&gain});
  if (!drawn.empty()) html += figures(drawn);
  if (const json& distance = member(choice, "distance"); distance.is_object())
    html += choice_table(data, distance, member(choice, "confidence"));
  return html;
}

}  // namespace catmerge::harness::page
