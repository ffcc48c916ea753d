// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/layer_kind.hpp>
#include <catmerge/features/statistics_view.hpp>
#include <string>
#include <vector>

namespace catmerge {

/// Names for messages. Empty ones are filled in: "the parameter", "task 0".
struct layer_names {
  std::string parameter;           ///< the parameter's, as its checkpoint has it
  std::vector<std::string> tasks;  ///< the tasks', in the order of the experts
  std::string whole{};             ///< of a piece of a tensor: the tensor's name
  index_t first_row = 0;           ///< of a piece of a tensor: where in it this one begins

  /// "PARAMETER: expert 'TASK'".
  std::string expert(index_t k) const { return about(": expert '", k); }
  /// "PARAMETER: features of 'TASK'".
  std::string features(index_t k) const { return about(": features of '", k); }
  /// "PARAMETER: importances of 'TASK'".
  std::string importance(index_t k) const { return about(": importances of '", k); }
  /// "PARAMETER: base".
  std::string base() const { return who() + ": base"; }
  /// The parameter's name, or what stands for it.
  std::string who() const { return parameter.empty() ? "the parameter" : parameter; }
  /// The name of the tensor that the parameter is, or is a piece of.
  const std::string& tensor() const { return whole.empty() ? parameter : whole; }
  /// The name of task k, or what stands for it.
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

  layer_kind kind = layer_kind::other;  ///< what the parameter does to features
  index_t parts = 1;  ///< fused linears (q, k, v): equal blocks of rows; shifts likewise
  /// theta_0, d_out x d_in or d x 1.
  const_view base;
  /// theta_k, K of base's shape.
  std::vector<const_view> experts;
  std::vector<statistics_view<typename Context::domain>> statistics;  ///< one per task, or none
  /// One per task, of base's shape, or none: how much each entry matters to the task (squared
  /// gradients, sensitivities).
  std::vector<const_view> importance{};
  layer_names names{};  ///< for messages
};

/// The task vectors of one parameter, T_k = theta_k - theta_0, K of base's shape, in the order of
/// the tasks. The elements that they refer to may be changed.
template <class Context>
using vector_list = std::span<const typename Context::view>;

}  // namespace catmerge
