// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

namespace catmerge::harness {

/// Prints the methods and transforms that there are, their settings, and what they need.
void list_methods();

/// Prints them as the README's tables.
void list_methods_as_markdown();

}  // namespace catmerge::harness
