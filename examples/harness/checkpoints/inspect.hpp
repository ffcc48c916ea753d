// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <ostream>
#include <string>
#include <vector>

namespace catmerge::harness {

/// What inspect is asked for.
struct inspection_request {
  std::vector<std::string> checkpoints;  ///< paths
  std::vector<std::string> rules;        ///< PATTERN=KIND
};

/// Prints names, types, shapes and kinds of the tensors of checkpoints. Throws option_error for
/// rules of another form, catmerge::error for what is no checkpoint.
void inspect(const inspection_request& request, std::ostream& out);

}  // namespace catmerge::harness
