// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <harness/features/expert_weights.hpp>
#include <harness/merge/outputs_choice.hpp>
#include <harness/methods/running_statistics.hpp>
#include <harness/methods/token_tables.hpp>
#include <harness/system/option_error.hpp>
#include <utility>

namespace catmerge::harness {

namespace {

/// The grid of alphas, in the unit of a sum of task vectors (catalogue.hpp).
const std::vector<double> grid = {0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3,
                                  0.35,  0.4,  0.5, 0.6,  0.8, 1};

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

std::set<std::string> running_statistics_of(const checkpoint_set& set) {
  std::set<std::string> names;
  for (const auto& name : set.names())
    if (set.class_of(name).kind == model::parameter_kind::running_statistics) names.insert(name);
  return names;
}

/// "0.61".
std::string short_number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", x);
  return text;
}

double mean_of_tasks(const std::vector<double>& distances) {
  double sum = 0;
  for (const double d : distances) sum += d / static_cast<double>(distances.size());
  return sum;
}

/// The path of a task's file; empty if there is none.
std::string path_of(const std::vector<task_file>& files, const std::string& task) {
  for (const auto& file : files)
    if (file.task == task) return file.path;
  return {};
}

/// The files of the tasks' heads: those of --head, or the experts if each holds a head. Empty if
/// there are none.
std::vector<std::string> heads_of(const merge_request& request, const checkpoint_set& set) {
  std::vector<std::string> paths;
  for (index_t k = 0; k < std::ssize(set.tasks()); ++k) {
    const auto& task = set.tasks()[static_cast<std::size_t>(k)];
    if (!request.heads.empty()) {
      paths.push_back(path_of(request.heads, task));
      continue;
    }
    const auto& expert = set.expert_file(k);
    if (expert.find("classifier.weight") == nullptr &&
        expert.find("classifier.out_proj.weight") == nullptr)
      return {};
    paths.push_back(path_of(request.experts, task));
  }
  return paths;
}

/// The heads, experts and samples of all tasks.
class task_outputs {
 public:
  task_outputs(const merge_request& request, const checkpoint_set& set, const network& net) {
    const auto heads = heads_of(request, set);
    for (std::size_t k = 0; k < set.tasks().size(); ++k) {
      if (!heads.empty())
        heads_.push_back(std::make_unique<task_head>(heads[k], net.output(), net.output_width()));
      experts_.push_back(std::make_unique<expert_weights>(set, static_cast<index_t>(k), 1));
      tasks_.push_back({*experts_.back(), heads.empty() ? nullptr : heads_.back().get(), {}});
      const std::string file = path_of(request.samples, set.tasks()[k]);
      const auto samples = net.open_samples(file);
      const index_t count = sample_count(request, samples->size(), file);
      for (index_t i = 0; i < count; ++i) tasks_.back().samples.push_back(samples->load(i, 1));
    }
  }

  const std::vector<calibration_task>& tasks() const { return tasks_; }
  bool have_heads() const { return !heads_.empty(); }

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
};

/// The merged vectors of a method with an alpha of 1, and the reports of its merge. fixed: the
/// tensors to which no alpha applies.
std::pair<std::shared_ptr<merged_vectors>, std::vector<parameter_report>> in_memory(
    const any_method& method, std::set<std::string> fixed, checkpoint_set& set,
    merge_knowledge& knowledge, context<host>& c) {
  auto tau = std::make_shared<merged_vectors>(set, std::move(fixed));
  auto reports = merge_stream(tau_of{method}, set, knowledge, *tau, c);
  return {std::move(tau), std::move(reports)};
}

json to_json(const distance_curve& curve, const std::vector<std::string>& tasks) {
  json j;
  j["values"] = curve.settings;
  j["chosen"] = curve.choice();
  std::vector<double> means;
  for (std::size_t i = 0; i < curve.settings.size(); ++i) means.push_back(curve.mean(i));
  j["distance"] = means;
  for (std::size_t k = 0; k < tasks.size(); ++k) {
    std::vector<double> own;
    for (const auto& per_task : curve.distances) own.push_back(per_task[k]);
    j["of_tasks"].push_back({{"task", tasks[k]}, {"distance", own}});
  }
  return j;
}

void warn_at_edge(const distance_curve& curve, const std::string& what,
                  std::vector<std::string>& warnings) {
  if (curve.at_edge())
    warnings.push_back(what + ": " + shortest(curve.choice()) +
                       " is the smallest or largest value that was tried");
}

std::vector<double> in_unit(double factor) {
  std::vector<double> alphas;
  for (const double a : grid) alphas.push_back(std::round(a * factor * 1e12) / 1e12);
  return alphas;
}

chosen_merge automatic(const merge_plan& plan, checkpoint_set& set, const network& net,
                       const task_outputs& outputs, context<host>& c, const executor& threads) {
  chosen_merge chosen;
  without_statistics nothing;
  merge_knowledge no_knowledge(nothing, {}, set);
  std::vector<std::shared_ptr<merged_vectors>> taus;
  prior_merges merges;
  for (const auto& [name, alpha] : prior_methods()) {
    const auto method = parse_method(with_settings(name, "alpha=1"));
    auto [tau, reports] = in_memory(with_running_statistics(method, set),
                                    running_statistics_of(set), set, no_knowledge, c);
    merges.taus.push_back(tau.get());
    taus.push_back(std::move(tau));
    if (chosen.reports.empty()) {
      chosen.reports = std::move(reports);
      continue;
    }
    for (std::size_t i = 0; i < reports.size(); ++i)
      if (reports[i].layer.fallback != chosen.reports[i].layer.fallback)
        chosen.reports[i].layer.fallback = fallback_rule::some;
  }
  const auto is_table = [&](const std::string& name) { return is_token_table(set, name); };
  auto tables = in_memory(any_method(weight_average_method{}), {}, set, no_knowledge, c).first;
  tables->erase_if([&](const auto& name) { return !is_table(name); });
  if (!tables->empty()) merges.averaged_tables = tables.get();
  auto merged =
      merge_automatically(net, outputs.tasks(), merges, in_unit(3), plan.automatic, threads);
  if (merged.tables_averaged)
    for (auto& r : chosen.reports)
      if (is_table(set.tensor_of(r.name))) r.layer.fallback = fallback_rule::average;

  json& j = chosen.choice;
  j["samples"] = merged.samples;
  std::string alphas;
  for (std::size_t i = 0; i < merged.curves.size(); ++i) {
    const std::string& label = method_entry_of(prior_methods()[i].first).label;
    json curve = to_json(merged.curves[i], set.tasks());
    curve["method"] = label;
    j["alpha"].push_back(std::move(curve));
    warn_at_edge(merged.curves[i], "the alpha of " + label, chosen.warnings);
  }
  for (std::size_t i = 0; i < merged.alphas.size(); ++i)
    alphas += (i == 0                          ? ""
               : i + 1 == merged.alphas.size() ? " and "
                                               : ", ") +
              method_entry_of(prior_methods()[i].first).label + " (" + shortest(merged.alphas[i]) +
              ")";
  if (!tables->empty()) j["token_tables"] = merged.tables_averaged ? "mean" : "matrix";
  if (merged.gain) j["gain"] = *merged.gain;
  if (merged.gain_curve) j["gain_by_cross_fitting"] = to_json(*merged.gain_curve, set.tasks());
  if (outputs.have_heads())
    j["distance"] = {
        {"base", merged.of_base}, {"prior", merged.of_prior}, {"merged", merged.of_result}};
  else
    j["alpha_not_chosen"] = merged.alphas;
  j["refitted"] = merged.refitted;

  const index_t fewest = *std::min_element(merged.samples.begin(), merged.samples.end());
  const double base = mean_of_tasks(merged.of_base), prior = mean_of_tasks(merged.of_prior),
               result = mean_of_tasks(merged.of_result);
  std::string& text = chosen.sentences;
  text = "The prior is the mean of " + alphas;
  text += outputs.have_heads()
              ? ", each at the alpha whose outputs are closest to the experts' own on " +
                    std::to_string(fewest) + (fewest == 1 ? " sample" : " samples") + " a task. "
              : ", with alphas that were not chosen. ";
  if (!merged.of_other.empty())
    text += std::string("Tables of tokens are ") +
            (merged.tables_averaged ? "the mean of the experts" : "merged as matrices") +
            ", which is closer to the experts' outputs (" +
            short_number(mean_of_tasks(merged.of_prior)) + " for " +
            short_number(mean_of_tasks(merged.of_other)) + "). ";
  if (merged.gain) {
    text += std::to_string(merged.refitted.size()) + " linear layers were refitted around " +
            shortest(*merged.gain) + " times the prior";
    text += merged.gain_curve ? ", a factor that was chosen on left-out samples. "
                              : std::string(plan.automatic.gain ? " (gain). " : ". ");
  } else {
    text += "Nothing was refitted. ";
  }
  if (outputs.have_heads())
    text += "Distance of the outputs from the experts' (0: the same): " + short_number(base) +
            " for the base, " + short_number(prior) + " for the prior" +
            (merged.gain ? ", " + short_number(result) + " for the merged network." : ".");
  if (!outputs.have_heads())
    chosen.warnings.emplace_back(
        "outputs were not compared with the experts', because there are no heads: --head NAME=H, "
        "for every expert, lets the samples choose the alphas");
  if (fewest < automatic_options::enough)
    chosen.warnings.push_back(
        "with " + std::to_string(fewest) + (fewest == 1 ? " sample" : " samples") +
        " a task the merge depends on which samples they are: " +
        std::to_string(automatic_options::enough) + " or more make it steady");
  for (std::size_t k = 0; k < merged.of_result.size(); ++k)
    if (merged.of_result[k] > merged.of_base[k])
      chosen.warnings.push_back("the merged network's outputs for '" + set.tasks()[k] +
                                "' are farther from the expert's than the base's are (" +
                                short_number(merged.of_result[k]) + " for " +
                                short_number(merged.of_base[k]) + ")");
  chosen.refitted.insert(merged.refitted.begin(), merged.refitted.end());
  chosen.tau = std::make_shared<merged_vectors>(std::move(merged.tau));
  return chosen;
}

chosen_merge with_alpha(const merge_request& request, const merge_plan& plan, checkpoint_set& set,
                        const network& net, const task_outputs& outputs, merge_inputs& inputs,
                        context<host>& c, const executor& threads) {
  chosen_merge chosen;
  any_method unscaled = plan.method;
  *unscaled.find_alpha() = 1;
  auto fixed = averaged_token_tables(unscaled, set);
  fixed.merge(running_statistics_of(set));
  auto [tau, reports] =
      in_memory(plan.composed(set, unscaled), std::move(fixed), set, inputs.knowledge(), c);
  chosen.reports = std::move(reports);
  const auto unit = method_entry_of(request.method).unit;
  const double factor = unit == alpha_unit::mean       ? static_cast<double>(set.tasks().size())
                        : unit == alpha_unit::spectrum ? 3
                                                       : 1;
  const output_judge judge(net, outputs.tasks(), threads);
  const auto curve = curve_over_alpha(judge, *tau, in_unit(factor), threads);
  chosen.alpha = curve.choice();
  chosen.tau = std::move(tau);
  chosen.choice["samples"] = judge.counts();
  json j = to_json(curve, set.tasks());
  j["method"] = method_entry_of(request.method).label;
  chosen.choice["alpha"].push_back(std::move(j));
  chosen.sentences = "Alpha is " + shortest(chosen.alpha) +
                     ": there the outputs are closest to the experts' own (distance " +
                     short_number(curve.mean(curve.best())) + ").";
  warn_at_edge(curve, "alpha", chosen.warnings);
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
  const task_outputs outputs(request, set, net);
  if (plan.is_automatic) return automatic(plan, set, net, outputs, c, threads.runner());
  if (outputs.have_heads())
    return with_alpha(request, plan, set, net, outputs, inputs, c, threads.runner());
  if (request.alpha_by_outputs)
    throw option_error("--alpha",
                       "auto compares outputs with the experts': give --head for every expert");
  return std::nullopt;
}

}  // namespace catmerge::harness
