// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <harness/networks/batch.hpp>
#include <harness/networks/data/average.hpp>
#include <harness/networks/data/head.hpp>
#include <harness/networks/data/output_distance.hpp>
#include <harness/networks/network.hpp>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

/// The distance of a merged network from its experts, without labels.
namespace catmerge::harness {

/// A task by its expert, its head and unlabeled samples.
struct calibration_task {
  std::string name;
  const weight_source& expert;
  const task_head* head;             ///< null if the task's outputs are not known
  std::vector<activations> samples;  ///< one state per sample, before the first block
};

/// All samples of each task in one state.
inline std::vector<activations> joined_samples(const std::vector<calibration_task>& tasks) {
  std::vector<activations> all;
  for (const auto& task : tasks) all.push_back(joined(task.samples));
  return all;
}

/// Distances per task, per sample.
using sample_distances = std::vector<std::vector<double>>;

/// The distance per task: the mean over its samples.
inline std::vector<double> of_tasks(const sample_distances& of_samples) {
  std::vector<double> means;
  for (const auto& task : of_samples) means.push_back(average_of(task));
  return means;
}

/// The experts' outputs on unlabeled samples of their tasks, and the distance of other networks
/// from them: J of a network is the mean over the tasks of a task's distance, which is the mean of
/// output_distances over its samples.
class output_judge {
 public:
  /// Runs the experts. The network and the heads, of all tasks, must outlive the judge. Throws
  /// catmerge::error if an expert's output is not finite.
  output_judge(const network& net, const std::vector<calibration_task>& tasks,
               const executor& threads)
      : net_(net) {
    const auto samples = joined_samples(tasks);
    samples_ = joined(samples);
    outputs_.resize(tasks.size());
    for (std::size_t k = 0; k < tasks.size(); ++k) {
      heads_.push_back(tasks[k].head);
      counts_.push_back(samples[k].samples());
      offsets_.push_back(output_offsets(samples[k]));
    }
    threads(std::ssize(tasks), [&](index_t i) {
      const auto k = static_cast<std::size_t>(i);
      const matrix rows = run_all(net, tasks[k].expert, samples[k], nullptr, threads);
      outputs_[k] = (*heads_[k])(view(rows));
      if (!outputs_[k].allFinite())
        throw error("the output of the expert '" + tasks[k].name +
                    "' for a sample of its own task is not finite");
    });
  }

  /// The number of samples of each task.
  const std::vector<index_t>& counts() const { return counts_; }

  /// The largest probability that an expert gives a class, the mean over the samples of its task;
  /// NaN for a task without classes. Samples of another kind than the expert knows make it small.
  std::vector<double> confidences() const {
    std::vector<double> found;
    for (const matrix& outputs : outputs_) {
      std::vector<double> of_samples;
      for (index_t i = 0; i < outputs.rows(); ++i)
        of_samples.push_back(std::exp(log_softmax(outputs.row(i), 1).maxCoeff()));
      found.push_back(outputs.cols() > 1 ? average_of(of_samples)
                                         : std::numeric_limits<double>::quiet_NaN());
    }
    return found;
  }

  /// The distances of a network; infinity for tasks whose outputs are not finite.
  sample_distances distances(const weight_source& weights, const executor& threads) const {
    return distances(run_all(net_, weights, samples_, nullptr, threads));
  }

  /// The same from its outputs: the rows of each sample (output_offsets), task by task.
  sample_distances distances(const matrix& rows) const {
    sample_distances found;
    index_t first = 0;
    for (std::size_t k = 0; k < heads_.size(); ++k) {
      const matrix outputs = (*heads_[k])(rows_of(rows, first, offsets_[k].back()));
      first += offsets_[k].back();
      if (outputs.allFinite())
        found.push_back(
            means_of_samples(output_distances(view(outputs), view(outputs_[k])), offsets_[k]));
      else
        found.emplace_back(static_cast<std::size_t>(counts_[k]),
                           std::numeric_limits<double>::infinity());
    }
    return found;
  }

 private:
  /// Of a number per row the mean of each sample's. A language model's samples have several rows.
  static std::vector<double> means_of_samples(const std::vector<double>& of_rows,
                                              const std::vector<index_t>& offsets) {
    std::vector<double> means;
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i)
      means.push_back(average_of({of_rows.begin() + offsets[i], of_rows.begin() + offsets[i + 1]}));
    return means;
  }

  const network& net_;
  std::vector<const task_head*> heads_;
  std::vector<index_t> counts_;
  std::vector<std::vector<index_t>> offsets_;  // of each task's samples among its outputs
  std::vector<matrix> outputs_;
  activations samples_;
};

}  // namespace catmerge::harness
