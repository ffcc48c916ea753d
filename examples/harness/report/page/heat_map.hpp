// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <harness/report/page/svg.hpp>
#include <harness/report/page/values.hpp>

/// Tables of numbers as colours.
namespace catmerge::harness::page {

struct heat_map {
  std::vector<std::string> rows, columns;
  grid values;
  double top = 1;  ///< the value of the strongest colour; 0 has no colour
  std::string label;
  std::function<std::string(double)> shown;                  ///< a number in its cell
  std::function<std::string(std::size_t, std::size_t)> tip;  ///< the beginning of a cell's tip
  std::function<std::string(double)> precise = [](double v) {
    return page::shown(v);
  };                          ///< in tips
  bool own_diagonal = false;  ///< the diagonal has no meaning: it is outlined
};

namespace detail {

/// The strength of a value's colour: 0 to 1, and 0 for unknown ones.
inline double shade(double value, double top) {
  if (!std::isfinite(value) || !(top > 0)) return 0;
  return std::min(1.0, std::abs(value) / top);
}

/// The class of a number in its cell: the colour below decides the ink. By the contrast of WCAG 2
/// the page's own ink is better up to 0.7 on light pages and up to 0.5 on dark ones; `half` is
/// between.
inline const char* ink(double shade) {
  return shade > 0.7 ? "on" : shade > 0.5 ? "half" : "off";
}

/// The positions of a heat map's parts.
struct heat_map_layout {
  explicit heat_map_layout(const heat_map& map) {
    double widest = 0, tallest = 0;
    for (const auto& name : map.rows) widest = std::max(widest, text_width(name, font_size));
    for (const auto& name : map.columns) tallest = std::max(tallest, text_width(name, font_size));
    const auto columns = static_cast<double>(map.columns.size());
    left = std::min(widest, columns > 12 ? 84.0 : 104.0) + 6;
    width = std::min(44.0, (figure_width - left) / columns);
    height = std::max(line_height, std::min(width, 34.0));
    upright = tallest > width - 4;
    head = upright ? std::min(tallest, 84.0) + 6 : line_height + 4;
    gap = width > 10 ? 1.5 : 0.5;
    numbers = true;
    for (const double v : map.values.values)
      numbers = numbers && text_width(map.shown(v), font_size) <= width - gap;
  }

  double left, head;          ///< room for the names of rows, and of columns
  double width, height, gap;  ///< of cells
  bool upright;               ///< column names, unless all of them fit across
  bool numbers;               ///< if one does not fit its cell, all are only in the tips
};

}  // namespace detail

/// True if the numbers fit their cells.
inline bool shows_numbers(const heat_map& map) {
  return detail::heat_map_layout(map).numbers;
}

/// A heat map: a cell per value, coloured by its size (negative ones in another hue), with its
/// number if there is room, and in its tip.
inline std::string draw(const heat_map& map) {
  const std::size_t rows = map.rows.size(), columns = map.columns.size();
  if (rows == 0 || columns == 0) return {};
  const detail::heat_map_layout at(map);
  const double left = at.left, head = at.head, width = at.width, height = at.height, gap = at.gap;
  drawing d(left + width * static_cast<double>(columns), head + height * static_cast<double>(rows),
            map.label);
  double free = left;
  for (std::size_t j = 0; j < columns; ++j) {
    const double middle = left + (static_cast<double>(j) + 0.5) * width;
    const std::string name = shortened(map.columns[j], at.upright ? head - 6 : width, font_size);
    if (!at.upright) {
      d.write(middle, head - 5, name, anchor::middle, "", map.columns[j]);
    } else if (middle - line_height / 2 >= free - 1) {  // else every second name, or fewer
      d.write_upwards(middle + 4, head - 4, name, anchor::start, map.columns[j]);
      free = middle + line_height / 2;
    }
  }

  for (std::size_t i = 0; i < rows; ++i) {
    const double y = head + static_cast<double>(i) * height, baseline = y + height / 2 + 4;
    d.write(left - 6, baseline, shortened(map.rows[i], left - 6, font_size), anchor::end, "",
            map.rows[i]);
    for (std::size_t j = 0; j < columns; ++j) {
      const double x = left + static_cast<double>(j) * width;
      const double v = map.values(i, j);
      const bool own = map.own_diagonal && i == j;
      const double shade = own ? 0 : detail::shade(v, map.top);
      const bool blank = own || !std::isfinite(v);
      d.rectangle(x, y, width - gap, height - gap,
                  blank   ? "none"
                  : v < 0 ? "cold"
                          : "hot",
                  blank ? 1 : shade, map.tip(i, j) + ": " + map.precise(v));
      if (at.numbers && !own)
        d.write(x + (width - gap) / 2, baseline - gap / 2, map.shown(v), anchor::middle,
                detail::ink(shade));
    }
  }
  return std::move(d).finish();
}

/// The colour scale of heat maps.
inline std::string draw_scale(const std::string& least, const std::string& most) {
  constexpr int steps = 20;
  const double before = text_width(least, font_size) + 4, bar = 120;
  drawing d(before + bar + 4 + text_width(most, font_size), line_height + 2,
            "Scale of colours, from " + least + " to " + most);
  d.write(before - 4, 12, least, anchor::end, "dim");
  for (int i = 0; i < steps; ++i)
    d.rectangle(before + i * bar / steps, 3, bar / steps, 10, "hot", (i + 1.0) / steps, "");
  d.write(before + bar + 4, 12, most, anchor::start, "dim");
  return std::move(d).finish();
}

}  // namespace catmerge::harness::page
