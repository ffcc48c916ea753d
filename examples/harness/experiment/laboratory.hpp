// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/experiment/bench.hpp>
#include <harness/experiment/experiment_plan.hpp>
#include <harness/experiment/results.hpp>
#include <harness/system/progress.hpp>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// The studies of one family. What is chosen is chosen on the validation split, from grids that are
/// alike for all; the test split is only reported.
class laboratory {
 public:
  /// All arguments but the plan outlive it.
  laboratory(const family& files, const model::name_rules& rules, const merge_policy& policy,
             const network& net, experiment_plan plan, pool& threads, progress& terminal);

  std::vector<std::string> tasks() const;    ///< their names
  std::vector<std::string> metrics() const;  ///< by which each is measured

  /// Sentences on what could not be done, or should be known of what was.
  std::vector<std::string> notes() const;

  // Tables, of networks by tasks (tables.cpp). Where a study has nothing to compare, it is empty.
  study comparison();  ///< of all methods
  study ablation();    ///< CAT without each of its trims, and with each alone

  // Curves, of averages over what is varied (curves.cpp).
  study samples();     ///< how many per task
  study alpha();       ///< of several methods
  study lambda();      ///< of CAT's linear trims
  study rank();        ///< of CAT's linear trims
  study order();       ///< in which CAT trims by the other tasks
  study classes();     ///< samples of few classes only
  study task_count();  ///< how many tasks are merged

 private:
  std::unique_ptr<bench> make_bench(const std::vector<std::size_t>& tasks);

  /// The methods compared, and what of each is chosen (contenders.cpp).
  void make_contenders();

  /// Statistics of a draw of samples; made once. tasks: the tasks in their order, all by default.
  std::vector<recorded_inputs> recorded(index_t count, index_t seed);
  std::vector<recorded_inputs> recorded(index_t count, index_t seed,
                                        const std::vector<std::size_t>& tasks);
  std::vector<recorded_inputs> of_classes(index_t count, index_t classes, index_t seed);
  index_t fewest_samples() const;
  index_t samples_of_a_class() const;

  table_row fixed_row(const std::string& label, const weight_source& weights);
  table_row experts_row();
  table_row at_alpha(const std::string& label, const std::string& spec, double alpha);
  table_row chosen_row(const contender& who);
  std::vector<double> expert_values();

  index_t draws_of(const contender& who, const std::string& spec) const;
  std::string cat_spec();
  std::vector<contender> of_panel(const std::vector<std::string>& names);
  study of_setting(const char* key, const char* title, const std::vector<std::string>& values);

  const family& files_;
  const model::name_rules& rules_;
  const merge_policy& policy_;
  const network& net_;
  experiment_plan plan_;
  pool& threads_;
  progress& terminal_;
  std::vector<std::unique_ptr<measured_task>> measured_;
  std::vector<std::size_t> all_tasks_;
  std::unique_ptr<bench> bench_;
  std::vector<contender> contenders_;
  std::map<std::pair<index_t, index_t>, std::vector<recorded_inputs>> recorded_;  // count, seed
  std::map<std::string, std::string> best_;  // the setting chosen for a contender, by label
  std::set<std::string> notes_;
};

/// A contender of one setting of a method that makes a sum.
inline contender one_setting(std::string spec) {
  return {"", {std::move(spec)}, {}, alpha_unit::sum, importance_kind::none};
}

/// "lambda=1, rank=4, alpha=0.3": a setting as tables show it.
std::string setting_text(const std::string& spec, std::optional<double> alpha);

/// The mean of some values.
double mean_of(const std::vector<double>& values);

}  // namespace catmerge::harness
