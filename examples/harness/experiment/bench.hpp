// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/calibration/automatic.hpp>
#include <harness/experiment/calibration.hpp>
#include <harness/experiment/measuring.hpp>
#include <harness/methods/alpha_grid.hpp>
#include <harness/system/pool.hpp>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// Merging and measuring in one process.
namespace catmerge::harness {

/// A method and the settings from which an experiment chooses.
struct contender {
  std::string label;
  std::vector<std::string> specs;   ///< of the method, without alpha
  std::vector<std::string> before;  ///< transforms, without choice
  alpha_unit unit = alpha_unit::sum;
  importance_kind importance = importance_kind::none;  ///< the importances it needs
  std::vector<std::string> after{};  ///< transforms of what was merged, without choice
};

/// A contender's method with one setting. Transforms after it get what it merges at alpha 1.
/// names: of all tensors of the network; not needed to ask what the method needs.
inline any_method method_of(const contender& who, const std::string& spec,
                            const std::vector<std::string>& names = {}) {
  any_method m = parse_method(spec);
  if (double* const alpha = m.find_alpha(); alpha != nullptr && !who.after.empty()) *alpha = 1;
  for (const auto& text : who.after) {
    auto t = parse_merged_transform(text);
    t.read_names(names);
    m = any_method(then{std::move(m), std::move(t)});
  }
  for (auto t = who.before.rbegin(); t != who.before.rend(); ++t)
    m = any_method(chain{parse_transform(*t), m});
  return m;
}

/// A contender's result: its best setting on validation, and its scores on test.
struct outcome {
  std::string spec;
  double alpha = 0;
  bool at_edge = false;  ///< alpha is the grid's smallest or largest
  double validation = 0;
  std::vector<double> test;            ///< per task
  double seconds = 0;                  ///< of the merge
  std::vector<double> without_labels;  ///< per task, at the setting that a judge chose

  double average() const {
    double sum = 0;
    for (const double v : test) sum += v;
    return sum / static_cast<double>(test.size());
  }
};

/// A base and some of a family's experts, in some order: merges and measures them.
class bench {
 public:
  /// tasks: positions in the family's list, in this bench's order. All arguments but `tasks` must
  /// outlive the bench.
  bench(const family& files, const std::vector<std::size_t>& tasks, const model::name_rules& rules,
        const merge_policy& policy, const network& net,
        const std::vector<std::unique_ptr<measured_task>>& measured, pool& threads);

  index_t size() const { return std::ssize(tasks_); }
  const checkpoint_set& set() const { return set_; }
  const measured_task& task(index_t k) const { return *measured_[tasks_[at(k)]]; }

  /// Statistics of the layers of each expert from its task's samples, in this bench's order.
  std::vector<recorded_inputs> record(const task_inputs& samples) const;

  /// tau of a method. samples: as `record` returns them, or empty.
  merged_vectors merge(const any_method& method, const std::vector<recorded_inputs>& samples,
                       importance_kind importance = importance_kind::none);

  /// The report of a whole merge, with its drift; the merged values are discarded.
  std::vector<parameter_report> report(const any_method& method,
                                       const std::vector<recorded_inputs>& samples,
                                       importance_kind importance = importance_kind::none);

  /// The experts, heads and samples of the tasks.
  std::vector<calibration_task> calibration(const task_inputs& samples) const;

  /// The distance from the experts' outputs on the samples.
  output_judge judge(const task_inputs& samples) const;

  /// The merge without labels from the samples. The merges of its prior are made once.
  automatic_merge merge_automatically(const task_inputs& samples, const std::vector<double>& grid,
                                      const automatic_options& options);

  /// A network's scores on all tasks, on one split.
  std::vector<double> measure(const weight_source& weights, data_split split) const;

  /// The means over the tasks on the validation split for each alpha.
  std::vector<double> validate(const merged_vectors& tau, const std::vector<double>& alphas) const;

  /// The scores of all tasks with tau at one alpha, on the test split.
  std::vector<double> test(const merged_vectors& tau, double alpha) const;

  /// The best setting of a contender on validation; among equals the first. The grid ascends.
  /// judge: if given, the setting of the least distance from the experts is chosen, too.
  outcome choose(const contender& who, const std::vector<double>& grid,
                 const std::vector<recorded_inputs>& samples, const output_judge* judge = nullptr);

 private:
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

  template <class Method, class Sink>
  std::vector<parameter_report> stream(const Method& method,
                                       const std::vector<recorded_inputs>& samples,
                                       importance_kind importance, Sink& sink);

  const family& files_;
  std::vector<std::size_t> tasks_;
  checkpoint_set set_;
  std::vector<std::unique_ptr<expert_weights>> experts_;
  const network& net_;
  const std::vector<std::unique_ptr<measured_task>>& measured_;
  executor run_;
  std::map<std::string, layer_kind> kinds_;
  std::vector<std::shared_ptr<const merged_vectors>> priors_;  // of prior_methods(), once made
};

}  // namespace catmerge::harness
