// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>

namespace catmerge {

/// The effect of a parameter on the features that pass it. It decides the trim.
enum class layer_kind {
  linear,  ///< x -> W x, W d_out x d_in: trimmed by projection
  scale,   ///< x -> w o x, the gamma of a normalisation: trimmed by a mask
  shift,   ///< x -> x + b, a bias: trimmed by a mask, needs no features
  other    ///< anything else: never trimmed, summed as in Task Arithmetic
};

/// "linear", "scale", "shift" or "other", for messages and reports.
constexpr const char* name_of(layer_kind kind) {
  switch (kind) {
    case layer_kind::linear: return "linear";
    case layer_kind::scale: return "scale";
    case layer_kind::shift: return "shift";
    case layer_kind::other: return "other";
  }
  return "unknown";
}

/// The treatment of weights that hold several linears one above the other (q, k, v).
enum class fused_weights {
  split,  ///< each is a linear with directions of its own
  whole   ///< one matrix, as in a derivative of the authors' code
};

}  // namespace catmerge
