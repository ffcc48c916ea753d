// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/style.hpp>
#include <harness/report/page/svg.hpp>

/// The parts of pages. Arguments called `html` are inserted as they are; all others are text, which
/// is escaped here.
namespace catmerge::harness::page {

inline std::string element(const std::string& tag, const std::string& html,
                           const std::string& attributes = "") {
  return "<" + tag + (attributes.empty() ? "" : " " + attributes) + ">" + html + "</" + tag + ">";
}

inline std::string paragraph(const std::string& text, const std::string& classes = "") {
  return element("p", escaped(text), classes.empty() ? "" : "class=\"" + classes + "\"") + "\n";
}

inline std::string code(const std::string& text) {
  return element("code", escaped(text));
}

/// A drawing with its name, caption and further parts.
inline std::string figure(const std::string& name, const std::string& html,
                          const std::string& caption, const std::string& more_html = "") {
  return element("figure",
                 (name.empty() ? "" : element("p", escaped(name), "class=\"name\"")) + html +
                     (caption.empty() ? "" : element("figcaption", escaped(caption))) + more_html) +
         "\n";
}

/// Figures side by side, as many as fit.
inline std::string figures(const std::string& html) {
  return element("div", "\n" + html, "class=\"figures\"") + "\n";
}

/// A small figure among many; the second line of its name may be empty.
inline std::string panel(const std::string& name, const std::string& second,
                         const std::string& html) {
  const std::string more = second.empty() ? "" : element("span", escaped(second));
  return element("figure", element("p", escaped(name) + more, "class=\"name\"") + html) + "\n";
}

inline std::string panels(const std::string& html) {
  return element("div", "\n" + html, "class=\"panels\"") + "\n";
}

/// A figure and a table: side by side if there is room.
inline std::string beside(const std::string& figure_html, const std::string& table_html) {
  return element("div", "\n" + figure_html + element("div", "\n" + table_html) + "\n",
                 "class=\"beside\"") +
         "\n";
}

inline std::string details(const std::string& summary, const std::string& html, bool open = false) {
  return element("details", element("summary", escaped(summary)) + "\n" + html,
                 open ? "open=\"\"" : "") +
         "\n";
}

/// The meaning of marks and lines: pairs of classes and shape, and a text.
struct key_entry {
  std::string classes;
  std::size_t shape;
  std::string text;
};

inline std::string key(const std::vector<key_entry>& entries) {
  std::string html;
  for (const auto& entry : entries) {
    drawing d(28, 12, entry.text);
    d.line(1, 6, 27, 6, "line " + entry.classes);
    d.mark(entry.shape, 14, 6, entry.classes, "");
    html += element("li", std::move(d).finish() + element("span", escaped(entry.text)));
  }
  return element("ul", html, "class=\"key\"") + "\n";
}

/// The facts of a run, in two lines each.
class facts {
 public:
  /// Adds a fact, unless `value` is empty.
  void add(const std::string& name, const std::string& value) {
    if (!value.empty())
      html_ += element("div", element("dt", escaped(name)) + element("dd", escaped(value))) + "\n";
  }
  std::string html() const {
    return html_.empty() ? "" : element("dl", "\n" + html_, "class=\"facts\"") + "\n";
  }

 private:
  std::string html_;
};

/// A table. It scrolls inside its own box if it is wider than the page.
class html_table {
 public:
  explicit html_table(std::string label) : label_(std::move(label)) {}

  /// The last `wide` columns hold text, the others numbers.
  void head(const std::vector<std::string>& columns, std::size_t wide = 0) {
    for (std::size_t c = 0; c < columns.size(); ++c) {
      const std::string& text = columns[c];
      const std::string seen = shortened(text, 240, 13);
      head_ += element("th", escaped(seen),
                       std::string("scope=\"col\"") +
                           (c + wide >= columns.size() ? " class=\"wrap\"" : "") +
                           (seen == text ? "" : " title=\"" + escaped(text) + "\""));
    }
  }
  void begin_row() { body_ += "<tr>"; }
  void cell(const std::string& text) { body_ += element("td", escaped(text)); }
  void wide_cell(const std::string& text) {
    body_ += element("td", escaped(text), "class=\"wrap\"");
  }
  /// A number and its spread on the page's tint, with a strength of 0 to 1.
  void number_cell(const std::string& number, const std::string& spread, double tint) {
    const std::string background =
        tint > 0 ? "style=\"background:rgba(var(--tint)," + fixed(0.3 * tint, 2) + ")\"" : "";
    body_ +=
        element("td",
                escaped(number) +
                    (spread.empty() ? "" : " " + element("small", "\u00B1 " + escaped(spread))),
                background);
  }
  void end_row() { body_ += "</tr>\n"; }

  std::string html() const {
    return element("div",
                   element("table", element("thead", element("tr", head_)) + "\n" +
                                        element("tbody", "\n" + body_)),
                   "class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"" +
                       escaped(label_) + "\"") +
           "\n";
  }

 private:
  std::string label_, head_, body_;
};

/// Sections with their headings, and the table of contents.
class sections {
 public:
  void add(const std::string& id, const std::string& title, const std::string& html) {
    links_ += element("a", escaped(title), "href=\"#" + id + "\"") + "\n";
    body_ += element("section", "\n" + element("h2", escaped(title)) + "\n" + html,
                     "id=\"" + id + "\"") +
             "\n";
  }
  std::string html() const {
    return (links_.empty() ? "" : element("nav", "\n" + links_, "aria-label=\"Sections\"") + "\n") +
           body_;
  }

 private:
  std::string links_, body_;
};

/// A whole document. The policy in its head forbids it to load or run anything.
inline std::string document(const std::string& title, const std::string& html,
                            const std::string& footer) {
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
         "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
         "style-src 'unsafe-inline'\">\n" +
         element("title", escaped(title)) + "\n" + element("style", style) + "\n</head>\n<body>\n" +
         element("main", "\n" + html + element("footer", escaped(footer)) + "\n") +
         "\n</body>\n</html>\n";
}

}  // namespace catmerge::harness::page
