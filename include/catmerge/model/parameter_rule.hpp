// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/kinds.hpp>
#include <string>

namespace catmerge::model {

/// A pattern of names and the treatment of the parameters that match it.
struct parameter_rule {
  std::string pattern = {};                      ///< of whole names, see glob
  parameter_kind kind = parameter_kind::linear;  ///< their kind
  bool trim = true;                              ///< false: summed as in Task Arithmetic
  matrix_layout layout = matrix_layout::out_in;  ///< of matrices
  int parts = 1;  ///< fused_linear: at least 2; shift: the parts of its weight; else 1
  /// True if matching modules of the same parent get the same input: with the pattern
  /// "*.self_attn.{q,k,v}_proj.weight", the three weights of each self_attn.
  bool siblings_share_input = false;
  /// True for a first extent n: linear and fused_linear n x rows x columns, scale and shift n x d.
  bool stacked = false;
  /// True if a fused_linear rule holds only for parts of d_in rows each (d_in columns if in_out).
  bool square_parts = false;
  /// A user's rule must fit the shapes that it matches. A network's rule is skipped for shapes that
  /// it does not fit: another network may use such a name.
  rule_source source = rule_source::user;
};

}  // namespace catmerge::model
