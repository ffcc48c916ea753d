// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/html.hpp>
#include <harness/report/page/values.hpp>

/// The facts of a run that all pages show.
namespace catmerge::harness::page {

/// "12.3 s", "4 min 5 s", "2 h 3 min".
inline std::string duration(double seconds) {
  if (!std::isfinite(seconds)) return {};
  if (seconds < 100) return shown(seconds) + " s";
  if (seconds >= 1e9) return shown(seconds / 3600) + " h";
  const auto whole = static_cast<long long>(std::llround(seconds));
  if (whole < 3600) return std::to_string(whole / 60) + " min " + std::to_string(whole % 60) + " s";
  return std::to_string(whole / 3600) + " h " + std::to_string(whole % 3600 / 60) + " min";
}

/// In powers of 1000.
inline std::string memory(double bytes) {
  if (!std::isfinite(bytes)) return {};
  return bytes < 1e9 ? shown(bytes / 1e6) + " MB" : shown(bytes / 1e9) + " GB";
}

/// A setting's value as text.
inline std::string setting(const json& value) {
  if (value.is_number_float()) return std::isfinite(number(value)) ? shortest(number(value)) : dash;
  if (!value.is_array()) return text(value);
  std::string all;
  for (const auto& element : value) all += (all.empty() ? "" : ", ") + setting(element);
  return all;
}

inline void add_run(facts& f, const json& report) {
  const json& run = member(report, "run");
  f.add("Time", duration(number(member(run, "seconds"))));
  f.add("Peak memory", memory(number(member(run, "peak_memory_bytes"))));
  f.add("Threads", setting(member(run, "threads")));
  f.add("Date", text(member(run, "date")));
  const std::string version = text(member(member(report, "catmerge"), "version"));
  if (!version.empty()) f.add("Made by", "catmerge " + version);
}

/// The names of a report's tasks for a page.
inline std::vector<std::string> task_names(const json& report) {
  auto names = texts(member(report, "tasks"));
  for (auto& name : names) name = display_name(name);
  return names;
}

/// Column headings of tasks, with their metrics if these differ from task to task.
inline std::vector<std::string> task_headings(std::vector<std::string> tasks,
                                              const std::vector<std::string>& metrics) {
  const bool differ = std::any_of(metrics.begin(), metrics.end(),
                                  [&](const std::string& m) { return m != metrics.front(); });
  for (std::size_t k = 0; differ && k < std::min(tasks.size(), metrics.size()); ++k)
    tasks[k] += ", " + display_name(metrics[k]);
  return tasks;
}

inline std::string task_list(const std::vector<std::string>& tasks) {
  std::string items;
  for (const auto& task : tasks) items += element("li", escaped(task));
  return element("ul", items, "class=\"tasks\" aria-label=\"Tasks\"") + "\n";
}

inline std::string footer(const json& report) {
  const std::string version = text(member(member(report, "catmerge"), "version"));
  return "Written by catmerge" + (version.empty() ? "" : " " + version) +
         " from the numbers of this run. The page loads nothing and runs nothing. Pointing at a "
         "cell or a mark shows its number.";
}

}  // namespace catmerge::harness::page
