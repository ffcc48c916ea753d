// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <harness/features/expert_weights.hpp>
#include <harness/merge/choice_account.hpp>
#include <harness/merge/outputs_choice.hpp>
#include <harness/methods/alpha_grid.hpp>
#include <harness/methods/running_statistics.hpp>
#include <harness/methods/token_tables.hpp>
#include <harness/system/option_error.hpp>
#include <utility>

namespace catmerge::harness {

namespace {

/// Writes the merged vectors of a merge in memory.
struct replayed {
  std::shared_ptr<const merged_vectors> tau;
  double alpha;
  std::shared_ptr<const std::map<std::string, parameter_info>> infos;

  static constexpr double factor() { return 1; }

  void combine(context<host>& c, const host_problem& p, host_vectors, const host_view& out,
               layer_report&) const {
    add(c, p, out);
  }
  layer_report merge(context<host>& c, const host_problem& p, host_view out) const {
    layer_report report;
    report.kind = p.kind;
    c.assign(p.base, out);
    add(c, p, out);
    return report;
  }

 private:
  void add(context<host>& c, const host_problem& p, const host_view& out) const {
    const auto& info = infos->at(p.names.parameter);
    c.axpy(tau->is_scaled(tau->set().tensor_of(info.name)) ? alpha : 1, tau->get(info), out);
  }
};

/// The path of a task's file; empty if there is none.
std::string path_of(const std::vector<task_file>& files, const std::string& task) {
  for (const auto& file : files)
    if (file.task == task) return file.path;
  return {};
}

/// The files of the tasks' heads: those of --head, or the experts if each holds a head, as language
/// models do. Empty if there are none.
std::vector<std::string> heads_of(const merge_request& request, const checkpoint_set& set,
                                  output_kind kind) {
  std::vector<std::string> paths;
  const bool needs_none = has_no_head(kind);
  if (needs_none && !request.heads.empty())
    throw error("--head: the network has no heads of tasks; leave the option out");
  for (index_t k = 0; k < std::ssize(set.tasks()); ++k) {
    const auto& task = set.tasks()[static_cast<std::size_t>(k)];
    if (!request.heads.empty()) {
      paths.push_back(path_of(request.heads, task));
      continue;
    }
    const auto& expert = set.expert_file(k);
    if (!needs_none && expert.find("classifier.weight") == nullptr &&
        expert.find("classifier.out_proj.weight") == nullptr)
      return {};
    paths.push_back(path_of(request.experts, task));
  }
  return paths;
}

/// The heads, experts and samples of all tasks.
class task_outputs {
 public:
  task_outputs(const merge_request& request, const checkpoint_set& set, const network& net,
               const executor& threads) {
    const auto heads = heads_of(request, set, net.output());
    std::vector<std::string> without_texts;
    for (std::size_t k = 0; k < set.tasks().size(); ++k) {
      const auto& name = set.tasks()[k];
      if (!heads.empty())
        heads_.push_back(std::make_unique<task_head>(heads[k], net.output(), net.output_width()));
      experts_.push_back(std::make_unique<expert_weights>(set, static_cast<index_t>(k), 1));
      tasks_.push_back({name, *experts_.back(), heads.empty() ? nullptr : heads_.back().get(), {}});
      const std::string file = path_of(request.samples, name);
      auto samples = net.open_samples(file);
      const index_t count = sample_count(request, samples->size(), file);
      if (samples->lacks_texts()) without_texts.push_back(name);
      samples = with_texts(net, *experts_.back(), std::move(samples), count, threads);
      for (index_t i = 0; i < count; ++i) tasks_.back().samples.push_back(samples->load(i, 1));
      if (request.sample_count.value_or(0) == 0 && count < samples->size())
        notes_.push_back("of the " + std::to_string(samples->size()) + " samples of '" + name +
                         "' the first " + std::to_string(count) +
                         " choose the settings (--sample-count takes more)");
    }
    for (auto& sentence : wrote_texts_sentence(without_texts))
      notes_.push_back(std::move(sentence));
  }

  const std::vector<calibration_task>& tasks() const { return tasks_; }
  bool have_heads() const { return !heads_.empty(); }
  /// Sentences on samples that are not used.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  /// More than 64 samples gain nothing (examples/experiments), and all rows of a block are in
  /// memory at a time.
  static index_t sample_count(const merge_request& request, index_t size, const std::string& file) {
    constexpr index_t most = 64;
    const index_t wanted = request.sample_count.value_or(0);
    if (wanted > size)
      throw error(file + ": expected at least " + std::to_string(wanted) + " samples, found " +
                  std::to_string(size));
    if (size == 0) throw error(file + ": holds no samples");
    return wanted > 0 ? wanted : std::min(size, most);
  }

  std::vector<std::unique_ptr<task_head>> heads_;
  std::vector<std::unique_ptr<expert_weights>> experts_;
  std::vector<calibration_task> tasks_;
  std::vector<std::string> notes_;
};

/// Merges in memory, without statistics.
class prior_maker {
 public:
  prior_maker(checkpoint_set& set, context<host>& c)
      : set_(set), c_(c), knowledge_(nothing_, {}, set) {}

  /// The merged vectors of a method with its alpha.
  std::shared_ptr<merged_vectors> merge(const std::string& method) {
    auto tau = std::make_shared<merged_vectors>(set_, running_statistics_of(set_));
    last_ = merge_stream(tau_of{with_running_statistics(parse_method(method), set_)}, set_,
                         knowledge_, *tau, c_);
    return tau;
  }

  /// The same for a method of the prior, with alpha 1. Keeps the reports.
  std::shared_ptr<merged_vectors> merge_for_prior(std::size_t i) {
    auto tau = merge(with_settings(prior_methods()[i].first, "alpha=1"));
    if (reports_.empty()) reports_ = last_;
    for (std::size_t r = 0; r < last_.size(); ++r)
      if (last_[r].layer.fallback != reports_[r].layer.fallback)
        reports_[r].layer.fallback = fallback_rule::some;
    return tau;
  }

  /// The reports of the methods of the prior as one.
  std::vector<parameter_report> reports(bool tables_averaged) const {
    auto list = reports_;
    for (auto& r : list)
      if (tables_averaged && is_token_table(set_, set_.tensor_of(r.name)))
        r.layer.fallback = fallback_rule::average;
    return list;
  }

 private:
  checkpoint_set& set_;
  context<host>& c_;
  without_statistics nothing_;
  merge_knowledge knowledge_;
  std::vector<parameter_report> last_, reports_;
};

chosen_merge automatic(const merge_plan& plan, checkpoint_set& set, const network& net,
                       const task_outputs& outputs, context<host>& c, const executor& threads) {
  prior_maker maker(set, c);
  const prior_merges merges{set, [&](std::size_t i) { return maker.merge_for_prior(i); },
                            [&] { return std::move(*maker.merge("average")); }};
  const auto grid = in_units(alpha_grid(), alpha_unit::spectrum, std::ssize(set.tasks()));
  auto merged = merge_automatically(net, outputs.tasks(), merges, grid, plan.automatic, threads);
  chosen_merge chosen;
  chosen.reports = maker.reports(merged.tables_averaged);
  chosen.account = account_of(merged, set.tasks());
  chosen.refitted.insert(merged.refitted.begin(), merged.refitted.end());
  chosen.tau = std::make_shared<merged_vectors>(std::move(merged.tau));
  return chosen;
}

/// The plan's method at each of its candidate settings, and at each alpha if alpha is open.
chosen_merge with_settings_by_outputs(const merge_request& request, const merge_plan& plan,
                                      checkpoint_set& set, const network& net,
                                      const task_outputs& outputs, merge_inputs& inputs,
                                      context<host>& c, const executor& threads) {
  const auto& entry = method_entry_of(request.method);
  const output_judge judge(net, outputs.tasks(), threads);
  std::vector<tried_setting> tried;
  chosen_merge chosen;
  double least = 0;
  for (const auto& text : plan.candidates) {
    any_method one = parse_method(text, plan.cat);
    std::vector<double> alphas = {1};
    if (double* const alpha = one.find_alpha()) {
      if (request.alpha) *alpha = *request.alpha;
      alphas = {*alpha};
      *alpha = 1;
    }
    if (plan.alpha_by_outputs) alphas = in_units(alpha_grid(), entry.unit, std::ssize(set.tasks()));
    auto fixed = averaged_token_tables(one, set);
    fixed.merge(running_statistics_of(set));
    const auto tau = std::make_shared<merged_vectors>(set, std::move(fixed));
    auto reports = merge_stream(tau_of{plan.composed(set, one)}, set, inputs.knowledge(), *tau, c);
    auto curve = curve_over_alpha(judge, *tau, alphas, threads);
    const double distance = curve.mean(curve.best());
    if (tried.empty() || distance < least) {
      least = distance;
      chosen.alpha = curve.choice();
      chosen.tau = tau;
      chosen.reports = std::move(reports);
      if (double* const alpha = one.find_alpha()) *alpha = chosen.alpha;
      chosen.settled = std::move(one);
    }
    tried.push_back({text, std::move(curve)});
  }
  chosen.account = account_of(tried, entry.label, judge.counts(), set.tasks());
  return chosen;
}

}  // namespace

any_method chosen_merge::method(const checkpoint_set& set) const {
  auto infos = std::make_shared<std::map<std::string, parameter_info>>();
  for (const auto& group : set.groups())
    for (const auto& p : group) infos->emplace(p.name, p);
  return any_method(replayed{tau, alpha, std::move(infos)});
}

std::vector<parameter_report> chosen_merge::completed(std::vector<parameter_report> written) const {
  for (std::size_t i = 0; i < written.size(); ++i) {
    layer_report known = reports[i].layer;
    known.drift = std::move(written[i].layer.drift);
    known.drift_of_base = std::move(written[i].layer.drift_of_base);
    written[i].layer = std::move(known);
    written[i].missing_statistics = reports[i].missing_statistics;
    written[i].missing_importance = reports[i].missing_importance;
  }
  return written;
}

std::optional<chosen_merge> choose_by_outputs(const merge_request& request, const merge_plan& plan,
                                              checkpoint_set& set, merge_inputs& inputs,
                                              context<host>& c, pool& threads) {
  const network& net = inputs.opened_network();
  const task_outputs outputs(request, set, net, threads.runner());
  const auto told = [&](chosen_merge chosen) {
    auto& warnings = chosen.account.warnings;
    warnings.insert(warnings.end(), outputs.notes().begin(), outputs.notes().end());
    return chosen;
  };
  if (plan.is_automatic) return told(automatic(plan, set, net, outputs, c, threads.runner()));
  if (outputs.have_heads())
    return told(
        with_settings_by_outputs(request, plan, set, net, outputs, inputs, c, threads.runner()));
  if (plan.demands_outputs)
    throw option_error(request.alpha_by_outputs ? "--alpha" : "--method",
                       "auto compares outputs with the experts': give --head for every expert");
  return std::nullopt;
}

}  // namespace catmerge::harness
