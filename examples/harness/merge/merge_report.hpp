// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/checkpoints/network_names.hpp>
#include <harness/merge/plan.hpp>
#include <harness/merge/request.hpp>
#include <harness/report/account.hpp>
#include <harness/report/report_json.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// Joins the reports of a table's pieces. Pieces are never trimmed: their reports differ only in
/// sizes, which are added. Members of a stack stay apart.
std::vector<parameter_report> whole_tensors(std::vector<parameter_report> reports,
                                            const network_names& set);

/// The report of a merge as JSON, without "run". method: the plan's, with the settings that were
/// chosen. reports: as whole_tensors returns them.
json merge_report(const merge_request& request, const merge_plan& plan, const any_method& method,
                  const merge_facts& facts, const std::vector<parameter_report>& reports,
                  const std::vector<std::string>& warnings);

}  // namespace catmerge::harness
