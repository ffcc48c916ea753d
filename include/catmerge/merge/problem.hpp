// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/layer_kind.hpp>
#include <catmerge/features/statistics_view.hpp>
#include <string>
#include <vector>

namespace catmerge {

/// Names for messages. Defaults stand in for empty names: "the parameter", "task 0".
struct layer_names {
  std::string parameter;           ///< the parameter's name in its checkpoint
  std::vector<std::string> tasks;  ///< the tasks' names, in the order of the experts
  std::string whole{};             ///< the larger tensor's name, if this is a piece of one
  index_t first_row = 0;           ///< the piece's first row in the larger tensor

  /// "PARAMETER: expert 'TASK'".
  std::string expert(index_t k) const { return about(": expert '", k); }
  /// "PARAMETER: features of 'TASK'".
  std::string features(index_t k) const { return about(": features of '", k); }
  /// "PARAMETER: importances of 'TASK'".
  std::string importance(index_t k) const { return about(": importances of '", k); }
  /// "PARAMETER: base".
  std::string base() const { return who() + ": base"; }
  /// The parameter's name, or "the parameter".
  std::string who() const { return parameter.empty() ? "the parameter" : parameter; }
  /// The name of the whole tensor, if the parameter is a piece of one; else the parameter's.
  const std::string& tensor() const { return whole.empty() ? parameter : whole; }
  /// The name of task k, or "task k".
  std::string task(index_t k) const {
    const auto i = static_cast<std::size_t>(k);
    return i < tasks.size() ? tasks[i] : "task " + std::to_string(k);
  }

 private:
  [[gnu::noinline]] std::string about(const char* what, index_t k) const {
    return who() + what + task(k) + "'";
  }
};

/// One parameter to be merged. Vectors are d x 1.
template <class Context>
struct layer_problem {
  using const_view = typename Context::const_view;  ///< a tensor, in the layout d_out x d_in

  layer_kind kind = layer_kind::other;  ///< the parameter's effect on features
  index_t parts = 1;  ///< fused linears (q, k, v): equal blocks of rows; shifts likewise
  const_view base;    ///< theta_0, d_out x d_in or d x 1
  std::vector<const_view> experts;  ///< theta_k, K of base's shape
  std::vector<statistics_view<typename Context::domain>> statistics;  ///< one per task, or none
  /// One per task, of base's shape, or none: how much each entry matters to the task (squared
  /// gradients, sensitivities).
  std::vector<const_view> importance{};
  layer_names names{};  ///< for messages
};

/// The task vectors of one parameter, T_k = theta_k - theta_0, K of base's shape, in the order of
/// the tasks. Their elements may be changed.
template <class Context>
using vector_list = std::span<const typename Context::view>;

}  // namespace catmerge
