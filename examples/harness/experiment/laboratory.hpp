// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <harness/experiment/bench.hpp>
#include <harness/experiment/experiment_plan.hpp>
#include <harness/experiment/results.hpp>
#include <harness/networks/data/average.hpp>
#include <harness/system/progress.hpp>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// The studies of one family. Settings are chosen on the validation split, from similar grids for
/// all methods; the test split is only reported.
class laboratory {
 public:
  /// All arguments but the plan must outlive the laboratory.
  laboratory(const family& files, const model::name_rules& rules, const merge_policy& policy,
             const network& net, experiment_plan plan, pool& threads, progress& terminal);

  std::vector<std::string> tasks() const;    ///< the names
  std::vector<std::string> metrics() const;  ///< one per task

  /// Sentences on omitted methods and studies, and on the limits of the results.
  std::vector<std::string> notes() const;

  // Tables, of networks by tasks (tables.cpp). A study with nothing to compare is empty.
  study comparison();  ///< of all methods
  study ablation();    ///< CAT without each of its trims, and with each alone

  // Curves of averages, each over one varied quantity (curves.cpp).
  study samples();        ///< the number of samples per task
  study alpha();          ///< the alpha of several methods
  study lambda();         ///< the lambda of CAT's linear trims
  study rank();           ///< the rank of CAT's linear trims
  study order();          ///< the order in which CAT trims by the other tasks
  study classes();        ///< samples of few classes only
  study other_samples();  ///< samples of another distribution
  study automatic();      ///< the merge without labels, over the number of samples
  study task_count();     ///< the number of merged tasks

  // Relations of tasks (relatedness.cpp).
  study relatedness();   ///< rank correlations of relations with what pairs of tasks lose
  study task_weights();  ///< Task Arithmetic with weights per task, without labels

 private:
  std::unique_ptr<bench> make_bench(const std::vector<std::size_t>& tasks);

  /// True if a method is to be compared.
  bool is_wanted(const std::string& name) const;

  /// Lists the compared methods and their grids of settings (contenders.cpp).
  void make_contenders();

  /// A draw of samples.
  task_inputs drawn(index_t count, index_t seed) const;
  std::vector<std::int64_t> classes_of(std::size_t t) const;
  task_inputs drawn_of_classes(index_t count, index_t classes, index_t seed) const;
  automatic_merge merge_automatically(index_t count, index_t seed,
                                      const automatic_options& options);

  /// Statistics of a draw of samples; made once. tasks: the tasks in their order, all by default.
  std::vector<recorded_inputs> recorded(index_t count, index_t seed);
  std::vector<recorded_inputs> recorded(index_t count, index_t seed,
                                        const std::vector<std::size_t>& tasks);
  index_t fewest_samples() const;
  index_t samples_of_a_class() const;

  table_row fixed_row(const std::string& label, const weight_source& weights);
  table_row experts_row();
  table_row at_alpha(const std::string& label, const std::string& spec, double alpha);
  table_row chosen_row(const contender& who);
  table_row automatic_row(const std::string& label, const automatic_options& options);
  std::vector<double> expert_values();
  Eigen::MatrixXd pair_losses(const std::string& spec, double alpha);

  index_t draws_of(const contender& who, const std::string& spec) const;
  std::string cat_spec();
  std::vector<contender> of_panel(const std::vector<std::string>& names);
  std::optional<automatic_merge> add_merges(const std::vector<contender>& panel,
                                            const task_inputs& samples, study& s);
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

/// A contender with one setting; its method's alpha is the factor of a sum of task vectors.
inline contender one_setting(std::string spec) {
  return {"", {std::move(spec)}, {}, alpha_unit::sum, importance_kind::none};
}

/// "lambda=1, rank=4, alpha=0.3": a setting as tables show it.
std::string setting_text(const std::string& spec, std::optional<double> alpha);

}  // namespace catmerge::harness
