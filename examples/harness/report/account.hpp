// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/merge/stream.hpp>
#include <cmath>
#include <harness/checkpoints/network_names.hpp>
#include <harness/checkpoints/tensor_windows.hpp>
#include <harness/report/report_json.hpp>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// The account of a merge: the rule and reason of each parameter, a summary, warnings.
namespace catmerge::harness {

/// The facts about a merge that the reports of its parameters lack.
struct merge_facts {
  const network_names& set;
  bool uses_features = false;        ///< the method uses features
  std::set<std::string> refitted{};  ///< tensors that were refitted around what the method merged
  bool wants_angles = false;         ///< removal bases were to be measured on other draws of rows
  bool whole = true;                 ///< the set is a whole network, whose size tells something
};

/// The rule that merged a parameter, in words that follow "merged by".
inline std::string rule_of(const parameter_report& report, const merge_facts& facts) {
  if (facts.set.class_of(facts.set.tensor_of(report.name)).kind ==
      model::parameter_kind::running_statistics)
    return "the mean of the experts";
  if (facts.refitted.contains(facts.set.tensor_of(report.name)))
    return "a refit around what the method merged";
  if (report.layer.fallback != fallback_rule::none) return name_of(report.layer.fallback);
  return report.layer.trim ? "the method's rule, on trimmed task vectors" : "the method's rule";
}

/// True if a parameter fell back because no rule knows its name. (Without features a fallback other
/// than the base's values does not count: it follows from the shape, not from the name.)
inline bool is_unknown(const parameter_report& report, const merge_facts& facts) {
  const auto how = report.layer.fallback;
  return facts.set.class_of(facts.set.tensor_of(report.name)).kind ==
             model::parameter_kind::unknown &&
         (how == fallback_rule::base || (how != fallback_rule::none && facts.uses_features));
}

/// True if a parameter fell back as a stack of matrices of unknown layout.
inline bool is_stack_of_unknown_layout(const parameter_report& report, const merge_facts& facts) {
  const auto& c = facts.set.class_of(facts.set.tensor_of(report.name));
  return c.stacked && !comes_apart(c) && report.layer.fallback != fallback_rule::none;
}

/// The reason why a parameter was not merged by the method's own rule; empty if it was.
inline std::string reason_of(const parameter_report& report, const merge_facts& facts) {
  const auto& c = facts.set.class_of(facts.set.tensor_of(report.name));
  if (c.kind == model::parameter_kind::running_statistics) return "statistics of a normalisation";
  if (report.layer.fallback == fallback_rule::none ||
      facts.refitted.contains(facts.set.tensor_of(report.name)))
    return {};
  if (report.layer.fallback == fallback_rule::average)
    return "token table: the mean, whatever alpha";
  if (report.missing_importance) return "there are no importances of it";
  if (report.missing_statistics) return "there are no features of it";
  if (is_unknown(report, facts)) return "its name is in no rule";
  if (is_stack_of_unknown_layout(report, facts)) return "the layout of the stack is not known";
  if (c.kind == model::parameter_kind::unknown) return "the method's rule is not for its shape";
  if (c.kind == model::parameter_kind::embedding || c.kind == model::parameter_kind::token_table)
    return "the method's rule is not for embeddings, heads and tables";
  if (facts.uses_features && !c.trim) return "'" + c.rule + "' leaves it alone";
  return "the method's rule is not for " + std::string(name_of(c.kind)) + "s";
}

/// The mean of the angles of removal bases (cat/resampling.hpp), if there are any.
inline std::optional<double> mean_angle_of(std::span<const parameter_report> reports) {
  double sum = 0, count = 0;
  for (const auto& r : reports)
    if (r.layer.trim)
      for (const auto& p : r.layer.trim->protections)
        if (p.angle) sum += *p.angle, ++count;
  if (count == 0) return std::nullopt;
  return sum / count;
}

/// "148 by the method's rule; 49 by the sum of the task vectors": the number of parameters by rule.
inline std::string summary_of(const std::vector<parameter_report>& reports,
                              const merge_facts& facts) {
  std::map<std::string, std::map<std::string, std::size_t>> counts;  // by rule, by reason
  std::vector<std::string> rules;                                    // in the order of the merge
  for (const auto& r : reports) {
    const auto rule = rule_of(r, facts);
    if (!counts.contains(rule)) rules.push_back(rule);
    ++counts[rule][reason_of(r, facts)];
  }
  std::string text = std::to_string(reports.size()) +
                     (reports.size() == 1 ? " parameter merged" : " parameters merged");
  for (std::size_t i = 0; i < rules.size(); ++i) {
    std::size_t all = 0;
    std::string why;
    for (const auto& [reason, count] : counts[rules[i]]) {
      all += count;
      if (!reason.empty()) why += (why.empty() ? "" : ", ") + std::to_string(count) + ": " + reason;
    }
    text += (i == 0 ? ": " : "; ") + std::to_string(all) + " by " + rules[i];
    if (!why.empty()) text += " (" + why + ")";
  }
  std::map<std::string, std::size_t> copied;
  for (const auto& name : facts.set.fixed()) ++copied[facts.set.why_copied(name)];
  if (!facts.set.fixed().empty()) {
    text += ". " + std::to_string(facts.set.fixed().size()) + " copied from the base (";
    bool first = true;
    for (const auto& [why, count] : copied) {
      text += (first ? "" : ", ") + std::to_string(count) + ": " + why;
      first = false;
    }
    text += ")";
  }
  if (const auto angle = mean_angle_of(reports))
    text += ". With other draws of the samples' rows the removed directions turn by " +
            std::to_string(std::lround(*angle)) + " degrees on average (90: none is the same)";
  return text + ".";
}

/// The sizes of task vectors over all merged parameters: ||T_k||, and in shares of ||theta_0||.
struct task_sizes {
  double base = 0;
  std::vector<double> norms, relative;
};

inline task_sizes sizes_of(const std::vector<parameter_report>& reports, std::size_t tasks) {
  task_sizes sizes;
  sizes.norms.assign(tasks, 0);
  for (const auto& r : reports) {
    sizes.base += r.sizes.of_base * r.sizes.of_base;
    for (std::size_t k = 0; k < std::min(tasks, r.sizes.of_vectors.size()); ++k)
      sizes.norms[k] += r.sizes.of_vectors[k] * r.sizes.of_vectors[k];
  }
  sizes.base = std::sqrt(sizes.base);
  for (double& norm : sizes.norms) {
    norm = std::sqrt(norm);
    sizes.relative.push_back(sizes.base > 0 ? norm / sizes.base : 0);
  }
  return sizes;
}

/// Sentences about task vectors that are unusual for copies of one network.
inline std::vector<std::string> size_warnings(const task_sizes& sizes,
                                              const std::vector<std::string>& tasks) {
  // Two networks trained apart differ by sqrt(2) times the size of one, and by 1 after a common
  // initialisation. Fine-tuning moves a network by hundredths of it: 0.02 to 0.09 in the families
  // of examples/, whose small networks learn a new alphabet or language.
  constexpr double near_the_base = 0.5;
  // In these families all tasks have one recipe, and sizes differ by at most a factor of two.
  constexpr double far_beyond = 5;
  std::vector<std::string> warnings;
  const auto hundredths = [](double x) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2g", x);
    return std::string(text);
  };
  for (std::size_t k = 0; k < tasks.size(); ++k) {
    std::vector<double> others;
    for (std::size_t i = 0; i < tasks.size(); ++i)
      if (i != k) others.push_back(sizes.relative[i]);
    std::sort(others.begin(), others.end());
    const double median = others.empty() ? 0 : others[others.size() / 2];
    const std::string size = "the task vector of '" + tasks[k] + "' is " +
                             hundredths(sizes.relative[k]) + " times the size of the base";
    if (sizes.relative[k] >= near_the_base)
      warnings.push_back(size + ": was it fine-tuned from this base?");
    else if (median > 0 && sizes.relative[k] > far_beyond * median)
      warnings.push_back(size + ", that of the others " + hundredths(median) +
                         ": it will outweigh them (--weight scales it)");
    else if (sizes.norms[k] == 0 && sizes.base > 0)
      warnings.push_back("the task vector of '" + tasks[k] +
                         "' is zero: the expert equals the base in all merged tensors");
  }
  return warnings;
}

/// "3 things: a b c", at most ten names.
inline std::string listed(const std::string& what, const std::vector<std::string>& names) {
  std::string text = std::to_string(names.size()) + " " + what + ":";
  for (std::size_t i = 0; i < std::min<std::size_t>(10, names.size()); ++i) text += " " + names[i];
  return names.size() > 10 ? text + " ..." : text;
}

/// The warnings of a merge, a sentence each.
inline std::vector<std::string> warnings_of(const std::vector<parameter_report>& reports,
                                            const merge_facts& facts) {
  std::vector<std::string> warnings = facts.set.warnings();
  const auto warn = [&](const std::string& what, const std::vector<std::string>& names) {
    if (!names.empty()) warnings.push_back(listed(what, names));
  };
  // By the rule of the fallback.
  std::map<std::string, std::vector<std::string>> missing, unimportant, unknown, stacks;
  std::vector<std::string> emptied, running, without_angle;
  for (const auto& r : reports) {
    const auto kind = facts.set.class_of(facts.set.tensor_of(r.name)).kind;
    const std::string instead = name_of(r.layer.fallback);
    if (r.missing_statistics)
      missing[instead].push_back(r.name);
    else if (r.missing_importance)
      unimportant[instead].push_back(r.name);
    else if (is_stack_of_unknown_layout(r, facts))
      stacks[instead].push_back(r.name);
    else if (is_unknown(r, facts))
      unknown[instead].push_back(r.name);
    if (kind == model::parameter_kind::running_statistics) running.push_back(r.name);
    if (facts.wants_angles && r.layer.trim && r.layer.kind == layer_kind::linear &&
        std::any_of(r.layer.trim->protections.begin(), r.layer.trim->protections.end(),
                    [](const auto& p) { return !p.eigenvalues.empty(); }) &&
        !mean_angle_of({&r, 1}))
      without_angle.push_back(r.name);
    if (r.layer.trim)
      for (const index_t i : r.layer.trim->emptied)
        emptied.push_back(r.name + " of '" + facts.set.tasks()[static_cast<std::size_t>(i)] + "'");
  }
  warn("tensors are missing from experts and replaced by the base's", facts.set.absent());
  warn("tensors of experts have more or fewer rows than the base's: the common ones were merged",
       facts.set.resized());
  for (const auto& [instead, names] : missing)
    warn("linear or scale parameters have no features and were merged by " + instead, names);
  for (const auto& [instead, names] : unimportant)
    warn("parameters have no importances and were merged by " + instead, names);
  for (const auto& [instead, names] : unknown)
    warn("parameters have names that no rule knows and were merged by " + instead +
             " (--rule classifies them)",
         names);
  for (const auto& [instead, names] : stacks)
    warn("stacks of matrices have a layout that is not known and were merged by " + instead +
             " (--rule 'PATTERN=linear,stacked' says experts x d_out x d_in, linear,in-out,stacked "
             "experts x d_in x d_out)",
         names);
  warn("task vectors were trimmed to zero", emptied);
  warn(
      "parameters have more rows of features than inputs, kept as a Gram matrix, from which no "
      "rows "
      "can be drawn: resamples says nothing about them (--sample-count takes fewer samples)",
      without_angle);
  if (const auto angle = mean_angle_of(reports); angle && *angle > 45)
    warnings.emplace_back(
        "the samples do not determine the removed directions: with other draws of their rows these "
        "turn by more than 45 degrees on average; more samples make them steadier");
  warn(
      "running statistics of normalisations are the mean of the experts': run some batches "
      "through the merged network to measure them anew",
      running);
  if (!facts.whole) return warnings;
  for (auto& sentence :
       size_warnings(sizes_of(reports, facts.set.tasks().size()), facts.set.tasks()))
    warnings.push_back(std::move(sentence));
  return warnings;
}

/// Throws if the method left every parameter as in the base.
inline void require_change(const std::vector<parameter_report>& reports,
                           const std::string& method) {
  for (const auto& r : reports)
    if (r.layer.fallback != fallback_rule::base) return;
  throw error("--method " + method + " left every parameter as the base has it: its rule is for " +
              "linear weights, and none of the " + std::to_string(reports.size()) +
              " parameters is one (--rule 'PATTERN=linear' marks them; `catmerge inspect` "
              "shows the kind of each)");
}

}  // namespace catmerge::harness
