// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/merge/request.hpp>
#include <string>
#include <vector>

namespace catmerge::python {

/// The request of a command line `catmerge merge WORDS`, by the program's own definition of it, so
/// that the module has its options, defaults and checks. Quiet. Throws catmerge::error as the
/// program explains a mistake.
harness::merge_request request_of(std::vector<std::string> words);

}  // namespace catmerge::python
