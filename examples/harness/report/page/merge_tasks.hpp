// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/dot_rows.hpp>
#include <harness/report/page/merge_conflict.hpp>
#include <harness/report/page/run_facts.hpp>

/// A merge task by task: each task's conflict, its loss, its distance from the result.
namespace catmerge::harness::page {

/// The kind of the page's headline numbers: linear weights if there are any.
inline std::string leading_kind(const merge_data& data) {
  for (const char* kind : {"linear", "scale", "shift"})
    if (!data.measured(kind).empty()) return kind;
  return {};
}

/// The parameters with a drift on the page: those of the first kind that has any.
inline parameters with_drift(const merge_data& data) {
  for (const std::string kind : {"linear", "scale", "shift", "other"}) {
    auto list = data.chosen([&](const parameter& p) { return p.kind == kind && has_drift(p); });
    if (!list.empty()) return list;
  }
  return {};
}

/// Tasks against blocks: a number per task and list of parameters.
inline std::string map_over_blocks(const merge_data& data, const parameters& list,
                                   const std::string& name, const std::string& caption,
                                   const std::function<double(const parameters&, std::size_t)>& of,
                                   const std::function<std::string(double)>& shown) {
  std::vector<block_name> names;
  for (const auto* p : list) names.push_back(p->place);
  std::string html;
  const auto all_blocks = block_lists(names);
  for (const auto& blocks : all_blocks) {
    heat_map map;
    map.rows = data.tasks;
    map.columns = blocks.numbers;
    map.values = grid(data.tasks.size(), blocks.blocks.size(), unknown);
    map.label = name;
    map.shown = map.precise = shown;
    map.tip = [&](std::size_t k, std::size_t b) {
      return data.tasks[k] + ", block " + blocks.numbers[b];
    };
    map.top = 0;
    for (std::size_t b = 0; b < blocks.blocks.size(); ++b) {
      parameters in_block;
      for (const auto* p : list)
        if (p->place.block == blocks.blocks[b]) in_block.push_back(p);
      for (std::size_t k = 0; k < data.tasks.size(); ++k) {
        map.values(k, b) = of(in_block, k);
        if (std::isfinite(map.values(k, b))) map.top = std::max(map.top, map.values(k, b));
      }
    }
    const std::string scale = draw_scale("0", shown(map.top));
    html +=
        map_figure(all_blocks.size() > 1 ? name + ", " + blocks.family : name, map, scale, caption);
  }
  return html;
}

// ---------------------------------------------------------------- conflict and deviation

inline std::string tasks_section(const merge_data& data) {
  const std::string kind = leading_kind(data);
  const std::size_t n = data.tasks.size();
  const parameters list = data.measured(kind), drifting = with_drift(data);
  const grid before = relative_conflict(list, n, moment::before),
             after = relative_conflict(list, n, moment::after);
  const auto everything = data.chosen([](const parameter&) { return true; });

  dot_rows conflict, deviation;
  conflict.from_zero = conflict.joined = deviation.from_zero = true;
  conflict.label = "Conflict of each task before and after the trim";
  deviation.label = "Deviation of each task";
  html_table table("Tasks");
  std::vector<std::string> head = {"Task",          "Conflict before", "After",
                                   "Removed",       "Deviation",       "Norm of the task vector",
                                   "Energy removed"};
  if (!drifting.empty()) head.emplace_back("Drift");
  table.head(head);
  for (std::size_t k = 0; k < n; ++k) {
    const std::string& task = data.tasks[k];
    const double b = mean_of_others(before, k), a = mean_of_others(after, k);
    const double lost = relative_deviation(list, k);
    conflict.rows.push_back({task,
                             {{b, 0, "before", task + ", before: " + shown(b), 0},
                              {a, 0, "after", task + ", after: " + shown(a), 0}},
                             ratio(b) + " \u2192 " + ratio(a)});
    deviation.rows.push_back(
        {task, {{100 * lost, 0, "after", task + ": " + percent(lost), 0}}, percent(lost)});
    table.begin_row();
    table.cell(task);
    table.cell(shown(b));
    table.cell(shown(a));
    table.cell(percent(share_removed(b, a)));
    table.cell(percent(lost));
    table.cell(shown(total_norm(everything, k)));
    table.cell(percent(total_energy_removed(everything, k)));
    if (!drifting.empty()) table.cell(shown(relative_drift(drifting, k)));
    table.end_row();
  }
  const std::string over = "over " + count_of(list) + ", with equal weights";
  const std::string gain = figure(
      "Conflict that each task suffers",
      draw(conflict) + key({{"before", 0, "before the trim"}, {"after", 0, "after the trim"}}),
      "Mean squared shift of the task\u2019s features by one other task\u2019s vector, over that "
      "by its own vector, " +
          over + ". The further a line reaches to the left, the more the trim protects that task.");
  const std::string price = figure(
      "Loss of each task (percent)", draw(deviation),
      "Deviation: the squared shift of the task\u2019s own features by what was trimmed from its "
      "own vector, in percent of that by the whole vector, " +
          over +
          ". This is the price of the trim, and lambda sets how much it counts: it should stay far "
          "below the conflict that is removed.");
  return figures(gain + price) + table.html() +
         paragraph("Conflict and deviation: " + plural(kind) +
                       ". Norm and energy: all parameters of which the report knows them.",
                   "small");
}

// ---------------------------------------------------------------- norms and losses

inline std::string norms_section(const merge_data& data) {
  const auto list = data.chosen([&](const parameter& p) {
    return std::any_of(p.norm.begin(), p.norm.end(), [](double v) { return std::isfinite(v); });
  });
  std::string html = map_over_blocks(
      data, list, "Norm of the task vectors",
      "How far fine-tuning went in each block: the Frobenius norm of each task\u2019s vector over "
      "the parameters of the block, as it was before the trim. A task with a much stronger row "
      "outweighs the others in the sum.",
      [](const parameters& p, std::size_t k) { return total_norm(p, k); },
      [](double v) { return page::shown(v, 2); });
  html += map_over_blocks(
      data, list, "Energy removed",
      "The share of each task vector\u2019s squared norm that the trim took in each block, before "
      "any rescaling. In blocks with strong cells the summed vectors differ most from the "
      "trained ones.",
      [](const parameters& p, std::size_t k) { return total_energy_removed(p, k); },
      [](double v) { return percent(v); });
  return html.empty() ? "" : figures(html);
}

// ---------------------------------------------------------------- overlap

inline std::string overlap_section(const merge_data& data) {
  std::string html;
  for (const std::string kind : {"linear", "scale", "shift"}) {
    const auto list = data.chosen([&](const parameter& p) { return p.kind == kind; });
    const grid overlap = mean_overlap(list, data.tasks.size());
    if (std::none_of(overlap.values.begin(), overlap.values.end(),
                     [](double v) { return std::isfinite(v); }))
      continue;
    const bool linear = kind == "linear";
    heat_map map = task_map(data, overlap, 1, "Overlap of the removals, " + plural(kind));
    map.tip = [&](std::size_t k, std::size_t l) {
      return "protecting " + data.tasks[k] + " and " + data.tasks[l];
    };
    map.shown = [](double v) { return std::isfinite(v) ? fixed(v, 2) : dash; };
    html += map_figure(
        linear ? "Removal bases of linear weights" : "Masks of " + plural(kind), map,
        draw_scale("0", "1"),
        linear
            ? "\u2016B\u2096\u1D40B\u2097\u2016\u00B2 over the smaller number of directions, mean "
              "over the linear weights where both tasks have some. 1: protecting the one removes "
              "all that protecting the other does; 0: directions at right angles."
            : "Coordinates in both masks over the size of the smaller one, mean over the " +
                  plural(kind) +
                  " where both tasks have a mask. 1: the same coordinates; 0: none "
                  "in common.");
  }
  if (html.empty()) return {};
  return paragraph(
             "Tasks whose removals overlap suffer from the same directions; where all do, one "
             "removal protects many, and each vector loses less than the number of tasks "
             "suggests.") +
         figures(html);
}

// ---------------------------------------------------------------- drift

inline std::string drift_section(const merge_data& data) {
  const parameters list = with_drift(data);
  if (list.empty()) return {};
  dot_rows chart;
  chart.label = "Drift of each task's features";
  chart.from_zero = true;
  chart.reference = 1;
  for (std::size_t k = 0; k < data.tasks.size(); ++k) {
    const double drift = relative_drift(list, k);
    const std::string number = shown(drift);
    chart.rows.push_back(
        {data.tasks[k], {{drift, 0, "after", data.tasks[k] + ": " + number, 0}}, number});
  }
  return figures(
      figure("How far the merged network is from each expert", draw(chart),
             "\u2016X\u2096(\u03B8 \u2212 \u03B8\u2096)\u1D40\u2016\u00B2 over "
             "\u2016X\u2096T\u2096\u1D40\u2016\u00B2, over " +
                 count_of(list) +
                 ", with equal weights. 0: the features of expert k; 1 (dashed): as far from them "
                 "as the pretrained network is. A task beyond 1 is served worse, layer by layer, "
                 "than without merging.") +
      map_over_blocks(
          data, list, "Drift over the blocks",
          "The same in each block, from the input of the network (left) to its output (right).",
          [](const parameters& p, std::size_t k) { return relative_drift(p, k); },
          [](double v) { return ratio(v); }));
}

// ---------------------------------------------------------------- evaluation

inline std::string evaluation_section(const merge_data& data) {
  const json& evaluation = member(*data.report, "evaluation");
  const json& rows = list(member(evaluation, "rows"));
  if (rows.empty()) return {};
  html_table table("Evaluation");
  std::vector<std::string> head = data.tasks;
  head.insert(head.begin(), "");
  head.emplace_back("mean");
  table.head(head);
  dot_rows chart;
  chart.label = "Mean over the tasks";
  for (const auto& row : rows) {
    const std::string label = display_name(text(member(row, "label")), 60);
    const double mean = number(member(row, "mean"));
    table.begin_row();
    table.cell(label);
    for (const double v : numbers(member(row, "values"), data.tasks.size())) table.cell(score(v));
    table.cell(score(mean));
    table.end_row();
    chart.rows.push_back({label, {{mean, 0, "after", label + ": " + score(mean), 0}}, score(mean)});
  }
  return beside(figure("Mean over the tasks", draw(chart),
                       "The last column of the table. The axis does not begin at zero."),
                table.html());
}

}  // namespace catmerge::harness::page
