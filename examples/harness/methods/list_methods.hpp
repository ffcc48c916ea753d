// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

namespace catmerge::harness {

/// Prints the methods and transforms that there are, their settings, and what they need.
void list_methods();

}  // namespace catmerge::harness
