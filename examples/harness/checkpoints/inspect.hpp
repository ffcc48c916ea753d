// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <ostream>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The arguments of inspect.
struct inspection_request {
  std::vector<std::string> checkpoints;  ///< paths
  std::vector<std::string> rules;        ///< PATTERN=KIND
};

/// Prints names, types, shapes and kinds of the tensors of checkpoints. Throws option_error for
/// malformed rules, catmerge::error for a path without a checkpoint.
void inspect(const inspection_request& request, std::ostream& out);

}  // namespace catmerge::harness
