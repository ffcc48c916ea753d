// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>
#include <string>
#include <string_view>

/// What the parameters of a network are, by their names: kinds, rules with patterns, and the rules
/// of networks that many people fine-tune (networks.hpp). Outside the umbrella header, like io/.
namespace catmerge::model {

/// What a parameter does with its input, which decides how it is merged.
enum class parameter_kind : unsigned char {
  linear,              ///< matrix: f(X) = X W
  fused_linear,        ///< several linear weights stored as one (q, k, v in one in_proj_weight)
  conv,                ///< rank 3 or more, d_out first: a linear map on patches, (d_out, rest)
  scale,               ///< vector: f(x) = gamma o x, x the normalised input
  shift,               ///< vector: f(x) = x + beta; biases
  embedding,           ///< table, or an embedding that is added to others; heads, too
  running_statistics,  ///< floats that training measured (running_mean): the experts' mean
  fixed,               ///< not merged at all, the base's bytes: counters, position ids, masks
  packed,              ///< not floating-point, and no rule calls it fixed: quantised weights, say
  unknown              ///< floating-point, but no rule names it: Task Arithmetic, and reported so
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
    case parameter_kind::running_statistics: return "running statistics";
    case parameter_kind::fixed: return "fixed";
    case parameter_kind::packed: return "packed";
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

/// Where a rule comes from.
enum class rule_source : unsigned char {
  none,     ///< there was no rule
  network,  ///< the names of a known network
  general,  ///< the general rule for names that no network has (general_rules.hpp)
  user      ///< added by whoever uses the library or the program
};

/// The source in words: "none", "network", "general", "user".
constexpr std::string_view name_of(rule_source source) {
  switch (source) {
    case rule_source::network: return "network";
    case rule_source::general: return "general";
    case rule_source::user: return "user";
    case rule_source::none: break;
  }
  return "none";
}

/// How one parameter is to be merged.
struct classification {
  parameter_kind kind = parameter_kind::unknown;  ///< what it does with its input
  /// Whether the method trims it; if not, it is summed as in Task Arithmetic (running statistics,
  /// fixed, packed: not at all).
  bool trim = false;
  matrix_layout layout = matrix_layout::out_in;  ///< of a matrix; vectors have none
  /// Equal parts along d_out that are trimmed each on its own: rows of a matrix (columns if the
  /// layout is in_out), stretches of a vector. 1 for what is not fused.
  int parts = 1;
  /// A list of matrices (n x rows x columns) or of vectors (n x d) in one tensor, as the experts of
  /// a mixture: each is a parameter of its own, in the layout and the parts above.
  bool stacked = false;
  rule_source source = rule_source::none;  ///< whose rule decided
  std::string rule = {};                   ///< that rule: its pattern, or the general rule in words
};

}  // namespace catmerge::model
