// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>
#include <network/head.hpp>
#include <network/labels.hpp>
#include <network/metrics.hpp>
#include <string>
#include <vector>

/// Metrics by their names.
namespace catmerge::harness {

/// Whether a metric compares values; else it compares classes.
inline bool is_of_values(const std::string& metric) {
  return metric == "pearson" || metric == "spearman";
}

/// Throws, before a network runs, if the labels or the head do not suit a metric.
inline void check_metric(const std::string& metric, const task_labels& labels,
                         const task_head& head, const std::string& head_file) {
  const auto expect = [&](index_t outputs) {
    if (head.outputs() == outputs) return;
    throw error(head_file + ": expected a head with " + std::to_string(outputs) +
                (outputs == 1 ? " output" : " outputs") + " for --metric " + metric + ", found " +
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
