// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <harness/calibration/automatic.hpp>
#include <harness/methods/token_tables.hpp>
#include <utility>

namespace catmerge::harness {

namespace {

/// The tasks with the samples of one fold, or with all others. Sample i is in fold i mod `folds`.
std::vector<calibration_task> part_of(const std::vector<calibration_task>& tasks, index_t fold,
                                      index_t folds, bool inside) {
  std::vector<calibration_task> parts;
  for (const auto& task : tasks) {
    parts.push_back({task.name, task.expert, task.head, {}});
    for (index_t i = 0; i < std::ssize(task.samples); ++i)
      if ((i % folds == fold) == inside)
        parts.back().samples.push_back(task.samples[static_cast<std::size_t>(i)]);
  }
  return parts;
}

/// n: the mean over the tasks.
double samples_per_task(const std::vector<calibration_task>& tasks) {
  double count = 0;
  for (const auto& task : tasks) count += static_cast<double>(task.samples.size());
  return count / static_cast<double>(tasks.size());
}

index_t fewest_samples(const std::vector<calibration_task>& tasks) {
  index_t fewest = std::ssize(tasks.front().samples);
  for (const auto& task : tasks) fewest = std::min(fewest, std::ssize(task.samples));
  return fewest;
}

/// Refits tau, the prior with a gain of 1, around g times itself.
std::vector<std::string> refit_around(const network& net,
                                      const std::vector<calibration_task>& tasks, double gain,
                                      const automatic_options& options, merged_vectors& tau,
                                      const executor& threads) {
  refit_options fit;
  fit.anchor = options.anchor / samples_per_task(tasks);
  fit.own = options.own;
  tau.scale(gain);
  return refit_network(net, joined_samples(tasks), fit, tau, threads);
}

/// J over g, each measured on samples that the refit has not seen; the mean over the folds.
distance_curve cross_fit(const network& net, const std::vector<calibration_task>& tasks,
                         const merged_vectors& prior, const automatic_options& options,
                         const executor& threads) {
  const index_t folds = std::min<index_t>(fewest_samples(tasks), 3);
  distance_curve curve{automatic_options::gains(), {}};
  curve.distances.assign(curve.settings.size(), std::vector<double>(tasks.size(), 0));
  for (index_t fold = 0; fold < folds; ++fold) {
    const auto rest = part_of(tasks, fold, folds, false);
    const output_judge judge(net, part_of(tasks, fold, folds, true), threads);
    for (std::size_t g = 0; g < curve.settings.size(); ++g) {
      merged_vectors tau = prior;
      refit_around(net, rest, curve.settings[g], options, tau, threads);
      const auto found = judge.distances(merged_vectors::network(tau), threads);
      for (std::size_t k = 0; k < found.size(); ++k)
        curve.distances[g][k] += found[k] / static_cast<double>(folds);
    }
  }
  return curve;
}

/// Adds a merge to a prior, at the alpha of the least distance, or at `otherwise` without a judge.
void add_merge(const std::optional<output_judge>& judge, const merged_vectors& tau,
               const std::vector<double>& grid, double otherwise, automatic_merge& prior,
               const executor& threads) {
  const double share = 1 / static_cast<double>(prior_methods().size());
  if (judge) prior.curves.push_back(curve_over_alpha(*judge, tau, grid, threads));
  prior.alphas.push_back(judge ? prior.curves.back().choice() : otherwise);
  prior.tau.add(share * prior.alphas.back(), share, tau);
}

/// The mean of the merges, each at its alpha, with tables of tokens as matrices or averaged,
/// whichever is closer to the experts; averaged without a judge.
automatic_merge make_prior(const std::optional<output_judge>& judge, const prior_merges& merges,
                           const std::vector<double>& grid, const executor& threads) {
  std::optional<merged_vectors> tables;
  if (has_token_tables(merges.set)) {
    tables = merges.average();
    tables->erase_if([&](const auto& name) { return !is_token_table(merges.set, name); });
  }
  std::optional<automatic_merge> matrices, averaged;
  for (std::size_t i = 0; i < prior_methods().size(); ++i) {
    const auto tau = merges.merged_by(i);
    const double alpha = prior_methods()[i].second;
    if (tables) {
      const merged_vectors fixed = tau->with_fixed(*tables);
      if (!averaged) averaged.emplace(automatic_merge{fixed.without_values()});
      add_merge(judge, fixed, grid, alpha, *averaged, threads);
    }
    if (tables && !judge) continue;
    if (!matrices) matrices.emplace(automatic_merge{tau->without_values()});
    add_merge(judge, *tau, grid, alpha, *matrices, threads);
  }
  if (averaged) averaged->tables_averaged = true;
  if (judge)
    for (auto* prior : {&matrices, &averaged})
      if (*prior)
        (*prior)->of_prior = judge->distances(merged_vectors::network((*prior)->tau), threads);
  if (!averaged || !matrices) return std::move(averaged ? *averaged : *matrices);
  const bool closer = mean_distance(matrices->of_prior) < mean_distance(averaged->of_prior);
  auto &chosen = closer ? *matrices : *averaged, &other = closer ? *averaged : *matrices;
  chosen.of_other = std::move(other.of_prior);
  return std::move(chosen);
}

}  // namespace

automatic_merge merge_automatically(const network& net, const std::vector<calibration_task>& tasks,
                                    const prior_merges& merges, const std::vector<double>& grid,
                                    const automatic_options& options, const executor& threads) {
  std::optional<output_judge> judge;
  if (tasks.front().head != nullptr) judge.emplace(net, tasks, threads);
  automatic_merge result = make_prior(judge, merges, grid, threads);
  for (const auto& task : tasks) result.samples.push_back(std::ssize(task.samples));
  const auto distances = [&](double alpha) {
    return judge ? judge->distances(merged_vectors::network(result.tau, alpha), threads)
                 : std::vector<double>();
  };
  if (judge)
    result.of_base =
        judge->distances(merged_vectors::network(result.tau.without_values()), threads);
  result.of_result = result.of_prior;
  const index_t fewest = fewest_samples(tasks);
  if (!options.refit || (judge && fewest < 2 && !options.gain)) return result;

  result.gain = options.gain;
  if (!result.gain && judge && fewest < automatic_options::enough) {
    result.gain_curve = cross_fit(net, tasks, result.tau, options, threads);
    result.gain = result.gain_curve->choice();
  }
  if (!result.gain) result.gain = 2;
  result.refitted = refit_around(net, tasks, *result.gain, options, result.tau, threads);
  result.of_result = distances(1);
  return result;
}

}  // namespace catmerge::harness
