// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

namespace catmerge::harness {

/// What rewrite_report is asked for: one field per option of `catmerge report`.
struct page_request {
  std::string report;                ///< JSON that a merge wrote
  std::vector<std::string> outputs;  ///< F.html or F.json
  std::vector<std::string> scores;   ///< LABEL:TASK=VALUE,...
  bool overwrite = false;
};

/// Makes a page of a merge's JSON report, with scores that were measured since, or the report with
/// these scores. Throws option_error for scores of another form, catmerge::error for what is no
/// report.
void rewrite_report(const page_request& request);

}  // namespace catmerge::harness
