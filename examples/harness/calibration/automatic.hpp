// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <harness/calibration/distance_curve.hpp>
#include <harness/calibration/refit_walk.hpp>
#include <harness/methods/automatic_options.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

/// The merge without labels and without settings.
namespace catmerge::harness {

/// The merged network, and what was chosen on the way.
struct automatic_merge {
  merged_vectors tau;              ///< theta = theta_0 + tau
  std::vector<index_t> samples{};  ///< per task
  bool tables_averaged = false;    ///< tables of tokens are the mean of the experts
  std::vector<double> of_other{};  ///< the distance of the prior with its tables otherwise, if any
  std::vector<double> alphas{};    ///< per method of the prior
  std::vector<distance_curve> curves{};        ///< J over alpha, likewise; empty without heads
  std::optional<double> gain{};                ///< g; none: nothing was refitted
  std::optional<distance_curve> gain_curve{};  ///< J over g on left-out samples, if cross-fitted
  std::vector<std::string> refitted{};         ///< tensors, in forward order
  std::vector<double> confidence{};            ///< output_judge::confidences, if there are heads
  std::vector<double> of_base{};               ///< the base's distance per task, if there are heads
  std::vector<double> of_prior{};              ///< that of the prior with a gain of 1
  std::vector<double> of_result{};             ///< that of the result
};

/// The merges that a prior is made of.
struct prior_merges {
  const checkpoint_set& set;
  /// The merged vectors of prior_methods()[i] at alpha 1, with tables of tokens as matrices. They
  /// are asked for once, one after the other, so that few are in memory.
  std::function<std::shared_ptr<const merged_vectors>(std::size_t)> merged_by;
  /// The mean of the experts. Of it the tables of tokens count: on a small decoder they keep more
  /// of the experts than tables as matrices, on the text family less. The distance of outputs
  /// decides.
  std::function<merged_vectors()> average;
};

/// 1. The prior: the mean of several merges, each at the alpha of the least J. 2. g. 3. The refit
/// of the linear layers around g times the prior, in forward order (refit_walk.hpp).
///
/// grid: of the alphas. Tensors without alpha have neither alpha nor gain. With one sample a task
/// nothing can be left out to choose g by: the prior alone. Without heads alphas and g are the
/// constants of prior_methods() and 2, and tables of tokens are averaged.
automatic_merge merge_automatically(const network& net, const std::vector<calibration_task>& tasks,
                                    const prior_merges& merges, const std::vector<double>& grid,
                                    const automatic_options& options, const executor& threads);

}  // namespace catmerge::harness
