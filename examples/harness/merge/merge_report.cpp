// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <cmath>
#include <harness/merge/merge_report.hpp>
#include <harness/methods/cat_settings.hpp>
#include <harness/report/account.hpp>
#include <harness/report/report_files.hpp>
#include <utility>

namespace catmerge::harness {

namespace {

/// The options of CAT's trims in a method, or else in a transform before it; null without trims.
const cat_options* trims_in(any_method& method, std::vector<any_transform>& before) {
  if (const auto* const trims = method.find_trims()) return trims;
  for (auto& transform : before)
    if (const auto* const trims = transform.find_trims()) return trims;
  return nullptr;
}

/// A setting as JSON, by its key with underscores: "scale_lambda".
void add_setting(json& j, const settings::known& s) {
  if (s.value.empty() || (s.type == settings::form::flag && s.value == "no")) return;
  std::string key = s.key;
  std::replace(key.begin(), key.end(), '-', '_');
  if (s.type == settings::form::number)
    j[key] = std::stod(s.value);
  else if (s.type == settings::form::count)
    j[key] = std::stoll(s.value);
  else
    j[key] = s.value;
}

void add_settings_of_cat(json& j, const cat_options& o, const std::string& preset) {
  j["preset"] = preset.empty() ? cat_presets().front().first : preset;
  for (const auto& setting : cat_settings(o)) add_setting(j, setting);
}

/// The settings of the request.
json settings_of(const merge_request& request, const merge_plan& plan, any_method method) {
  json j;
  j["method"] = request.method;
  const std::pair<const char*, const std::vector<std::string>&> lists[] = {
      {"before", request.before},
      {"after", request.after},
      {"method_for", request.method_for},
      {"include", request.include},
      {"exclude", request.exclude},
      {"drop", request.drop},
      {"task_heads", request.task_heads},
      {"resized", request.resized},
      {"set", request.set},
      {"rename", request.rename}};
  for (const auto& [key, list] : lists)
    if (!list.empty()) j[key] = list;
  for (const auto& [task, weight] : request.weights)
    j["weight"].push_back(task + "=" + shortest(weight));
  if (request.base_for_missing) j["missing"] = "base";
  if (request.contradictions_pass) j["contradictions"] = "warn";
  std::vector<any_transform> before = plan.before;
  if (const double* const alpha = method.find_alpha()) j["alpha"] = *alpha;
  if (const auto* const trims = trims_in(method, before))
    add_settings_of_cat(j, *trims, request.preset);
  if (!request.samples.empty()) {
    j["feature_coefficient"] = plan.coefficient;
    j["samples"] = request.sample_count.value_or(0);
  }
  return j;
}

json totals_of(const std::vector<parameter_report>& reports,
               const std::vector<std::string>& tasks) {
  json all = totals(reports, tasks);
  const auto sizes = sizes_of(reports, tasks.size());
  all["task_vectors"] = {
      {"norm", sizes.norms}, {"of_base", sizes.base}, {"relative", sizes.relative}};
  return all;
}

}  // namespace

std::vector<parameter_report> whole_tensors(std::vector<parameter_report> reports,
                                            const network_names& set) {
  const auto add = [](double& norm, double more) { norm = std::hypot(norm, more); };
  std::vector<parameter_report> whole;
  for (auto& report : reports) {
    const std::string& tensor = set.tensor_of(report.name);
    if (!comes_apart(set.class_of(tensor))) report.name = tensor;
    if (whole.empty() || whole.back().name != report.name) {
      whole.push_back(std::move(report));
      continue;
    }
    add(whole.back().sizes.of_base, report.sizes.of_base);
    for (std::size_t k = 0; k < report.sizes.of_vectors.size(); ++k)
      add(whole.back().sizes.of_vectors[k], report.sizes.of_vectors[k]);
  }
  return whole;
}

json merge_report(const merge_request& request, const merge_plan& plan, const any_method& method,
                  const merge_facts& facts, const std::vector<parameter_report>& reports,
                  const std::vector<std::string>& warnings) {
  const network_names& set = facts.set;
  json report;
  report["catmerge"] = {{"version", version_text},
                        {"label", method_entry_of(request.method).label},
                        {"settings", settings_of(request, plan, method)}};
  report["run"] = nullptr;  // its place
  report["tasks"] = set.tasks();
  report["summary"] = summary_of(reports, facts);
  report["warnings"] = warnings;
  report["totals"] = totals_of(reports, set.tasks());
  for (const auto& r : reports) {
    json j = to_json(r, set.tasks());
    j["merged_by"] = rule_of(r, facts);
    if (const auto why = reason_of(r, facts); !why.empty()) j["because"] = why;
    report["parameters"].push_back(std::move(j));
  }
  report["copied"] = set.fixed();
  for (const auto& name : set.fixed()) report["copied_because"][name] = set.why_copied(name);
  if (!set.ignored().empty()) report["not_in_base"] = set.ignored();
  if (!set.tied().empty()) report["tied"] = set.tied();
  return report;
}

}  // namespace catmerge::harness
