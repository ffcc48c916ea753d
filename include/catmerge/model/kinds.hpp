// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>
#include <string>
#include <string_view>

/// What the parameters of a network are, by their names: kinds, rules with patterns, and the rules
/// of networks that many people fine-tune (networks.hpp). Outside the umbrella header, like io/.
namespace catmerge::model {

/// What a parameter does with its input, which decides how it is trimmed.
enum class parameter_kind : unsigned char {
  linear,        ///< matrix: f(X) = X W
  fused_linear,  ///< several linear weights stored as one (q, k, v in one in_proj_weight)
  conv,          ///< rank 3 or more, d_out first: a linear map on patches, (d_out, rest)
  scale,         ///< vector: f(x) = gamma o x, x the normalised input
  shift,         ///< vector: f(x) = x + beta; biases
  embedding,     ///< table, or an embedding that is added to others
  fixed,         ///< not merged at all, the base's bytes: integers, booleans, buffers
  unknown        ///< floating-point, but no rule names it: Task Arithmetic, and reported as such
};

/// The kind in words, for messages and reports: "linear", "fused linear", ...
constexpr std::string_view name_of(parameter_kind kind) {
  switch (kind) {
    case parameter_kind::linear: return "linear";
    case parameter_kind::fused_linear: return "fused linear";
    case parameter_kind::conv: return "conv";
    case parameter_kind::scale: return "scale";
    case parameter_kind::shift: return "shift";
    case parameter_kind::embedding: return "embedding";
    case parameter_kind::fixed: return "fixed";
    case parameter_kind::unknown: break;
  }
  return "unknown";
}

/// Which extent of a matrix is the output's. Never guessed from the shape: nn.Linear stores
/// (d_out, d_in); GPT-2's Conv1D, OpenCLIP's projections and embedding tables (d_in, d_out).
enum class matrix_layout : unsigned char {
  out_in,  ///< d_out x d_in, y = W x
  in_out   ///< d_in x d_out, y = W^T x
};

/// How one parameter is to be merged.
struct classification {
  parameter_kind kind = parameter_kind::unknown;  ///< what it does with its input
  /// Whether the method trims it; if not, it is summed as in Task Arithmetic (fixed: not at all).
  bool trim = false;
  matrix_layout layout = matrix_layout::out_in;  ///< of a matrix; vectors have none
  /// Equal parts along d_out that are trimmed each on its own: rows of a matrix (columns if the
  /// layout is in_out), stretches of a vector. 1 for what is not fused.
  int parts = 1;
};

}  // namespace catmerge::model
