// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

namespace catmerge::harness {

/// Prints all methods and transforms, their settings, and the inputs that they need.
void list_methods();

/// Prints them as the README's tables.
void list_methods_as_markdown();

}  // namespace catmerge::harness
