// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/networks/batch.hpp>
#include <harness/networks/data/head.hpp>
#include <harness/networks/data/output_distance.hpp>
#include <harness/networks/network.hpp>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

/// The distance of a merged network from its experts, without labels.
namespace catmerge::harness {

/// A task by its expert, its head and unlabeled samples.
struct judged_task {
  const weight_source& expert;
  const task_head& head;
  activations samples;  ///< before the first block
};

/// The experts' outputs on unlabeled samples of their tasks, and the distance of other networks
/// from them: J of a network is the mean of output_distance over the tasks.
class output_judge {
 public:
  /// Runs the experts. The network and the heads must outlive the judge. Throws catmerge::error if
  /// an expert's output is not finite.
  output_judge(const network& net, const std::vector<judged_task>& tasks,
               const executor& threads = {})
      : net_(net) {
    std::vector<activations> parts;
    for (const auto& task : tasks) {
      heads_.push_back(&task.head);
      counts_.push_back(task.samples.samples());
      parts.push_back(task.samples);
      const matrix rows = run_all(net, task.expert, task.samples, nullptr, threads);
      outputs_.push_back(task.head(view(rows)));
      if (!outputs_.back().allFinite())
        throw error("an expert's output for a sample of its own task is not finite");
    }
    samples_ = joined(parts);
  }

  index_t tasks() const { return std::ssize(heads_); }
  /// The samples of all tasks, one task after the other, before the first block.
  const activations& samples() const { return samples_; }
  /// The number of samples of each task.
  const std::vector<index_t>& counts() const { return counts_; }

  /// The distance per task; infinity where outputs are not finite.
  std::vector<double> distances(const weight_source& weights, const executor& threads = {}) const {
    const matrix rows = run_all(net_, weights, samples_, nullptr, threads);
    std::vector<double> found;
    index_t first = 0;
    for (std::size_t k = 0; k < heads_.size(); ++k) {
      const matrix outputs = (*heads_[k])(rows_of(rows, first, counts_[k]));
      first += counts_[k];
      found.push_back(outputs.allFinite() ? output_distance(view(outputs), view(outputs_[k]))
                                          : std::numeric_limits<double>::infinity());
    }
    return found;
  }

 private:
  const network& net_;
  std::vector<const task_head*> heads_;
  std::vector<index_t> counts_;
  std::vector<matrix> outputs_;
  activations samples_;
};

}  // namespace catmerge::harness
