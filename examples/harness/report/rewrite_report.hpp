// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

namespace catmerge::harness {

/// The arguments of rewrite_report: one field per option of `catmerge report`.
struct page_request {
  std::string report;                ///< JSON report of a merge
  std::vector<std::string> outputs;  ///< F.html or F.json
  std::vector<std::string> scores;   ///< LABEL:TASK=VALUE,...
  bool overwrite = false;
};

/// Makes a page of a merge's JSON report with further scores, or the report with these scores.
/// Throws option_error for malformed scores, catmerge::error for a file that is no report.
void rewrite_report(const page_request& request);

}  // namespace catmerge::harness
