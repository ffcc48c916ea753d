// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/calibration/distance_curve.hpp>
#include <harness/calibration/refit_walk.hpp>
#include <string>
#include <vector>

/// The merge without labels and without settings.
namespace catmerge::harness {

/// The constants of the merge without settings. They were chosen on the four families of
/// examples/families and confirmed on others (examples/experiments/README.md).
struct automatic_options {
  double gain = 2;     ///< g: the prior of refitted layers is so many times as long as J says
  double anchor = 10;  ///< c: mu is c / n of the mean eigenvalue, for n samples a task
  double own = 0.5;    ///< the share of the experts' own outputs in the target
  bool refit = true;   ///< false: the prior alone, with a gain of 1
};

/// The methods whose mean is the prior.
inline const std::vector<std::string>& prior_methods() {
  static const std::vector<std::string> list = {"tsv-m", "iso-c", "iso-cts"};
  return list;
}

/// The merged network and what was chosen on the way.
struct automatic_merge {
  merged_vectors tau;                  ///< theta = theta_0 + tau
  std::vector<distance_curve> curves;  ///< J over alpha, per method of the prior
  std::vector<std::string> refitted;   ///< tensors, in forward order
  std::vector<double> of_base;         ///< the distance of the base per task
  std::vector<double> of_prior;        ///< the distance of the prior with a gain of 1 per task
  std::vector<double> of_result;       ///< the distance of the result per task
};

/// 1. The prior: the mean of several merges, each at the alpha of the least J. 2. The refit of the
/// linear layers around g times the prior, in forward order (refit_walk.hpp).
///
/// taus: the merged vectors of prior_methods(), or of others; alphas: their grid. Tensors without
/// an alpha have neither alpha nor gain.
automatic_merge merge_automatically(const network& net, const output_judge& judge,
                                    const std::vector<activations>& samples,
                                    const std::vector<const merged_vectors*>& taus,
                                    const std::vector<double>& alphas,
                                    const automatic_options& options, const executor& threads);

}  // namespace catmerge::harness
