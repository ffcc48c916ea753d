// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <string>

namespace catmerge::harness {

/// The measures of how much each entry of a weight matters to a task.
enum class importance_kind {
  none,
  fisher,      ///< squared gradients
  sensitivity  ///< mean absolute gradients
};

/// A kind other than none in words.
inline std::string words_of(importance_kind kind) {
  return kind == importance_kind::fisher ? "squared gradients" : "mean absolute gradients";
}

}  // namespace catmerge::harness
