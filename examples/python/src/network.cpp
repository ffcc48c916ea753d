// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <catmerge/merge/drift.hpp>
#include <chrono>
#include <harness/checkpoints/checkpoint_rules.hpp>
#include <harness/features/input_statistics.hpp>
#include <harness/merge/merge_progress.hpp>
#include <harness/merge/merge_report.hpp>
#include <harness/merge/plan.hpp>
#include <harness/report/report_files.hpp>

#include "bindings.hpp"
#include "network_knowledge.hpp"
#include "network_output.hpp"
#include "observed.hpp"
#include "session.hpp"
#include "words.hpp"

namespace catmerge::python {

namespace {

model::name_rules rules_of(const std::string& model_type, const harness::merge_request& request) {
  model::name_rules rules = harness::rules_of(model_type);
  harness::add_rules(request.rules, rules);
  return rules;
}

/// Adds a sentence per task with statistics that no parameter used.
void add_unused(const harness::merge_facts& facts, const network_knowledge& knowledge,
                std::vector<std::string>& warnings) {
  const auto unused = knowledge.unused();
  for (std::size_t k = 0; k < unused.size(); ++k)
    for (auto& text : harness::unused_sentence("statistics", facts.set.tasks()[k], unused[k]))
      warnings.push_back(std::move(text));
}

/// (merged, summary, warnings, report as JSON or None). configs: per expert the text of its
/// adapter_config.json, or None for a whole network. words: the options, as of the program.
/// is_part: the networks are parts, so that some statistics are of others, and a part without any
/// change is no sign of an error.
nb::tuple merge_network(nb::handle base, nb::list experts,
                        const std::vector<std::optional<std::string>>& configs,
                        const std::vector<std::string>& tasks, nb::list statistics,
                        nb::list importance, const std::string& model_type,
                        std::optional<bool> tied, bool is_part,
                        const std::vector<std::string>& words, nb::object progress) {
  const auto began = std::chrono::steady_clock::now();
  const auto request = request_of(words);
  const harness::merge_plan plan(request);
  std::vector<network_expert> networks;
  for (std::size_t k = 0; k < tasks.size(); ++k) {
    const std::string name = "expert '" + tasks[k] + "'";
    if (configs[k])
      networks.emplace_back(network_adapter(*configs[k], experts[k], name));
    else
      networks.emplace_back(network_file(experts[k], name));
  }
  network_set set(network_file(base, "the base"), std::move(networks), tasks,
                  rules_of(model_type, request), plan.policy, tied);
  for (const auto& text : request.rules)
    harness::name_patterns("rules '" + text + "'",
                           std::vector{harness::rule_words::parse(text).pattern})
        .require_use(set.base_file().names());
  for (const auto& rule : plan.overrides) rule.require_use(set);
  for (const auto& other : plan.others) other.require_use(set);
  network_knowledge knowledge(set, plan.uses_statistics ? statistics : nb::list(),
                              plan.uses_importance ? importance : nb::list());
  network_output output(set, request.out_dtype);
  const bool with_report = !request.reports.empty();

  std::vector<parameter_report> reports;
  const harness::any_method method = plan.composed(set);
  {
    const observed watch(progress);
    const nb::gil_scoped_release unlocked;
    session s(request.threads);
    const harness::merge_progress seen(request.how, set);
    reports = with_report ? merge_stream(with_drift{method}, set, knowledge, output, s.c(), seen)
                          : merge_stream(method, set, knowledge, output, s.c(), seen);
    if (!is_part) harness::require_change(reports, request.method);
    reports = harness::whole_tensors(std::move(reports), set);
  }
  harness::merge_facts facts{set, method.needs_statistics(layer_kind::linear)};
  facts.wants_angles = plan.measures_bases;
  facts.whole = !is_part;
  auto warnings = harness::warnings_of(reports, facts);
  if (!is_part) add_unused(facts, knowledge, warnings);
  warnings.insert(warnings.begin(), plan.notes.begin(), plan.notes.end());
  nb::object json = nb::none();
  if (with_report) {
    harness::json report =
        harness::merge_report(request, plan, plan.method, facts, reports, warnings);
    report["run"] = harness::run_of(began, request.threads);
    json = nb::str(harness::text_of(report).c_str());
  }
  return nb::make_tuple(output.finished(), harness::summary_of(reports, facts), warnings, json);
}

}  // namespace

void bind_network(nb::module_& m) {
  m.def("merge", &merge_network, nb::arg("base"), nb::arg("experts"), nb::arg("configs"),
        nb::arg("tasks"), nb::arg("statistics"), nb::arg("importance"), nb::arg("model_type"),
        nb::arg("tied").none(), nb::arg("is_part"), nb::arg("words"), nb::arg("progress").none());
}

}  // namespace catmerge::python
