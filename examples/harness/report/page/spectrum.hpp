// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/axis.hpp>

/// Eigenvalues, and the cut between removed and kept ones.
namespace catmerge::harness::page {

struct spectrum {
  std::vector<double> values;  ///< descending
  std::size_t removed = 0;     ///< the number of removed ones, from the first
  std::string label;           ///< of the drawing, for screen readers
};

/// A bar per eigenvalue, and a line behind the last removed one.
inline std::string draw(const spectrum& s) {
  range values;
  values.add(0);
  for (const double v : s.values) values.add(v);
  const double width = panel_width, height = 112, top = 8, bottom = height - 20;
  const axis y(values, bottom, top, 3);
  double left = 0;
  for (const double tick : y.ticks()) left = std::max(left, text_width(y.label(tick), font_size));
  left += 6;
  const double pitch = std::min(
      20.0, (width - left) / static_cast<double>(std::max<std::size_t>(1, s.values.size())));

  drawing d(width, height, s.label);
  for (const double tick : y.ticks()) {
    d.line(left, y(tick), width, y(tick), tick == 0 ? "zero" : "grid");
    d.write(left - 5, y(tick) + 4, y.label(tick), anchor::end, "dim");
  }
  std::vector<double> places;
  std::vector<std::string> labels;
  for (std::size_t i = 0; i < s.values.size(); ++i) {
    const double x = left + static_cast<double>(i) * pitch, v = s.values[i];
    places.push_back(x + pitch / 2);
    labels.push_back(std::to_string(i + 1));
    if (!std::isfinite(v)) continue;
    const bool gone = i < s.removed;
    d.rectangle(x + pitch * 0.1, std::min(y(v), y(0)), pitch * 0.8,
                std::max(0.5, std::abs(y(v) - y(0))), gone ? "gone" : "kept", 1,
                "eigenvalue " + labels.back() + (gone ? ", removed: " : ", kept: ") + shown(v));
  }
  if (s.removed < s.values.size()) {
    const double cut = left + static_cast<double>(s.removed) * pitch;
    d.line(cut, top - 4, cut, bottom, "reference");
  }
  label_below(d, places, labels, height - 5, width);
  return std::move(d).finish();
}

}  // namespace catmerge::harness::page
