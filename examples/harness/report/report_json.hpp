// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/conflict.hpp>
#include <catmerge/merge/stream.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

/// Reports as JSON: the inputs and settings of a merge, and its effect on every parameter.
namespace catmerge::harness {

using json = nlohmann::ordered_json;

inline json to_json(const Eigen::MatrixXd& m) {
  json rows = json::array();
  for (index_t i = 0; i < m.rows(); ++i) {
    json row = json::array();
    for (index_t j = 0; j < m.cols(); ++j) row.push_back(m(i, j));
    rows.push_back(std::move(row));
  }
  return rows;
}

inline const char* name_of(basis_solver solver) {
  switch (solver) {
    case basis_solver::automatic: return "automatic";
    case basis_solver::dense: return "dense";
    case basis_solver::shifts: return "shifts";
    case basis_solver::weights: return "weights";
  }
  return "unknown";
}

inline json to_json(const protection& p, const std::vector<std::string>& tasks, layer_kind kind) {
  json j;
  j["protects"] = tasks[static_cast<std::size_t>(p.task)];
  if (p.part > 0) j["part"] = p.part;
  if (kind == layer_kind::linear) {
    j["eigenvalues"] = p.eigenvalues;
    j["spectrum"] = p.spectrum;
    j["largest_magnitude"] = p.magnitude;
    j["positive_seen"] = p.positive;
    j["residual"] = p.residual;
    j["products"] = p.products;
    j["solver"] = name_of(p.solver);
    if (p.angle) j["angle"] = *p.angle;
  } else {
    j["coordinates"] = p.coordinates;
  }
  return j;
}

inline json to_json(const parameter_report& report, const std::vector<std::string>& tasks) {
  const layer_report& l = report.layer;
  json j;
  j["name"] = report.name;
  j["kind"] = name_of(l.kind);
  j["trimmed"] = l.trim.has_value();
  if (report.missing_statistics) j["missing_statistics"] = true;
  if (report.missing_importance) j["missing_importance"] = true;
  if (l.fallback != fallback_rule::none) j["fallback"] = true;
  j["base_norm"] = report.sizes.of_base;
  if (!l.trim) j["task_vector_norm"] = report.sizes.of_vectors;
  if (!l.drift.empty()) {
    j["drift"] = l.drift;
    j["drift_scale"] = l.drift_of_base;
  }
  if (!l.trim) return j;
  const trim_report& trim = *l.trim;
  j["rows"] = trim.rows;
  j["task_vector_norm"] = trim.norm;
  j["energy_removed"] = trim.energy_removed;
  if (!trim.emptied.empty()) {
    json emptied = json::array();
    for (const index_t i : trim.emptied) emptied.push_back(tasks[static_cast<std::size_t>(i)]);
    j["trimmed_to_zero"] = std::move(emptied);
  }
  if (trim.conflict_before.size() > 0) {
    j["conflict_before"] = inter_task_conflict(trim.conflict_before);
    j["conflict_after"] = inter_task_conflict(trim.conflict_after);
    j["deviation"] = trim.deviation;
    j["shifts_before"] = to_json(trim.conflict_before);
    j["shifts_after"] = to_json(trim.conflict_after);
  }
  j["overlap"] = to_json(trim.overlap);
  for (const auto& p : trim.protections) j["removed"].push_back(to_json(p, tasks, l.kind));
  return j;
}

/// Conflict and deviation of each task, summed over the parameters of a kind.
inline json totals(const std::vector<parameter_report>& reports,
                   const std::vector<std::string>& tasks) {
  json all;
  for (const layer_kind kind : {layer_kind::linear, layer_kind::scale, layer_kind::shift}) {
    std::vector<double> before(tasks.size(), 0), after(tasks.size(), 0), deviation(tasks.size(), 0);
    bool any = false;
    for (const auto& r : reports) {
      const auto& trim = r.layer.trim;
      if (r.layer.kind != kind || !trim || trim->conflict_before.size() == 0) continue;
      any = true;
      const auto b = inter_task_conflict(trim->conflict_before),
                 a = inter_task_conflict(trim->conflict_after);
      for (std::size_t k = 0; k < tasks.size(); ++k) {
        before[k] += b[k];
        after[k] += a[k];
        deviation[k] += trim->deviation[k];
      }
    }
    if (any)
      all[name_of(kind)] = {
          {"conflict_before", before}, {"conflict_after", after}, {"deviation", deviation}};
  }
  return all;
}

/// The text of a report's file. (Task names come from the command line and may not be UTF-8.)
inline std::string text_of(const json& report) {
  return report.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace catmerge::harness
