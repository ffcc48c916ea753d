// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <catmerge/merge/drift.hpp>
#include <catmerge/merge/merge_parameter.hpp>
#include <harness/merge/plan.hpp>
#include <harness/report/report_json.hpp>
#include <map>

#include "bindings.hpp"
#include "features.hpp"
#include "session.hpp"
#include "words.hpp"

namespace catmerge::python {

namespace {

/// A network of one parameter, for methods and settings that ask for names.
class one_parameter final : public harness::network_names {
 public:
  one_parameter(const std::string& name, layer_kind kind, index_t parts,
                std::vector<std::string> tasks)
      : names_{name}, tasks_(std::move(tasks)) {
    using model::parameter_kind;
    class_.parts = static_cast<int>(parts);
    class_.trim = kind != layer_kind::other;
    if (kind == layer_kind::linear)
      class_.kind = parts > 1 ? parameter_kind::fused_linear : parameter_kind::linear;
    if (kind == layer_kind::scale) class_.kind = parameter_kind::scale;
    if (kind == layer_kind::shift) class_.kind = parameter_kind::shift;
    groups_ = {{{name, kind, parts}}};
  }
  const std::vector<std::string>& names() const override { return names_; }
  const model::classification& class_of(const std::string&) const override { return class_; }
  const std::string& tensor_of(const std::string& parameter) const override { return parameter; }
  std::vector<std::string> names_of(const std::string&) const override { return names_; }
  const std::vector<parameter_group>& groups() const override { return groups_; }
  const std::vector<std::string>& tasks() const override { return tasks_; }
  const std::vector<std::string>& fixed() const override { return none_; }
  std::string why_copied(const std::string&) const override { return {}; }
  const std::map<std::string, std::string>& tied() const override { return untied_; }
  const std::vector<std::string>& ignored() const override { return none_; }
  const std::vector<std::string>& warnings() const override { return none_; }
  std::vector<std::string> absent() const override { return {}; }
  std::vector<std::string> resized() const override { return {}; }

 private:
  std::vector<std::string> names_, tasks_, none_;
  std::map<std::string, std::string> untied_;
  model::classification class_;
  std::vector<parameter_group> groups_;
};

/// (merged, report as JSON). words: the options, as of `catmerge merge`.
nb::tuple merge_one(const std::string& name, nb::handle base, nb::handle experts,
                    const std::vector<std::string>& tasks, const std::string& kind, index_t parts,
                    std::optional<nb::object> statistics, std::optional<nb::object> importance,
                    const std::vector<std::string>& words) {
  const auto request = request_of(words);
  const harness::merge_plan plan(request);
  const one_parameter network(name, kind_of(kind), parts, tasks);
  for (const auto& rule : plan.overrides) rule.require_use(network);
  for (const auto& other : plan.others) other.require_use(network);
  const array b = array::of(base, "base");
  const auto e = arrays_of(experts, "expert");
  std::vector<features> known;
  if (statistics) known = all_features_of(*statistics);
  if (statistics && known.size() != tasks.size())
    throw error("statistics of " + std::to_string(known.size()) + " tasks for " +
                std::to_string(tasks.size()) + " experts");
  std::vector<array> weights;
  if (importance) weights = arrays_of(*importance, "importance");

  layer_problem<context<host>> problem;
  problem.kind = kind_of(kind);
  problem.parts = parts;
  if (plan.uses_statistics) problem.statistics = views_of(known);
  if (plan.uses_importance)
    for (const auto& w : weights) problem.importance.push_back(w.view());
  problem.names = {name, tasks};

  std::optional<merge_result<array>> result;
  {
    const nb::gil_scoped_release unlocked;
    session s(request.threads);
    const auto method = plan.composed(network);
    if (request.reports.empty())
      result.emplace(merge_parameter(method, problem, b, e, s.c()));
    else
      result.emplace(merge_parameter(with_drift{method}, problem, b, e, s.c()));
  }
  const parameter_report report{
      name, result->report,
      problem.statistics.empty() && plan.method.needs_statistics(problem.kind), false};
  auto json = harness::to_json(report, tasks);
  json.erase("base_norm");  // sizes are not measured here
  if (!result->report.trim) json.erase("task_vector_norm");
  json["merged_by"] = catmerge::name_of(result->report.fallback);
  json["notes"] = plan.notes;
  return nb::make_tuple(result->merged.object(), harness::text_of(json));
}

}  // namespace

void bind_parameter(nb::module_& m) {
  m.def("merge_parameter", &merge_one, nb::arg("name"), nb::arg("base"), nb::arg("experts"),
        nb::arg("tasks"), nb::arg("kind"), nb::arg("parts"), nb::arg("statistics").none(),
        nb::arg("importance").none(), nb::arg("words"));
}

}  // namespace catmerge::python
