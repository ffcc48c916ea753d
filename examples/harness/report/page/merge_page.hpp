// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/merge_choice.hpp>
#include <harness/report/page/merge_offenders.hpp>
#include <harness/report/page/merge_tasks.hpp>
#include <harness/report/page/merge_warnings.hpp>
#include <harness/report/page/run_facts.hpp>

/// The page about one merge.
namespace catmerge::harness {

namespace page {

/// The method's label. Older reports have its name alone.
inline std::string method_of(const merge_data& data) {
  const std::string label = text(member(member(*data.report, "catmerge"), "label"));
  if (!label.empty()) return display_name(label, 60);
  // The list of settings holds the settings of "ties:density=0.1".
  const std::string whole = text(member(data.settings(), "method"));
  const std::string name = whole.substr(0, whole.find(':'));
  return name.empty() ? "a method that the report does not name" : display_name(name, 60);
}

inline std::string merge_header(const merge_data& data) {
  const auto trimmed = data.chosen([](const parameter& p) { return p.trimmed; }).size();
  facts f;
  f.add("Tasks", std::to_string(data.tasks.size()));
  f.add("Parameters merged", std::to_string(data.all.size()));
  f.add("Parameters trimmed", std::to_string(trimmed));
  f.add("Copied from the base", std::to_string(data.copied));
  add_run(f, *data.report);
  facts settings;
  if (data.settings().is_object())
    for (const auto& [key, value] : data.settings().items()) {
      std::string name = key;
      std::replace(name.begin(), name.end(), '_', ' ');
      settings.add(name, key == "samples" && value == 0 ? "all of the files" : setting(value));
    }
  return element("h1",
                 escaped(count(data.tasks.size(), "expert") + " merged by " + method_of(data))) +
         "\n" + task_list(data.tasks) + f.html() +
         (settings.html().empty()
              ? ""
              : element("h2", "Settings", "class=\"plain\"") + "\n" + settings.html());
}

/// The merge in a few sentences.
inline std::string summary(const merge_data& data) {
  const std::string kind = leading_kind(data);
  std::string sentences;
  if (!kind.empty() && data.tasks.size() > 1) {
    const parameters list = data.measured(kind);
    const double before = conflict_level(list, data.tasks.size(), moment::before),
                 after = conflict_level(list, data.tasks.size(), moment::after);
    double worst = unknown;
    for (std::size_t k = 0; k < data.tasks.size(); ++k) {
      const double lost = relative_deviation(list, k);
      if (std::isfinite(lost) && !(lost <= worst)) worst = lost;
    }
    sentences =
        "In the " + plural(kind) +
        ", the task vector of another task shifted a task\u2019s features " + ratio(before) +
        " times as much as that task\u2019s own vector did (squared, mean over pairs of tasks); "
        "after the trim " +
        ratio(after) + " times: " + percent(share_removed(before, after)) +
        " of the conflict was removed. ";
    if (std::isfinite(worst))
      sentences +=
          "In exchange, the task that lost most gave up " + percent(worst) + " of its own shift. ";
  }
  const parameters drifting = with_drift(data);
  if (!drifting.empty()) {
    double sum = 0;
    for (std::size_t k = 0; k < data.tasks.size(); ++k) sum += relative_drift(drifting, k);
    sentences +=
        "The merged network\u2019s layers are " +
        shown(sum / static_cast<double>(data.tasks.size()), 2) +
        " times as far from the experts\u2019 as the pretrained network\u2019s are (squared, "
        "mean over tasks; 0 would be the expert, 1 the pretrained network).";
  }
  return sentences.empty() ? "" : paragraph(sentences, "lead");
}

inline std::string notation(bool conflict) {
  std::string symbols =
      "Notation. \u03B8: the merged weights; \u03B8\u2096: those of expert k; T\u2096: task "
      "k\u2019s vector, \u03B8\u2096 minus the pretrained weights. X\u2096: the inputs of a "
      "parameter when a few samples of task k run through the network. "
      "\u2016X\u2096T\u2096\u1D40\u2016\u00B2 is the squared shift of its own task\u2019s "
      "features by the vector.";
  if (conflict)
    symbols +=
        " T\u1D62\u2032: a vector after the trim. Conflict is \u2016X\u2096T\u1D62\u1D40\u2016"
        "\u00B2 for i other than k, the squared shift of task k\u2019s features by other vectors "
        "(Eq. 8 of Sun et al., CAT Merging, ICML 2025); it leaves out alpha, which scales all of "
        "it "
        "alike.";
  return element(
             "div",
             paragraph(symbols) +
                 paragraph(
                     "Layers differ in the size of their features by orders of magnitude. Wherever "
                     "several parameters share a number, each was first divided by its own mean of "
                     "\u2016X\u2096T\u2096\u1D40\u2016\u00B2 over the tasks, so that all have "
                     "equal weights."),
             "class=\"notation\"") +
         "\n";
}

/// The parts that the page cannot show, and the reasons.
inline std::string missing_parts(const merge_data& data, bool conflict, bool drift) {
  const std::string method = method_of(data);
  const bool any_trimmed =
      std::any_of(data.all.begin(), data.all.end(), [](const parameter& p) { return p.trimmed; });
  std::string html;
  if (data.tasks.size() < 2)
    html += paragraph("There is one task: nothing is in conflict with it.");
  else if (!any_trimmed)
    html +=
        paragraph("No task vector was trimmed by " + method +
                  ": there is no conflict before and after to compare, and there are no removed "
                  "directions, masks or eigenvalues to show.");
  else if (!conflict)
    html += paragraph(
        "The report holds no conflicts: merge measures them from samples or features "
        "for a report.");
  if (!drift)
    html += paragraph(
        "The distance of the merged network\u2019s features from the experts\u2019 is not in the "
        "report: it needs the inputs of the layers, from samples or features.");
  return html;
}

}  // namespace page

/// The page about a merge, from the JSON report of `merge` (report_json.hpp): one self-contained
/// HTML document. Sections with absent keys are left out.
inline std::string merge_page(const json& report) {
  using namespace page;
  const merge_data data = read_merge(report);
  const bool conflict = !leading_kind(data).empty() && data.tasks.size() > 1;
  const bool drift = !with_drift(data).empty();

  sections s;
  const auto add = [&](const char* id, const char* title, const std::string& html) {
    if (!html.empty()) s.add(id, title, html);
  };
  add("evaluation", "Evaluation", evaluation_section(data));
  add("choice", "What the outputs decided", choice_section(data));
  if (conflict) {
    add("tasks", "Task by task", tasks_section(data));
    add("conflict", "Conflict between tasks", conflict_section(data));
    add("layers", "Conflict over the layers", layers_section(data));
    add("parameters", "Parameters that stand out", offenders_section(data));
    add("spectra", "What was cut", spectra_section(data));
    add("overlap", "Overlap of the removals", overlap_section(data));
  }
  add("drift", "Drift from the experts", drift_section(data));
  add("norms", "Norms", norms_section(data));
  add("missing", "Not on this page", missing_parts(data, conflict, drift));
  add("all", "All parameters", all_parameters(data));

  const std::string title =
      "Merge of " + count(data.tasks.size(), "expert") + " by " + method_of(data);
  return document(title,
                  merge_header(data) + warnings_box(data) + summary(data) + notes_box(data) +
                      (conflict || drift ? notation(conflict) : "") + s.html(),
                  footer(report));
}

}  // namespace catmerge::harness
