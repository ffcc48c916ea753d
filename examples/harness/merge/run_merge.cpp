// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <catmerge/merge/compose.hpp>
#include <catmerge/merge/drift.hpp>
#include <chrono>
#include <harness/adapters/merge_adapters.hpp>
#include <harness/checkpoints/checkpoint_output.hpp>
#include <harness/merge/inputs.hpp>
#include <harness/merge/merge_progress.hpp>
#include <harness/merge/merge_report.hpp>
#include <harness/merge/outputs_choice.hpp>
#include <harness/merge/run_merge.hpp>
#include <harness/report/account.hpp>
#include <harness/report/page/merge_page.hpp>
#include <harness/report/report_files.hpp>
#include <harness/report/tell.hpp>
#include <iterator>
#include <optional>

namespace catmerge::harness {

namespace {

const char* const what_samples_bring =
    "the alphas of --method auto were not chosen for these networks, but are constants: some "
    "unlabeled samples of each task (--samples, --head) choose them, and refit the merged layers "
    "to the experts";

const char* const what_heads_bring =
    "alpha was not chosen for these networks: samples with --head, for every expert, choose it";

/// merge_stream, with the drift of outputs if the request has reports.
std::vector<parameter_report> merge_all(const any_method& method, bool with_report,
                                        checkpoint_set& set, merge_knowledge& knowledge,
                                        checkpoint_output& output, context<host>& c,
                                        const merge_progress& seen) {
  try {
    return with_report ? merge_stream(with_drift{method}, set, knowledge, output, c, seen)
                       : merge_stream(method, set, knowledge, output, c, seen);
  } catch (const not_finite_error& problem) {
    throw error(std::string(problem.what()) +
                " (--exclude NAME, or --rule 'NAME=fixed', keeps the base's bytes)");
  }
}

}  // namespace

merge_result run_merge(const merge_request& request) {
  if (request.adapter) return merge_adapters(request);
  require_network_options(request);
  // Errors in the request come before any file is read.
  const merge_plan plan(request);
  require_outputs_apart(request);
  tell(plan.notes, request.how);

  const auto began = std::chrono::steady_clock::now();
  report_files files("--report", request.reports, plan.output.target);
  io::checkpoint base(request.base);
  const auto rules = rules_for(request, base);
  checkpoint_set set(std::move(base), request.experts, rules, plan.policy);
  require_all_used(request, plan, set);

  pool threads(request.threads);
  context<host> c(threads.runner());
  merge_inputs inputs(request, plan, set, threads);
  checkpoint_output output(request.output, set, plan.output);
  std::optional<task_heads_output> heads;
  if (!request.heads_output.empty())
    heads.emplace(request.heads_output, heads_of_experts(set), plan.output.target);

  std::optional<chosen_merge> chosen;
  if (plan.uses_outputs) chosen = choose_by_outputs(request, plan, set, inputs, c, threads);
  const any_method method = plan.composed(set);
  const merge_progress seen(request.how, set);
  auto reports = merge_all(chosen ? chosen->method(set) : method, !request.reports.empty(), set,
                           inputs.knowledge(), output, c, seen);
  if (chosen) reports = chosen->completed(std::move(reports));
  output.finish();
  require_change(reports, request.method);
  reports = whole_tensors(std::move(reports), set);
  seen.clear();

  merge_facts facts{set, method.needs_statistics(layer_kind::linear)};
  if (chosen) facts.refitted = chosen->refitted;
  facts.wants_angles = plan.measures_bases;
  auto warnings = warnings_of(reports, facts);
  for (auto& sentence : inputs.knowledge().notes()) warnings.push_back(std::move(sentence));
  if (chosen)
    for (auto& sentence : chosen->account.warnings)
      if (std::find(warnings.begin(), warnings.end(), sentence) == warnings.end())
        warnings.push_back(std::move(sentence));
  if (plan.is_automatic && !chosen) warnings.emplace_back(what_samples_bring);
  if (plan.alpha_by_outputs && !chosen) warnings.emplace_back(what_heads_bring);
  tell(warnings, request.how);
  warnings.insert(warnings.begin(), plan.notes.begin(), plan.notes.end());
  if (!request.reports.empty()) {
    const any_method& settled = chosen && chosen->settled ? *chosen->settled : plan.method;
    json report = merge_report(request, plan, settled, facts, reports, warnings);
    if (chosen) {
      report["choice"] = chosen->account.numbers;
      report["choice"]["summary"] = chosen->account.sentences;
    }
    report["run"] = run_of(began, request.threads);
    files.write(report, merge_page);
  }
  output.commit();
  if (heads) heads->commit();
  files.commit();
  auto summary = summary_of(reports, facts);
  if (chosen) summary += '\n' + chosen->account.sentences;
  return {std::move(summary), std::move(warnings)};
}

}  // namespace catmerge::harness
