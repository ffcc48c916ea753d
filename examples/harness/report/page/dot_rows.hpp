// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/axis.hpp>

/// A row per compared item, with dots on a common axis.
namespace catmerge::harness::page {

struct dot {
  double value = 0, spread = 0;  ///< a spread draws a bar from value - spread to value + spread
  std::string classes;           ///< of the style sheet
  std::string tip;
  std::size_t shape = 0;
};

struct dot_row {
  std::string label;
  std::vector<dot> dots;
  std::string number;  ///< at the right end
};

struct dot_rows {
  std::vector<dot_row> rows;
  std::string label;       ///< of the drawing, for screen readers
  bool from_zero = false;  ///< the axis begins at zero
  bool joined = false;     ///< a line joins the first and the last dot of a row
  double reference = std::numeric_limits<double>::quiet_NaN();  ///< a line across all rows
  double lanes = 1;  ///< dots of one row lie below one another, in so many lanes
};

inline std::string draw(const dot_rows& chart) {
  range values;
  double names = 0, right = 0;
  if (chart.from_zero) values.add(0);
  values.add(chart.reference);
  for (const auto& row : chart.rows) {
    names = std::max(names, text_width(row.label, font_size));
    right = std::max(right, text_width(row.number, font_size));
    for (const auto& p : row.dots) {
      const double spread = std::isfinite(p.spread) ? p.spread : 0;
      values.add(p.value - spread), values.add(p.value + spread);
    }
  }
  const double left = std::min(names, 148.0) + 10;
  if (right > 0) right += 8;
  const double pitch = 9 * chart.lanes + 11, top = 4;
  const double bottom = top + pitch * static_cast<double>(chart.rows.size());
  const axis x(values, left, figure_width - right - 6, 5);

  drawing d(figure_width, bottom + 20, chart.label);
  std::vector<double> places;
  std::vector<std::string> labels;
  for (const double tick : x.ticks()) {
    d.line(x(tick), top, x(tick), bottom, "grid");
    places.push_back(x(tick));
    labels.push_back(x.label(tick));
  }
  label_below(d, places, labels, bottom + 14, figure_width);
  if (std::isfinite(chart.reference))
    d.line(x(chart.reference), top, x(chart.reference), bottom, "reference");

  double middle = top + pitch / 2;
  for (const auto& row : chart.rows) {
    d.write(left - 10, middle + 4, shortened(row.label, left - 10, font_size), anchor::end, "",
            row.label);
    d.write(figure_width, middle + 4, row.number, anchor::end, "number");
    const auto known = [](const dot& p) { return std::isfinite(p.value); };
    if (chart.joined && !row.dots.empty() && known(row.dots.front()) && known(row.dots.back()))
      d.line(x(row.dots.front().value), middle, x(row.dots.back().value), middle, "joint");
    double y = middle - 9 * (chart.lanes - 1) / 2;
    for (const auto& p : row.dots) {
      if (known(p)) {
        if (std::isfinite(p.spread) && p.spread > 0)
          d.line(x(p.value - p.spread), y, x(p.value + p.spread), y, "whisker " + p.classes);
        d.mark(p.shape, x(p.value), y, p.classes, p.tip);
      }
      if (chart.lanes > 1) y += 9;
    }
    middle += pitch;
  }
  return std::move(d).finish();
}

}  // namespace catmerge::harness::page
