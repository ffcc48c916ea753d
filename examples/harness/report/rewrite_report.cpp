// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <catmerge/io/json.hpp>
#include <catmerge/io/mapped_file.hpp>
#include <cmath>
#include <cstdlib>
#include <harness/report/page/merge_page.hpp>
#include <harness/report/report_files.hpp>
#include <harness/report/rewrite_report.hpp>
#include <harness/system/option_error.hpp>
#include <harness/system/paths.hpp>

namespace catmerge::harness {

namespace {

/// A row of the evaluation: "LABEL:TASK=VALUE,TASK=VALUE", with a value for every task.
json row_of(const std::string& text, const std::vector<std::string>& tasks) {
  const auto refuse = [&](const std::string& why) {
    throw option_error("--scores", why + ", found '" + text + "'");
  };
  const auto colon = text.find(':');
  if (colon == std::string::npos || colon == 0) refuse("expected LABEL:TASK=VALUE,...");
  std::vector<double> values(tasks.size());
  std::vector<bool> has_value(tasks.size(), false);
  for (std::size_t begin = colon + 1; begin <= text.size();) {
    const std::size_t comma = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, comma - begin);
    begin = comma + 1;
    const auto equals = part.rfind('=');
    const auto task = std::find(tasks.begin(), tasks.end(), part.substr(0, equals));
    if (equals == std::string::npos || task == tasks.end())
      refuse("expected TASK=VALUE of a task of the report in '" + part + "'");
    const std::string digits = part.substr(equals + 1);
    char* end = nullptr;
    const double value = std::strtod(digits.c_str(), &end);
    if (digits.empty() || *end != '\0' || !std::isfinite(value))
      refuse("expected a number in '" + part + "'");
    const auto k = static_cast<std::size_t>(task - tasks.begin());
    if (has_value[k]) refuse("the task '" + tasks[k] + "' is given twice");
    has_value[k] = true;
    values[k] = value;
  }
  double sum = 0;
  for (std::size_t k = 0; k < tasks.size(); ++k) {
    if (!has_value[k]) refuse("expected a value for the task '" + tasks[k] + "'");
    sum += values[k];
  }
  return {{"label", text.substr(0, colon)},
          {"values", values},
          {"mean", sum / static_cast<double>(tasks.size())}};
}

}  // namespace

void rewrite_report(const page_request& request) {
  for (auto output = request.outputs.begin(); output != request.outputs.end(); ++output) {
    require_apart(*output, {request.report});
    for (auto other = request.outputs.begin(); other != output; ++other)
      if (resolved(*other) == resolved(*output))
        throw option_error("--output", "'" + *output + "' is given twice");
  }
  report_files files("--output", request.outputs,
                     request.overwrite ? io::existing::replace : io::existing::refuse);
  const io::mapped_file contents(request.report);
  // Checked first, then parsed again to keep the order of keys.
  io::parse_json(io::as_text(contents.bytes()), request.report, "report");
  json report = json::parse(io::as_text(contents.bytes()));
  if (!report.is_object() || !report.contains("parameters") || !report["tasks"].is_array())
    throw error(request.report +
                ": is no report of `catmerge merge`: expected the keys 'tasks' and "
                "'parameters'");
  std::vector<std::string> tasks;
  for (const auto& task : report["tasks"])
    tasks.push_back(task.is_string() ? task.get<std::string>() : std::string());
  for (const auto& text : request.scores)
    report["evaluation"]["rows"].push_back(row_of(text, tasks));
  files.write(report, merge_page);
  files.commit();
}

}  // namespace catmerge::harness
