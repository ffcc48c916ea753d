// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/system/progress.hpp>
#include <iostream>
#include <string>
#include <vector>

namespace catmerge::harness {

/// Prints warnings on the standard error, unless quiet.
inline void tell(const std::vector<std::string>& warnings, verbosity how) {
  if (how == verbosity::quiet) return;
  for (const auto& warning : warnings) std::cerr << "catmerge: warning: " << warning << '\n';
}

inline void tell_one(const std::string& warning) {
  tell({warning}, verbosity::normal);
}

}  // namespace catmerge::harness
