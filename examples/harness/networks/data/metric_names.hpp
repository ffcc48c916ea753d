// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <harness/networks/data/head.hpp>
#include <harness/networks/data/labels.hpp>
#include <harness/networks/data/metrics.hpp>
#include <string>
#include <vector>

/// Metrics by their names.
namespace catmerge::harness {

/// The names of all metrics.
inline const std::vector<std::string> metric_names = {"accuracy", "f1", "matthews", "pearson",
                                                      "spearman"};

/// True if a metric compares values; otherwise it compares classes.
inline bool is_of_values(const std::string& metric) {
  return metric == "pearson" || metric == "spearman";
}

/// Throws, before a network runs, for an unknown metric, and for labels or a head that do not fit
/// it. `called`: the metric's name and origin in messages.
inline void check_metric(const std::string& metric, const std::string& called,
                         const task_labels& labels, const task_head& head,
                         const std::string& head_file) {
  if (std::find(metric_names.begin(), metric_names.end(), metric) == metric_names.end())
    throw error(called + ": expected accuracy, f1, matthews, pearson or spearman");
  const auto expect = [&](index_t outputs) {
    if (head.outputs() == outputs) return;
    throw error(head_file + ": expected a head with " + std::to_string(outputs) +
                (outputs == 1 ? " output" : " outputs") + " for " + called + ", found " +
                std::to_string(head.outputs()));
  };
  if (is_of_values(metric)) return expect(1);
  labels.classes(head.outputs());
  if (metric == "f1") expect(2);
}

/// A metric, in percent.
inline double measure(const std::string& metric, const matrix& outputs, const task_labels& labels) {
  if (is_of_values(metric)) {
    const std::vector<double> values(outputs.data(), outputs.data() + outputs.size());
    return metric == "pearson" ? pearson(values, labels.values())
                               : spearman(values, labels.values());
  }
  const auto predicted = top1(view(outputs));
  const auto& classes = labels.classes(outputs.cols());
  if (metric == "matthews") return matthews(predicted, classes);
  if (metric == "f1") return f1(predicted, classes);
  return accuracy(predicted, classes);
}

}  // namespace catmerge::harness
