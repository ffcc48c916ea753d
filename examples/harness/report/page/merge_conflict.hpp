// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/aggregate.hpp>
#include <harness/report/page/heat_map.hpp>
#include <harness/report/page/html.hpp>
#include <harness/report/page/line_chart.hpp>

/// A merge's page: conflict between tasks, and over the layers.
namespace catmerge::harness::page {

/// "linear weights", "scales", "shifts".
inline std::string plural(const std::string& kind) {
  return kind == "linear" ? "linear weights" : kind + "s";
}

/// "24 linear weights", for a list of one kind.
inline std::string count_of(const parameters& list) {
  const std::string kind = list.empty() ? "parameter" : list.front()->kind;
  return count(list.size(), kind == "linear"  ? "linear weight"
                            : kind == "other" ? "parameter"
                                              : kind);
}

/// The text with a capital at its beginning.
inline std::string capital(std::string s) {
  if (!s.empty() && s[0] >= 'a' && s[0] <= 'z') s[0] = static_cast<char>(s[0] - 'a' + 'A');
  return s;
}

/// A table of a heat map's numbers that do not fit their cells.
inline std::string numbers_of(const heat_map& map) {
  html_table table(map.label);
  std::vector<std::string> head = {""};
  head.insert(head.end(), map.columns.begin(), map.columns.end());
  table.head(head);
  for (std::size_t i = 0; i < map.rows.size(); ++i) {
    table.begin_row();
    table.cell(map.rows[i]);
    for (std::size_t j = 0; j < map.columns.size(); ++j)
      table.cell(map.own_diagonal && i == j ? "" : map.shown(map.values(i, j)));
    table.end_row();
  }
  return details("The numbers of this figure", table.html());
}

/// A heat map as a figure, with a table of numbers if the cells have no room for them.
inline std::string map_figure(const std::string& name, const heat_map& map,
                              const std::string& scale, const std::string& caption) {
  return figure(name, draw(map) + scale, caption, shows_numbers(map) ? "" : numbers_of(map));
}

/// A heat map of tasks against tasks.
inline heat_map task_map(const merge_data& data, grid values, double top, std::string label) {
  heat_map map;
  map.rows = map.columns = data.tasks;
  map.values = std::move(values);
  map.top = top;
  map.label = std::move(label);
  map.shown = [](double v) { return ratio(v); };
  map.tip = [tasks = data.tasks](std::size_t k, std::size_t i) {
    return "what " + tasks[i] + " does to " + tasks[k];
  };
  map.own_diagonal = true;
  return map;
}

namespace detail {

/// The largest known value off the diagonal.
inline double largest(const grid& g) {
  double most = 0;
  for (std::size_t i = 0; i < g.rows; ++i)
    for (std::size_t j = 0; j < g.columns; ++j)
      if (i != j && std::isfinite(g(i, j))) most = std::max(most, std::abs(g(i, j)));
  return most;
}

}  // namespace detail

/// Conflict before and after, and the share removed, for one kind of parameters.
inline std::string conflict_maps(const merge_data& data, const std::string& kind) {
  const parameters list = data.measured(kind);
  const std::size_t n = data.tasks.size();
  const grid before = relative_conflict(list, n, moment::before),
             after = relative_conflict(list, n, moment::after);
  grid removed(n, n);
  for (std::size_t e = 0; e < removed.values.size(); ++e)
    removed.values[e] = share_removed(before.values[e], after.values[e]);
  // One hostile pair must not take the colours from all others: the scale ends at 4.
  const double most = std::max(detail::largest(before), detail::largest(after));
  const double top = std::clamp(most, 0.25, 4.0);
  const std::string scale = draw_scale("0", most > 4 ? "4 and more" : ratio(top));
  const std::string over = count_of(list);
  const std::string own_line =
      kind == "shift" ? " The features play no part for shifts: all rows are alike but for the "
                        "number that they are divided by."
                      : "";
  auto maps = map_figure(
      "Before the trim", task_map(data, before, top, "Conflict before the trim, " + plural(kind)),
      scale,
      "Row: the task with disturbed features. Column: the task of the disturbing vector. The "
      "number is that vector\u2019s squared shift of these features over the squared shift by the "
      "row\u2019s own vector, over " +
          over +
          ", with equal weights. 1: as much as its own. Look for strong columns "
          "(tasks that disturb all others) and strong rows (tasks that suffer)." +
          own_line);
  maps += map_figure(
      "After the trim", task_map(data, after, top, "Conflict after the trim, " + plural(kind)),
      scale,
      "The same for the trimmed vectors that were summed, on the same scale, over the same "
      "(untrimmed) own shifts: a cell that is fainter than before shows removed conflict.");
  const double removed_top = std::max(0.01, detail::largest(removed));
  heat_map share =
      task_map(data, removed, removed_top, "Share of conflict removed, " + plural(kind));
  share.shown = [](double v) { return percent(v, false); };
  share.precise = [](double v) { return percent(v); };
  maps +=
      map_figure("Removed, in percent", share, draw_scale("0", percent(std::min(1.0, removed_top))),
                 "1 \u2212 after / before for each pair. The trim works on the largest "
                 "conflicts that cost the tasks little; a pair with little removed here either "
                 "moves the features in many small directions, or in directions that the "
                 "disturbing task needs itself.");
  return figures(maps);
}

inline std::string conflict_section(const merge_data& data) {
  std::string html, rest;
  for (const char* kind : {"linear", "scale", "shift"}) {
    if (data.measured(kind).empty()) continue;
    if (html.empty())
      html = element("h3", capital(plural(kind))) + "\n" + conflict_maps(data, kind);
    else
      rest += element("h3", capital(plural(kind))) + "\n" + conflict_maps(data, kind);
  }
  return html + (rest.empty() ? "" : details("The same for the other kinds of parameters", rest));
}

// ---------------------------------------------------------------- over the layers

/// A panel of two lines, before and after, over a list of blocks.
struct layer_panel {
  std::string name;
  std::vector<double> before, after;  ///< per block

  double top() const {
    double most = 0;
    for (const auto* values : {&before, &after})
      for (const double v : *values)
        if (std::isfinite(v)) most = std::max(most, v);
    return most;
  }
};

namespace detail {

inline std::string draw(const layer_panel& panel, const block_list& blocks, double top) {
  line_chart chart;
  chart.width = panel_width;
  chart.height = 112;
  chart.label = "Conflict over the blocks, before and after the trim: " + panel.name;
  chart.names = blocks.numbers;
  chart.y.add(0), chart.y.add(top > 0 ? top : 1);
  for (const bool after : {false, true}) {
    series line;
    line.classes = after ? "after" : "before";
    const auto& values = after ? panel.after : panel.before;
    for (std::size_t b = 0; b < values.size(); ++b)
      line.points.push_back({static_cast<double>(b), values[b], 0,
                             "block " + blocks.numbers[b] + ", " +
                                 (after ? "after: " : "before: ") + shown(values[b])});
    chart.lines.push_back(std::move(line));
  }
  return page::draw(chart);
}

/// Panels on one axis; a panel with a top above three times the median has its own.
inline std::string draw(const std::vector<layer_panel>& list, const block_list& blocks) {
  std::vector<double> tops;
  for (const auto& panel : list) tops.push_back(panel.top());
  std::vector<double> sorted = tops;
  std::sort(sorted.begin(), sorted.end());
  const double median = sorted[sorted.size() / 2];
  double common = 0;
  for (const double top : tops)
    if (top <= 3 * median) common = std::max(common, top);
  std::string html;
  for (std::size_t i = 0; i < list.size(); ++i)
    html +=
        panel(list[i].name, "", draw(list[i], blocks, tops[i] <= 3 * median ? common : tops[i]));
  return panels(html);
}

/// One panel per parameter of a block, of one kind.
inline std::vector<layer_panel> panels_by_role(const merge_data& data, const block_list& blocks,
                                               const std::string& kind) {
  std::vector<layer_panel> list;
  for (const auto* p : data.measured(kind)) {
    if (p->place.family != blocks.family) continue;
    const std::size_t b = blocks.position(p->place.block);
    if (b == blocks.blocks.size()) continue;
    auto panel = std::find_if(list.begin(), list.end(),
                              [&](const layer_panel& l) { return l.name == p->place.role; });
    if (panel == list.end()) {
      layer_panel fresh;
      fresh.name = p->place.role;
      fresh.before.assign(blocks.blocks.size(), unknown);
      fresh.after = fresh.before;
      panel = list.insert(list.end(), fresh);
    }
    panel->before[b] = conflict_level({p}, data.tasks.size(), moment::before);
    panel->after[b] = conflict_level({p}, data.tasks.size(), moment::after);
  }
  return list;
}

/// One panel per task, over all parameters of a kind in a block.
inline std::vector<layer_panel> panels_by_task(const merge_data& data, const block_list& blocks,
                                               const std::string& kind) {
  std::vector<layer_panel> list(data.tasks.size());
  for (std::size_t k = 0; k < list.size(); ++k) list[k].name = data.tasks[k];
  for (const auto& block : blocks.blocks) {
    parameters in_block;
    for (const auto* p : data.measured(kind))
      if (p->place.block == block) in_block.push_back(p);
    const grid before = relative_conflict(in_block, list.size(), moment::before),
               after = relative_conflict(in_block, list.size(), moment::after);
    for (std::size_t k = 0; k < list.size(); ++k) {
      list[k].before.push_back(mean_of_others(before, k));
      list[k].after.push_back(mean_of_others(after, k));
    }
  }
  return list;
}

}  // namespace detail

/// The number of panels of one kind on a page; the tables hold the rest.
inline constexpr std::size_t most_panels = 24;

inline std::string layers_section(const merge_data& data) {
  std::vector<block_name> names;
  for (const auto& p : data.all)
    if (p.measured()) names.push_back(p.place);
  const auto all_blocks = block_lists(names);
  std::string html;
  for (const auto& blocks : all_blocks) {
    std::string part;
    for (const std::string kind : {"linear", "scale", "shift"}) {
      auto by_role = detail::panels_by_role(data, blocks, kind);
      if (by_role.empty()) continue;
      const std::size_t left_out = by_role.size() > most_panels ? by_role.size() - most_panels : 0;
      by_role.resize(by_role.size() - left_out);
      std::string figure = detail::draw(by_role, blocks);
      if (left_out > 0)
        figure += paragraph(count(left_out, "more panel") +
                            " of this kind would follow; the table of all parameters has their "
                            "numbers.");
      const bool first = part.empty();
      if (!first) {
        part += details("By parameter: " + plural(kind), figure);
        continue;
      }
      part += element("h3", "By parameter: " + plural(kind)) + "\n" + figure;
      part += element("h3", "By task: " + plural(kind)) + "\n";
      auto by_task = detail::panels_by_task(data, blocks, kind);
      if (by_task.size() > most_panels) by_task.resize(most_panels);
      part += detail::draw(by_task, blocks);
    }
    if (all_blocks.size() > 1) html += element("h3", "Blocks " + code(blocks.family)) + "\n";
    html += part;
  }
  if (html.empty()) return {};
  return paragraph(
             "From the input of the network (left) to its output (right), by the number of the "
             "block. Each point of the first panels is one parameter: the mean squared shift of a "
             "task\u2019s features by another task\u2019s vector, over that by the own vector. In "
             "the panels of tasks it is the mean over the other tasks and the parameters of the "
             "block. Look for blocks where the lines rise, and where the trim opens a gap between "
             "them. "
             "Panels of one figure share their axis, but one that is more than three times as high "
             "as the median has its own.") +
         key({{"before", 0, "before the trim"}, {"after", 0, "after the trim"}}) + html;
}

}  // namespace catmerge::harness::page
