// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <harness/experiment/calibration.hpp>
#include <harness/experiment/measuring.hpp>
#include <harness/experiment/merged_weights.hpp>
#include <harness/methods/spec.hpp>
#include <harness/pool.hpp>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// Merging and measuring in one process.
namespace catmerge::harness {

/// What a method makes of task vectors, and so by how much the grid of alphas is stretched for it.
enum class alpha_unit {
  none,     ///< it has no alpha
  sum,      ///< of task vectors: the grid as it is
  mean,     ///< of task vectors: times the number of tasks
  spectrum  ///< of its own: times 3
};

/// An alpha of the grid as the method takes it: 0.3 is 3 times 0.1, without the roundings. 1 where
/// there is none.
inline double in_units(double alpha, alpha_unit unit, index_t tasks) {
  double factor = 1;
  if (unit == alpha_unit::none) return 1;
  if (unit == alpha_unit::mean) factor = static_cast<double>(tasks);
  if (unit == alpha_unit::spectrum) factor = 3;
  return std::round(alpha * factor * 1e12) / 1e12;
}

/// A method with the settings among which an experiment chooses.
struct contender {
  std::string label;
  std::vector<std::string> specs;   ///< of the method, without alpha
  std::vector<std::string> before;  ///< transforms, without choice
  alpha_unit unit = alpha_unit::sum;
  std::string family_task::*importance = nullptr;  ///< what it needs, if anything
};

/// One setting of a contender, made ready.
inline any_method method_of(const contender& who, const std::string& spec) {
  any_method m = parse_method(spec);
  for (auto t = who.before.rbegin(); t != who.before.rend(); ++t)
    m = any_method(chain{parse_transform(*t), m});
  return m;
}

/// What came of a contender: the setting that was best on validation, and how it does on test.
struct outcome {
  std::string spec;
  double alpha = 0;
  bool at_edge = false;  ///< alpha is the grid's smallest or largest
  double validation = 0;
  std::vector<double> test;  ///< per task
  double seconds = 0;        ///< of the merge

  double average() const {
    double sum = 0;
    for (const double v : test) sum += v;
    return sum / static_cast<double>(test.size());
  }
};

/// A base and some of a family's experts, in some order, with all that is needed to merge and to
/// measure them.
class bench {
 public:
  /// tasks: which of the family's, in which order. All arguments but `tasks` outlive it.
  bench(const family& files, const std::vector<std::size_t>& tasks, const model::name_rules& rules,
        const merge_policy& policy, const network& net,
        const std::vector<std::unique_ptr<measured_task>>& measured, pool& threads)
      : files_(files),
        tasks_(tasks),
        set_(files.base, experts(files, tasks), rules, policy),
        net_(net),
        measured_(measured),
        run_(threads.runner()) {
    for (const auto& group : set_.groups())
      for (const auto& p : group)
        if (p.kind == layer_kind::linear || p.kind == layer_kind::scale)
          kinds_.emplace(p.name, p.kind);
  }

  index_t size() const { return std::ssize(tasks_); }
  const checkpoint_set& set() const { return set_; }
  const measured_task& task(index_t k) const { return *measured_[tasks_[at(k)]]; }

  /// What the chosen samples of each task, in this bench's order, say of its expert's layers.
  std::vector<recorded_inputs> record(const std::vector<std::vector<index_t>>& chosen) const {
    std::vector<recorded_inputs> recorded(tasks_.size());
    run_(size(), [&](index_t k) {
      const expert_weights expert(set_, k, 1);
      recorded[at(k)] = record_inputs(net_, expert, *task(k).samples, chosen[at(k)], kinds_);
    });
    return recorded;
  }

  /// tau of a method. samples: as `record` returns them, or empty.
  merged_vectors merge(const any_method& method, const std::vector<recorded_inputs>& samples,
                       std::string family_task::*importance = nullptr) {
    merged_vectors tau(set_);
    stream(tau_of{method}, samples, importance, tau);
    return tau;
  }

  /// The report of a whole merge, with its drift; what is merged is thrown away.
  std::vector<parameter_report> report(const any_method& method,
                                       const std::vector<recorded_inputs>& samples,
                                       std::string family_task::*importance = nullptr) {
    struct {
      void put(const parameter_info&, const host_matrix&) {}
    } nowhere;
    return stream(with_drift{method}, samples, importance, nowhere);
  }

  /// A network on every task, on one split.
  std::vector<double> measure(const weight_source& weights,
                              measured_split measured_task::*split) const {
    std::vector<double> values(tasks_.size());
    run_(size(), [&](index_t k) { values[at(k)] = (task(k).*split)(net_, weights); });
    return values;
  }

  /// The means over the tasks on the validation split for each alpha.
  std::vector<double> validate(const merged_vectors& tau, const std::vector<double>& alphas) const {
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

  /// The best setting of a contender on validation: the first of equals. The grid ascends.
  outcome choose(const contender& who, const std::vector<double>& grid,
                 const std::vector<recorded_inputs>& samples) {
    std::vector<double> alphas;
    for (const double a : grid) alphas.push_back(in_units(a, who.unit, size()));
    if (who.unit == alpha_unit::none) alphas = {1};
    outcome best;
    std::optional<merged_vectors> winner;
    for (const auto& spec : who.specs) {
      const auto began = std::chrono::steady_clock::now();
      auto tau = merge(method_of(who, spec), samples, who.importance);
      const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - began;
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

  std::vector<double> test(const merged_vectors& tau, double alpha) const {
    return measure(merged_vectors::network(tau, alpha), &measured_task::test);
  }

 private:
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

  static std::vector<task_file> experts(const family& files,
                                        const std::vector<std::size_t>& tasks) {
    std::vector<task_file> list;
    for (const std::size_t t : tasks) list.push_back({files.tasks[t].name, files.tasks[t].expert});
    return list;
  }

  template <class Method, class Sink>
  std::vector<parameter_report> stream(const Method& method,
                                       const std::vector<recorded_inputs>& samples,
                                       std::string family_task::*importance, Sink& sink) {
    std::unique_ptr<merge_statistics> statistics = std::make_unique<without_statistics>();
    if (!samples.empty()) statistics = std::make_unique<recorded_statistics>(samples);
    std::vector<task_file> importances;
    if (importance != nullptr)
      for (const std::size_t t : tasks_)
        importances.push_back({files_.tasks[t].name, files_.tasks[t].*importance});
    merge_knowledge knowledge(*statistics, importances, set_);
    context<host> c(run_);
    return merge_stream(method, set_, knowledge, sink, c);
  }

  const family& files_;
  std::vector<std::size_t> tasks_;
  checkpoint_set set_;
  const network& net_;
  const std::vector<std::unique_ptr<measured_task>>& measured_;
  executor run_;
  std::map<std::string, layer_kind> kinds_;
};

}  // namespace catmerge::harness
