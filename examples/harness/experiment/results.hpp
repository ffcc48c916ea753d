// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <harness/report/report_json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// Results of experiments: for people (tables), for programs (JSON, CSV).
namespace catmerge::harness {

/// The mean of some runs and their standard deviation (of the sample; none for a single run).
struct estimate {
  double mean = 0;
  std::optional<double> spread;

  static estimate of(const std::vector<double>& runs) {
    estimate e;
    for (const double r : runs) e.mean += r / static_cast<double>(runs.size());
    if (runs.size() < 2) return e;
    double squares = 0;
    for (const double r : runs) squares += (r - e.mean) * (r - e.mean);
    e.spread = std::sqrt(squares / static_cast<double>(runs.size() - 1));
    return e;
  }

  json to_json() const {
    json j;
    j["mean"] = mean;
    if (spread) j["spread"] = *spread;
    return j;
  }

  /// "68.41", "68.41 ± 0.30".
  std::string text() const {
    char buffer[64];
    if (spread)
      std::snprintf(buffer, sizeof buffer, "%.2f ± %.2f", mean, *spread);
    else
      std::snprintf(buffer, sizeof buffer, "%.2f", mean);
    return buffer;
  }
};

/// One line of a table: a network, or several of one kind, measured on every task.
struct table_row {
  std::string label, setting;
  std::vector<std::vector<double>> runs;  ///< per run, per task
  std::vector<double> validation;         ///< per run; empty if no setting was chosen
  /// Test averages per run with the setting that J chose; empty if J chose nothing.
  std::vector<double> without_labels;
  std::vector<double> drift;  ///< per run; empty if not measured
  std::optional<double> seconds;

  std::vector<double> averages() const {
    std::vector<double> list;
    for (const auto& run : runs) {
      double sum = 0;
      for (const double v : run) sum += v;
      list.push_back(sum / static_cast<double>(run.size()));
    }
    return list;
  }
  estimate task(std::size_t k) const {
    std::vector<double> list;
    for (const auto& run : runs) list.push_back(run[k]);
    return estimate::of(list);
  }
};

/// One point of a curve.
struct curve_point {
  json x;  ///< a number or a name
  std::vector<double> runs;
  std::string setting;
};
struct curve {
  std::string label;
  std::vector<curve_point> points;
};

/// One study: a table or curves.
struct study {
  std::string name, title, note;
  std::vector<table_row> rows;
  std::string x_label, x_scale;      ///< of curves: "log", "linear" or "names"
  std::string quantity = "average";  ///< the values of curves: of the tasks' scores, or another
  std::vector<curve> curves;

  static study of_curves(std::string name, std::string title, std::string note, std::string x_label,
                         std::string x_scale) {
    study s;
    s.name = std::move(name);
    s.title = std::move(title);
    s.note = std::move(note);
    s.x_label = std::move(x_label);
    s.x_scale = std::move(x_scale);
    return s;
  }

  json to_json() const {
    json j;
    j["name"] = name;
    j["title"] = title;
    j["note"] = note;
    j["type"] = curves.empty() ? "table" : "curves";
    for (const auto& r : rows) {
      json row;
      row["label"] = r.label;
      row["setting"] = r.setting;
      if (!r.validation.empty()) row["validation"] = estimate::of(r.validation).to_json();
      row["tasks"] = json::array();
      for (std::size_t k = 0; k < r.runs.front().size(); ++k)
        row["tasks"].push_back(r.task(k).to_json());
      row["average"] = estimate::of(r.averages()).to_json();
      if (!r.without_labels.empty())
        row["without_labels"] = estimate::of(r.without_labels).to_json();
      if (!r.drift.empty()) row["drift"] = estimate::of(r.drift).to_json();
      if (r.seconds) row["seconds"] = *r.seconds;
      j["rows"].push_back(std::move(row));
    }
    if (curves.empty()) return j;
    j["x"] = {{"label", x_label}, {"scale", x_scale}};
    j["quantity"] = quantity;
    for (const auto& c : curves) {
      json points = json::array();
      for (const auto& p : c.points) {
        json point = estimate::of(p.runs).to_json();
        point["x"] = p.x;
        point["setting"] = p.setting;
        points.push_back(std::move(point));
      }
      j["curves"].push_back({{"label", c.label}, {"points", std::move(points)}});
    }
    return j;
  }

  /// The study as a table of Markdown.
  std::string markdown(const std::vector<std::string>& tasks) const {
    std::string text;
    const auto line = [&](const std::vector<std::string>& cells) {
      text += '|';
      for (const auto& cell : cells) text += ' ' + cell + " |";
      text += '\n';
    };
    const auto rule = [&](std::size_t columns) {
      text += "|---|";
      for (std::size_t i = 1; i < columns; ++i) text += "---:|";
      text += '\n';
    };
    if (curves.empty()) {
      const bool drifts =
          std::any_of(rows.begin(), rows.end(), [](const auto& r) { return !r.drift.empty(); });
      const bool judged = std::any_of(rows.begin(), rows.end(),
                                      [](const auto& r) { return !r.without_labels.empty(); });
      std::vector<std::string> head{""};
      head.insert(head.end(), tasks.begin(), tasks.end());
      head.emplace_back("average");
      head.emplace_back("validation");
      if (judged) head.emplace_back("without labels");
      if (drifts) head.emplace_back("drift");
      head.emplace_back("setting");
      line(head);
      rule(head.size());
      for (const auto& r : rows) {
        std::vector<std::string> cells{r.label};
        for (std::size_t k = 0; k < tasks.size(); ++k) {
          char mean[32];
          std::snprintf(mean, sizeof mean, "%.2f", r.task(k).mean);
          cells.emplace_back(mean);
        }
        cells.push_back("**" + estimate::of(r.averages()).text() + "**");
        cells.push_back(r.validation.empty() ? "" : estimate::of(r.validation).text());
        if (judged)
          cells.push_back(r.without_labels.empty() ? "" : estimate::of(r.without_labels).text());
        if (drifts) cells.push_back(r.drift.empty() ? "" : estimate::of(r.drift).text());
        cells.push_back(r.setting);
        line(cells);
      }
      return text;
    }
    std::vector<std::string> head{x_label};
    for (const auto& c : curves) head.push_back(c.label);
    line(head);
    rule(head.size());
    std::vector<json> places;  // of any curve, in order
    for (const auto& c : curves)
      for (const auto& p : c.points)
        if (std::find(places.begin(), places.end(), p.x) == places.end()) places.push_back(p.x);
    if (x_scale != "names") std::sort(places.begin(), places.end());
    for (const auto& x : places) {
      std::vector<std::string> cells{place_text(x)};
      for (const auto& c : curves) {
        const auto found =
            std::find_if(c.points.begin(), c.points.end(), [&](const auto& p) { return p.x == x; });
        cells.push_back(found == c.points.end() ? "" : estimate::of(found->runs).text());
      }
      line(cells);
    }
    return text;
  }

  /// Lines of CSV: study, what, setting, x, run, task, value.
  std::string csv(const std::vector<std::string>& tasks) const {
    std::string text;
    const auto line = [&](const std::vector<std::string>& cells) {
      for (std::size_t i = 0; i < cells.size(); ++i) text += (i > 0 ? "," : "") + quoted(cells[i]);
      text += '\n';
    };
    for (const auto& r : rows)
      for (std::size_t run = 0; run < r.runs.size(); ++run) {
        for (std::size_t k = 0; k < tasks.size(); ++k)
          line({name, r.label, r.setting, "", std::to_string(run), tasks[k],
                digits(r.runs[run][k])});
        if (run < r.validation.size())
          line({name, r.label, r.setting, "", std::to_string(run), "validation average",
                digits(r.validation[run])});
        if (run < r.without_labels.size())
          line({name, r.label, r.setting, "", std::to_string(run), "average without labels",
                digits(r.without_labels[run])});
        if (run < r.drift.size())
          line({name, r.label, r.setting, "", std::to_string(run), "drift", digits(r.drift[run])});
      }
    for (const auto& c : curves)
      for (const auto& p : c.points)
        for (std::size_t run = 0; run < p.runs.size(); ++run)
          line({name, c.label, p.setting, place_text(p.x), std::to_string(run), quantity,
                digits(p.runs[run])});
    return text;
  }
  static std::string csv_head() { return "study,what,setting,x,run,task,value\n"; }

 private:
  static std::string place_text(const json& x) {
    return x.is_string() ? x.get<std::string>() : digits(x.get<double>());
  }
  static std::string digits(double value) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%.6g", value);
    return buffer;
  }
  static std::string quoted(const std::string& cell) {
    if (cell.find_first_of(",\"\n\r") == std::string::npos) return cell;
    std::string text = "\"";
    for (const char c : cell) text += c == '"' ? "\"\"" : std::string(1, c);
    return text + '"';
  }
};

}  // namespace catmerge::harness
