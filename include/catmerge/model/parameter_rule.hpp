// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/kinds.hpp>
#include <string>

namespace catmerge::model {

/// What parameters of certain names are.
struct parameter_rule {
  std::string pattern = {};                      ///< of whole names, see glob
  parameter_kind kind = parameter_kind::linear;  ///< what they are
  bool trim = true;                              ///< false: summed as in Task Arithmetic
  matrix_layout layout = matrix_layout::out_in;  ///< of matrices
  int parts = 1;  ///< fused_linear: at least 2; shift: those of its weight; else 1
  /// Modules with the same parent that this rule matches get the same input: with the pattern
  /// "*.self_attn.{q,k,v}_proj.weight", the three weights of each self_attn.
  bool siblings_share_input = false;
  /// One extent more in front: linear and fused_linear n x rows x columns, scale and shift n x d.
  bool stacked = false;
  /// fused_linear: the rule is for parts of d_in rows each (d_in columns if in_out), and for no
  /// others.
  bool square_parts = false;
  /// A user's rule must fit the shapes of what it matches. A network's rule passes over what it
  /// does not fit: another network may have such a name.
  rule_source source = rule_source::user;
};

}  // namespace catmerge::model
