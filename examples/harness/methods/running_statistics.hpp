// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/compose.hpp>
#include <catmerge/methods/weight_average.hpp>
#include <harness/checkpoints/checkpoint_set.hpp>
#include <harness/methods/any_method.hpp>
#include <set>
#include <string>
#include <utility>

namespace catmerge::harness {

/// The running means and variances of normalisations in a set.
inline std::set<std::string> running_statistics_of(const network_names& set) {
  std::set<std::string> names;
  for (const auto& name : set.names())
    if (set.class_of(name).kind == model::parameter_kind::running_statistics) names.insert(name);
  return names;
}

/// The method, with the mean of the experts for running means and variances. These are neither
/// weights nor shifts, and extrapolation can make a variance negative. `set` must outlive the
/// result.
inline any_method with_running_statistics(any_method method, const network_names& set) {
  auto names = running_statistics_of(set);
  if (names.empty()) return method;
  return any_method(where{[&set, names = std::move(names)](const host_problem& p) {
                            return names.contains(set.tensor_of(p.names.parameter));
                          },
                          any_method(weight_average_method{}), std::move(method)});
}

}  // namespace catmerge::harness
