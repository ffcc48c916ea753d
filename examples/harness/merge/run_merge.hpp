// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/merge/request.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The outcome of a merge, in sentences.
struct merge_result {
  std::string summary;                ///< the number of parameters merged by each rule
  std::vector<std::string> warnings;  ///< already printed on the standard error, unless quiet
};

/// Merges checkpoints: reads base and experts, merges parameter by parameter, and writes the
/// requested outputs. Outputs appear when all of them are complete, or not at all.
///
/// Throws option_error, naming the option, for a request that contradicts itself, and
/// catmerge::error, naming file and tensor, for files that cannot be merged.
merge_result run_merge(const merge_request& request);

}  // namespace catmerge::harness
