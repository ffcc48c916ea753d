// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/safetensors.hpp>
#include <harness/features/input_statistics.hpp>
#include <harness/merge/plan.hpp>
#include <harness/networks/open_network.hpp>
#include <memory>

namespace catmerge::harness {

/// The inputs of a merge beside the weights: statistics of features, from files or from samples
/// that run through the network, and importances of entries.
class merge_inputs {
 public:
  /// All arguments must outlive this object. Throws catmerge::error for a file that is missing or
  /// does not fit the set. Of unused files only the presence and the form are checked.
  merge_inputs(const merge_request& request, const merge_plan& plan, checkpoint_set& set,
               pool& threads) {
    if (plan.uses_outputs || (plan.uses_statistics && !request.samples.empty()))
      network_ = open_network(set.base_file(), request.config,
                              [&set](const std::string& one, const std::string& other) {
                                return set.are_apart(one, other);
                              });
    if (!plan.uses_statistics) {
      for (const auto& file : request.features) io::statistics_file(file.path);
      for (const auto& file : request.samples) io::safetensors_file(file.path);
      statistics_ = std::make_unique<without_statistics>();
    } else if (!request.samples.empty()) {
      statistics_ = std::make_unique<sample_statistics>(*network_, request.samples,
                                                        request.sample_count.value_or(0),
                                                        plan.coefficient, set, threads);
    } else {
      statistics_ = std::make_unique<file_statistics>(request.features, set);
    }
    if (!plan.uses_importance)
      for (const auto& file : request.importance) io::checkpoint(file.path);
    knowledge_.emplace(*statistics_,
                       plan.uses_importance ? request.importance : std::vector<task_file>(), set);
  }

  /// The network that samples run through. Precondition: the plan uses outputs, or statistics of
  /// samples.
  const network& opened_network() const { return *network_; }

  /// The statistics and importances, as merge_stream takes them.
  merge_knowledge& knowledge() { return *knowledge_; }

 private:
  std::unique_ptr<network> network_;
  std::unique_ptr<merge_statistics> statistics_;
  std::optional<merge_knowledge> knowledge_;
};

}  // namespace catmerge::harness
