// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/text.hpp>
#include <vector>

/// Drawings as SVG inside HTML. Colours are classes of the style sheet (style.hpp), so one drawing
/// serves light and dark pages.
namespace catmerge::harness::page {

/// The largest width of a figure in CSS pixels: it fits telephones without scaling.
inline constexpr double figure_width = 352, panel_width = 168;
inline constexpr double font_size = 11;
/// The height of a line of text of that size in any common font.
inline constexpr double line_height = 14;

enum class anchor { start, middle, end };

/// A drawing of a fixed size with a label for screen readers.
class drawing {
 public:
  drawing(double width, double height, const std::string& label) {
    out_ = "<svg role=\"img\" viewBox=\"0 0 " + at(width) + " " + at(height) + "\" width=\"" +
           at(width) + "\" height=\"" + at(height) + "\" aria-label=\"" + escaped(label) + "\">";
  }

  void line(double x1, double y1, double x2, double y2, const std::string& classes) {
    out_ += "<line" + attributes({{"x1", x1}, {"y1", y1}, {"x2", x2}, {"y2", y2}}) + " class=\"" +
            classes + "\"/>";
  }

  /// A rectangle with `share` of its class's colour, and a tip.
  void rectangle(double x, double y, double width, double height, const std::string& classes,
                 double share, const std::string& tip) {
    out_ += "<rect" + attributes({{"x", x}, {"y", y}, {"width", width}, {"height", height}}) +
            " class=\"" + classes + "\"";
    if (share < 1) out_ += " fill-opacity=\"" + fixed(std::max(0.0, share), 2) + "\"";
    out_ += ">" + title(tip) + "</rect>";
  }

  /// A line through points, with a gap at a point that is not finite.
  void polyline(const std::vector<std::pair<double, double>>& points, const std::string& classes) {
    std::string path;
    bool open = false;
    for (const auto& [x, y] : points) {
      const bool known = std::isfinite(x) && std::isfinite(y);
      if (known) path += (open ? "L" : "M") + at(x) + " " + at(y);
      open = known;
    }
    if (!path.empty()) out_ += "<path d=\"" + path + "\" class=\"" + classes + "\"/>";
  }

  /// A mark of one of eight shapes, so that series differ without their colours.
  void mark(std::size_t shape, double x, double y, const std::string& classes,
            const std::string& tip, double radius = 3.5) {
    const auto p = [&](double dx, double dy) {
      return at(x + radius * dx) + " " + at(y + radius * dy);
    };
    std::string path;
    switch (shape % 8) {
      case 0: {
        const std::string arc = "A" + at(radius) + " " + at(radius) + " 0 1 1 ";
        path = "M" + p(-1, 0) + arc + p(1, 0) + arc + p(-1, 0);
        break;
      }
      case 1:
        path = "M" + p(-.9, -.9) + "L" + p(.9, -.9) + "L" + p(.9, .9) + "L" + p(-.9, .9);
        break;
      case 2: path = "M" + p(0, -1.2) + "L" + p(1.1, .9) + "L" + p(-1.1, .9); break;
      case 3: path = "M" + p(0, -1.3) + "L" + p(1.3, 0) + "L" + p(0, 1.3) + "L" + p(-1.3, 0); break;
      case 4: path = "M" + p(0, 1.2) + "L" + p(1.1, -.9) + "L" + p(-1.1, -.9); break;
      case 5:
        path = "M" + p(-1.4, -.5) + "L" + p(1.4, -.5) + "L" + p(1.4, .5) + "L" + p(-1.4, .5);
        break;
      case 6:
        path = "M" + p(-.5, -1.4) + "L" + p(.5, -1.4) + "L" + p(.5, 1.4) + "L" + p(-.5, 1.4);
        break;
      default:
        path = "M" + p(-1.1, -1.1) + "L" + p(1.1, -1.1) + "L" + p(0, 0) + "L" + p(1.1, 1.1) + "L" +
               p(-1.1, 1.1) + "L" + p(0, 0);
    }
    out_ += "<path d=\"" + path + "Z\" class=\"mark " + classes + "\">" + title(tip) + "</path>";
  }

  /// Text with its baseline at y; the tip holds the full text of a shortened one.
  void write(double x, double y, const std::string& text, anchor where = anchor::start,
             const std::string& classes = "", const std::string& tip = "") {
    out_ += "<text" + attributes({{"x", x}, {"y", y}}) + style(where, classes) + ">" +
            escaped(text) + title(tip) + "</text>";
  }

  /// Text that runs upwards and ends, or begins, at (x, y).
  void write_upwards(double x, double y, const std::string& text, anchor where,
                     const std::string& tip = "") {
    out_ += "<text transform=\"translate(" + at(x) + " " + at(y) + ") rotate(-90)\"" +
            style(where, "") + ">" + escaped(text) + title(tip) + "</text>";
  }

  std::string finish() && { return std::move(out_) + "</svg>"; }

 private:
  /// A coordinate, to tenths of a pixel.
  static std::string at(double v) {
    std::string s = detail::format(v, std::chars_format::fixed, 1);
    if (s.ends_with(".0")) s.resize(s.size() - 2);
    return s;
  }

  static std::string attributes(const std::vector<std::pair<const char*, double>>& list) {
    std::string s;
    for (const auto& [name, value] : list) s += std::string(" ") + name + "=\"" + at(value) + "\"";
    return s;
  }

  static std::string style(anchor where, const std::string& classes) {
    std::string all = where == anchor::middle ? "mid" : where == anchor::end ? "end" : "";
    if (!classes.empty()) all += (all.empty() ? "" : " ") + classes;
    return all.empty() ? "" : " class=\"" + all + "\"";
  }

  static std::string title(const std::string& tip) {
    return tip.empty() ? "" : "<title>" + escaped(tip) + "</title>";
  }

  std::string out_;
};

}  // namespace catmerge::harness::page
