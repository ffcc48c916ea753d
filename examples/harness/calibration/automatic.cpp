// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <harness/calibration/automatic.hpp>
#include <harness/methods/token_tables.hpp>
#include <utility>

namespace catmerge::harness {

namespace {

index_t fewest_samples(const std::vector<calibration_task>& tasks) {
  index_t fewest = std::ssize(tasks.front().samples);
  for (const auto& task : tasks) fewest = std::min(fewest, std::ssize(task.samples));
  return fewest;
}

/// A refit of g times the prior. folds, fold: the samples that it leaves out, if any.
refit_plan plan_for(double gain, const std::vector<calibration_task>& tasks,
                    const automatic_options& options, index_t folds = 0, index_t fold = 0) {
  refit_plan plan{gain, {}, folds, fold};
  double samples = 0;
  for (const auto& task : tasks)
    for (index_t i = 0; i < std::ssize(task.samples); ++i) samples += plan.fits(i) ? 1 : 0;
  plan.options.anchor = options.anchor / (samples / static_cast<double>(tasks.size()));
  plan.options.own = options.own;
  return plan;
}

/// J over g, each sample's distance measured on a refit that has not seen it.
distance_curve cross_fit(const network& net, const output_judge& judge,
                         const std::vector<calibration_task>& tasks, const merged_vectors& prior,
                         const automatic_options& options, const executor& threads) {
  const index_t folds = std::min<index_t>(fewest_samples(tasks), 3);
  distance_curve curve{automatic_options::gains(), {}};
  std::vector<refit_plan> plans;
  for (const double gain : curve.settings)
    for (index_t fold = 0; fold < folds; ++fold)
      plans.push_back(plan_for(gain, tasks, options, folds, fold));
  const auto outputs = outputs_of_refits(net, joined_samples(tasks), plans, prior, threads);
  for (std::size_t first = 0; first < plans.size(); first += static_cast<std::size_t>(folds)) {
    matrix left_out = outputs[first];
    index_t row = 0;
    for (const auto& task : tasks)
      for (index_t i = 0; i < std::ssize(task.samples); ++i, ++row)
        left_out.row(row) = outputs[first + static_cast<std::size_t>(i % folds)].row(row);
    curve.distances.push_back(judge.distances(left_out));
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
        (*prior)->of_prior =
            of_tasks(judge->distances(merged_vectors::network((*prior)->tau), threads));
  if (!averaged || !matrices) return std::move(averaged ? *averaged : *matrices);
  const bool closer = average_of(matrices->of_prior) < average_of(averaged->of_prior);
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
  const auto distances = [&](const merged_vectors& tau) {
    return judge ? of_tasks(judge->distances(merged_vectors::network(tau), threads))
                 : std::vector<double>();
  };
  if (judge) result.confidence = judge->confidences();
  result.of_base = distances(result.tau.without_values());
  result.of_result = result.of_prior;
  const index_t fewest = fewest_samples(tasks);
  if (!options.refit || (judge && fewest < 2 && !options.gain)) return result;

  result.gain = options.gain;
  if (!result.gain && judge && fewest < automatic_options::enough) {
    result.gain_curve = cross_fit(net, *judge, tasks, result.tau, options, threads);
    result.gain = result.gain_curve->choice();
  }
  if (!result.gain) result.gain = 2;
  result.refitted = refit_network(net, joined_samples(tasks),
                                  plan_for(*result.gain, tasks, options), result.tau, threads);
  result.of_result = distances(result.tau);
  return result;
}

}  // namespace catmerge::harness
