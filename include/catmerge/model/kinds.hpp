// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>
#include <string>
#include <string_view>

/// The kinds of a network's parameters, by their names: kinds, rules with patterns, and the rules
/// of networks that many people fine-tune (networks.hpp). Outside the umbrella header, like io/.
namespace catmerge::model {

/// The role of a parameter in its layer, which decides how it is merged.
enum class parameter_kind : unsigned char {
  linear,              ///< matrix: x -> W x, W d_out x d_in
  fused_linear,        ///< several linear weights stored as one (q, k, v in one in_proj_weight)
  conv,                ///< rank 3 or more, d_out first: x -> W x on patches, W d_out x rest
  scale,               ///< vector: x -> gamma o x, x the normalised input
  shift,               ///< vector: x -> x + beta; biases
  embedding,           ///< a table, or an embedding added to others; also heads
  token_table,         ///< a row per token, at the input or the output: never a linear map
  running_statistics,  ///< floats measured in training (running_mean): the experts' mean
  fixed,               ///< not merged, the base's bytes: counters, position ids, masks
  packed,              ///< not floating-point and not fixed by a rule, such as quantised weights
  unknown              ///< floating-point without a rule: Task Arithmetic, and reported
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
    case parameter_kind::token_table: return "token table";
    case parameter_kind::running_statistics: return "running statistics";
    case parameter_kind::fixed: return "fixed";
    case parameter_kind::packed: return "packed";
    case parameter_kind::unknown: break;
  }
  return "unknown";
}

/// The order of a matrix's extents, never guessed from the shape: nn.Linear stores d_out x d_in;
/// GPT-2's Conv1D, OpenCLIP's projections and embedding tables d_in x d_out.
enum class matrix_layout : unsigned char {
  out_in,  ///< the tensor is W, d_out x d_in
  in_out   ///< the tensor is W^T, d_in x d_out
};

/// The origin of a rule.
enum class rule_source : unsigned char {
  none,     ///< no rule
  network,  ///< the names of a known network
  general,  ///< the general rule for other names (general_rules.hpp)
  user      ///< added by a user of the library or the program
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

/// The treatment of one parameter in a merge.
struct classification {
  parameter_kind kind = parameter_kind::unknown;  ///< its role
  /// True if the method trims it. Otherwise it is summed as in Task Arithmetic (running statistics,
  /// fixed and packed: not at all).
  bool trim = false;
  matrix_layout layout = matrix_layout::out_in;  ///< of a matrix; ignored for vectors
  /// Equal parts along d_out, each trimmed alone: rows of a matrix (columns if the layout is
  /// in_out), ranges of a vector. 1 if nothing is fused.
  int parts = 1;
  /// True for a list of matrices (n x rows x columns) or of vectors (n x d) in one tensor, as the
  /// experts of a mixture. Each is a parameter of its own, with the layout and parts above.
  bool stacked = false;
  rule_source source = rule_source::none;  ///< the origin of the deciding rule
  std::string rule = {};                   ///< its pattern, or the general rule in words
};

}  // namespace catmerge::model
