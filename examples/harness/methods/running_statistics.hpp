// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/compose.hpp>
#include <catmerge/methods/weight_average.hpp>
#include <harness/checkpoints/checkpoint_set.hpp>
#include <harness/methods/any_method.hpp>
#include <utility>

namespace catmerge::harness {

/// The method, with the mean of the experts for running means and variances. These are neither
/// weights nor shifts, and extrapolation can make a variance negative. `set` must outlive the
/// result.
inline any_method with_running_statistics(any_method method, const checkpoint_set& set) {
  const auto is_running = [&set](const std::string& tensor) {
    return set.class_of(tensor).kind == model::parameter_kind::running_statistics;
  };
  for (const auto& name : set.names())
    if (is_running(name))
      return any_method(where{[&set, is_running](const host_problem& p) {
                                return is_running(set.tensor_of(p.names.parameter));
                              },
                              any_method(weight_average_method{}), std::move(method)});
  return method;
}

}  // namespace catmerge::harness
