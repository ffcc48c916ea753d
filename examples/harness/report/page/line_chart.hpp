// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/axis.hpp>

/// Values over an ordered or a numeric quantity.
namespace catmerge::harness::page {

struct point {
  double x = 0, y = 0, spread = 0;  ///< a spread draws a bar from y - spread to y + spread
  std::string tip;
};

struct series {
  std::vector<point> points;
  std::string classes;  ///< of the style sheet
  std::size_t shape = 0;
};

struct line_chart {
  std::vector<series> lines;
  std::string label;  ///< of the drawing, for screen readers
  double width = figure_width, height = 220;
  range y;                         ///< values that the axis includes, besides the points
  bool logarithmic = false;        ///< the horizontal axis
  std::vector<std::string> names;  ///< labels below x = 0, 1, ...; none: the numbers
  double apart = 0;                ///< pixels between points of different lines at one x
};

namespace detail {

inline axis horizontal_axis(const line_chart& chart, double from, double to) {
  std::vector<double> positions;
  range all;
  for (const auto& line : chart.lines)
    for (const auto& p : line.points) positions.push_back(p.x), all.add(p.x);
  if (chart.logarithmic) return axis::logarithmic(positions, from, to);
  if (chart.names.empty()) return axis(all, from, to, 6);
  const std::size_t last = std::max<std::size_t>(2, chart.names.size()) - 1;
  return axis::positions(static_cast<double>(last), from, to);
}

}  // namespace detail

inline std::string draw(const line_chart& chart) {
  const bool small = chart.width < figure_width;
  range values = chart.y;
  for (const auto& line : chart.lines)
    for (const auto& p : line.points) {
      const double spread = std::isfinite(p.spread) ? p.spread : 0;
      values.add(p.y - spread), values.add(p.y + spread);
    }
  const double top = 8, bottom = chart.height - 20;
  const axis y(values, bottom, top, small ? 3 : 5);
  double left = 0;
  for (const double tick : y.ticks()) left = std::max(left, text_width(y.label(tick), font_size));
  left += 6;
  const double margin = 6 + chart.apart * static_cast<double>(chart.lines.size()) / 2;
  const axis x = detail::horizontal_axis(chart, left + margin, chart.width - margin);

  drawing d(chart.width, chart.height, chart.label);
  for (const double tick : y.ticks()) {
    d.line(left, y(tick), chart.width, y(tick), tick == 0 ? "zero" : "grid");
    d.write(left - 5, y(tick) + 4, y.label(tick), anchor::end, "dim");
  }
  std::vector<double> places;
  std::vector<std::string> labels = chart.names;
  for (std::size_t i = 0; i < labels.size(); ++i) places.push_back(x(static_cast<double>(i)));
  if (labels.empty())
    for (const double tick : x.ticks()) {
      places.push_back(x(tick));
      labels.push_back(x.label(tick));
    }
  label_below(d, places, labels, chart.height - 5, chart.width);

  // Marks of many points would overlap.
  std::size_t most = 0;
  for (const auto& line : chart.lines) most = std::max(most, line.points.size());
  const double radius = !small ? 3.5 : most > 12 ? 1.6 : 2.5;
  for (std::size_t s = 0; s < chart.lines.size(); ++s) {
    const auto& line = chart.lines[s];
    const double aside =
        chart.apart * (static_cast<double>(s) - (static_cast<double>(chart.lines.size()) - 1) / 2);
    std::vector<std::pair<double, double>> path;
    for (const auto& p : line.points) path.emplace_back(x(p.x) + aside, y(p.y));
    d.polyline(path, "line " + line.classes);
    for (std::size_t i = 0; i < path.size(); ++i) {
      const auto& p = line.points[i];
      const auto& [px, py] = path[i];
      if (!std::isfinite(px) || !std::isfinite(py)) continue;
      if (std::isfinite(p.spread) && p.spread > 0)
        d.line(px, y(p.y - p.spread), px, y(p.y + p.spread), "whisker " + line.classes);
      d.mark(line.shape, px, py, line.classes, p.tip, radius);
    }
  }
  return std::move(d).finish();
}

}  // namespace catmerge::harness::page
