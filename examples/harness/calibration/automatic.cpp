// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <harness/calibration/automatic.hpp>

namespace catmerge::harness {

automatic_merge merge_automatically(const network& net, const output_judge& judge,
                                    const std::vector<activations>& samples,
                                    const std::vector<const merged_vectors*>& taus,
                                    const std::vector<double>& alphas,
                                    const automatic_options& options, const executor& threads) {
  automatic_merge result{taus.front()->without_values(), {}, {}, {}, {}, {}};
  const double share = 1 / static_cast<double>(taus.size());
  for (const auto* tau : taus) {
    result.curves.push_back(curve_over_alpha(judge, *tau, alphas, threads));
    result.tau.add(share * result.curves.back().choice(), share, *tau);
  }
  result.of_base = judge.distances(merged_vectors::network(result.tau, 0), threads);
  result.of_prior = judge.distances(merged_vectors::network(result.tau), threads);
  result.of_result = result.of_prior;
  if (!options.refit) return result;

  double count = 0;  // n: the mean over the tasks
  for (const index_t n : judge.counts())
    count += static_cast<double>(n) / static_cast<double>(judge.tasks());
  refit_options fit;
  fit.anchor = options.anchor / count;
  fit.own = options.own;
  result.tau.scale(options.gain);
  result.refitted = refit_network(net, samples, fit, result.tau, threads);
  result.of_result = judge.distances(merged_vectors::network(result.tau), threads);
  return result;
}

}  // namespace catmerge::harness
