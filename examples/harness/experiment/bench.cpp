// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <catmerge/merge/drift.hpp>
#include <chrono>
#include <harness/experiment/bench.hpp>
#include <harness/methods/token_tables.hpp>
#include <limits>
#include <optional>
#include <utility>

namespace catmerge::harness {

namespace {

std::vector<task_file> experts(const family& files, const std::vector<std::size_t>& tasks) {
  std::vector<task_file> list;
  for (const std::size_t t : tasks) list.push_back({files.tasks[t].name, files.tasks[t].expert});
  return list;
}

}  // namespace

bench::bench(const family& files, const std::vector<std::size_t>& tasks,
             const model::name_rules& rules, const merge_policy& policy, const network& net,
             const std::vector<std::unique_ptr<measured_task>>& measured, pool& threads)
    : files_(files),
      tasks_(tasks),
      set_(files.base, experts(files, tasks), rules, policy),
      net_(net),
      measured_(measured),
      run_(threads.runner()) {
  for (index_t k = 0; k < size(); ++k)
    experts_.push_back(std::make_unique<expert_weights>(set_, k, 1));
  for (const auto& group : set_.groups())
    for (const auto& p : group)
      if (p.kind == layer_kind::linear || p.kind == layer_kind::scale)
        kinds_.emplace(p.name, p.kind);
}

std::vector<recorded_inputs> bench::record(const task_inputs& samples) const {
  std::vector<recorded_inputs> recorded(tasks_.size());
  run_(size(), [&](index_t k) {
    recorded[at(k)] = record_inputs(net_, *experts_[at(k)], samples[at(k)], kinds_);
  });
  return recorded;
}

template <class Method, class Sink>
std::vector<parameter_report> bench::stream(const Method& method,
                                            const std::vector<recorded_inputs>& samples,
                                            importance_kind importance, Sink& sink) {
  std::unique_ptr<merge_statistics> statistics = std::make_unique<without_statistics>();
  if (!samples.empty()) statistics = std::make_unique<recorded_statistics>(samples);
  std::vector<task_file> importances;
  if (importance != importance_kind::none)
    for (const std::size_t t : tasks_)
      importances.push_back({files_.tasks[t].name, files_.tasks[t].importance(importance)});
  merge_knowledge knowledge(*statistics, importances, set_);
  context<host> c(run_);
  return merge_stream(method, set_, knowledge, sink, c);
}

merged_vectors bench::merge(const any_method& method, const std::vector<recorded_inputs>& samples,
                            importance_kind importance) {
  any_method unscaled = method;  // where applies the factors of its methods
  if (double* const alpha = unscaled.find_alpha(); alpha != nullptr) *alpha = 1;
  merged_vectors tau(set_, averaged_token_tables(method, set_));
  stream(tau_of{with_token_tables(std::move(unscaled), set_)}, samples, importance, tau);
  return tau;
}

std::vector<parameter_report> bench::report(const any_method& method,
                                            const std::vector<recorded_inputs>& samples,
                                            importance_kind importance) {
  struct {
    void put(const parameter_info&, const host_matrix&) {}
  } nowhere;
  return stream(with_drift{with_token_tables(method, set_)}, samples, importance, nowhere);
}

std::vector<double> bench::measure(const weight_source& weights, data_split split) const {
  std::vector<double> values(tasks_.size());
  run_(size(), [&](index_t k) { values[at(k)] = task(k).on(split)(net_, weights); });
  return values;
}

std::vector<double> bench::validate(const merged_vectors& tau,
                                    const std::vector<double>& alphas) const {
  std::vector<double> values(alphas.size() * tasks_.size());
  run_(std::ssize(values), [&](index_t job) {
    const merged_vectors::network weights(tau, alphas[at(job / size())]);
    values[at(job)] = task(job % size()).validation(net_, weights);
  });
  std::vector<double> means(alphas.size(), 0);
  for (std::size_t i = 0; i < values.size(); ++i)
    means[i / tasks_.size()] += values[i] / static_cast<double>(tasks_.size());
  return means;
}

std::vector<double> bench::test(const merged_vectors& tau, double alpha) const {
  return measure(merged_vectors::network(tau, alpha), data_split::test);
}

std::vector<calibration_task> bench::calibration(const task_inputs& samples) const {
  std::vector<calibration_task> tasks;
  for (index_t k = 0; k < size(); ++k)
    tasks.push_back({set_.tasks()[at(k)], *experts_[at(k)], &task(k).head, samples[at(k)]});
  return tasks;
}

output_judge bench::judge(const task_inputs& samples) const {
  return output_judge(net_, calibration(samples), run_);
}

automatic_merge bench::merge_automatically(const task_inputs& samples,
                                           const std::vector<double>& grid,
                                           const automatic_options& options) {
  priors_.resize(prior_methods().size());
  const auto merged_by = [this](std::size_t i) {
    if (!priors_[i]) {
      auto tau = std::make_shared<merged_vectors>(set_);
      stream(tau_of{parse_method(prior_methods()[i].first)}, {}, importance_kind::none, *tau);
      priors_[i] = std::move(tau);
    }
    return priors_[i];
  };
  const auto tables = [this] { return merge(parse_method("average"), {}); };
  return harness::merge_automatically(net_, calibration(samples), {set_, merged_by, tables},
                                      in_units(grid, alpha_unit::spectrum, size()), options, run_);
}

outcome bench::choose(const contender& who, const std::vector<double>& grid,
                      const std::vector<recorded_inputs>& samples, const output_judge* judge) {
  const auto alphas = in_units(grid, who.unit, size());
  outcome best;
  std::optional<merged_vectors> winner;
  double least = std::numeric_limits<double>::infinity();
  for (const auto& spec : who.specs) {
    const auto began = std::chrono::steady_clock::now();
    auto tau = merge(method_of(who, spec, set_.names()), samples, who.importance);
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - began;
    if (judge != nullptr) {
      const auto curve = curve_over_alpha(*judge, tau, alphas, run_);
      if (const double j = curve.mean(curve.best()); j < least) {
        least = j;
        best.without_labels = test(tau, curve.choice());
      }
    }
    const auto means = validate(tau, alphas);
    const auto i =
        static_cast<std::size_t>(std::max_element(means.begin(), means.end()) - means.begin());
    if (winner && means[i] <= best.validation) continue;
    best.spec = spec;
    best.alpha = alphas[i];
    best.validation = means[i];
    best.seconds = spent.count();
    best.at_edge = alphas.size() > 2 && (i == 0 || i + 1 == alphas.size());
    winner = std::move(tau);
  }
  best.test = test(*winner, best.alpha);
  return best;
}

}  // namespace catmerge::harness
