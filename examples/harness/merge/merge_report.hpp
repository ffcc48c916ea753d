// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/checkpoints/checkpoint_set.hpp>
#include <harness/merge/plan.hpp>
#include <harness/merge/request.hpp>
#include <harness/report/report_json.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The reports of the pieces of a table as one: they are never trimmed, so they say the same but
/// for sizes, which add up. Members of a stack stay apart.
std::vector<parameter_report> whole_tensors(std::vector<parameter_report> reports,
                                            const checkpoint_set& set);

/// The report of a merge as JSON, but for "run". reports: as whole_tensors returns them.
/// uses_features: the method does.
json merge_report(const merge_request& request, const merge_plan& plan, const checkpoint_set& set,
                  const std::vector<parameter_report>& reports,
                  const std::vector<std::string>& warnings, bool uses_features);

}  // namespace catmerge::harness
