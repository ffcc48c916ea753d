// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// The metrics of GLUE and of the papers' tables, each in percent (times 100). Predictions and
/// labels: one per sample, equally many, at least one.
namespace catmerge::harness {

/// The number of predictions that equal their labels.
inline std::int64_t count_correct(std::span<const std::int64_t> predicted,
                                  std::span<const std::int64_t> labels) {
  std::int64_t correct = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) correct += predicted[i] == labels[i] ? 1 : 0;
  return correct;
}

/// The share of predictions that equal their labels.
inline double accuracy(std::span<const std::int64_t> predicted,
                       std::span<const std::int64_t> labels) {
  return 100.0 * static_cast<double>(count_correct(predicted, labels)) /
         static_cast<double>(labels.size());
}

/// F1 of class 1: 2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall; 0 if class 1
/// is neither predicted nor a label (as in scikit-learn).
inline double f1(std::span<const std::int64_t> predicted, std::span<const std::int64_t> labels) {
  double both = 0, either = 0;  // TP; (TP + FP) + (TP + FN)
  for (std::size_t i = 0; i < labels.size(); ++i) {
    both += predicted[i] == 1 && labels[i] == 1 ? 1 : 0;
    either += (predicted[i] == 1 ? 1 : 0) + (labels[i] == 1 ? 1 : 0);
  }
  return either == 0 ? 0.0 : 100.0 * 2.0 * both / either;
}

/// Matthews' correlation coefficient, for any number of classes (Gorodkin's R_K): with n samples, c
/// of them correct, p_k predicted as class k and t_k labelled k,
///
///     (c n - sum p_k t_k) / sqrt((n^2 - sum p_k^2) (n^2 - sum t_k^2));
///
/// for two classes (TP TN - FP FN) / sqrt((TP+FP) (TP+FN) (TN+FP) (TN+FN)). 0 if all predictions or
/// all labels are equal (as in scikit-learn).
inline double matthews(std::span<const std::int64_t> predicted,
                       std::span<const std::int64_t> labels) {
  std::map<std::int64_t, std::pair<double, double>> counts;  // class: p_k, t_k
  for (const std::int64_t k : predicted) counts[k].first += 1;
  for (const std::int64_t k : labels) counts[k].second += 1;
  const auto n = static_cast<double>(labels.size());
  // Products of counts, exact in double for up to 2^26 samples: equal classes give a true zero.
  double chance = 0, predicted_spread = n * n, label_spread = n * n;
  for (const auto& [k, count] : counts) {
    chance += count.first * count.second;
    predicted_spread -= count.first * count.first;
    label_spread -= count.second * count.second;
  }
  if (predicted_spread == 0 || label_spread == 0) return 0.0;
  const double above = static_cast<double>(count_correct(predicted, labels)) * n - chance;
  return 100.0 * above / (std::sqrt(predicted_spread) * std::sqrt(label_spread));
}

/// Pearson's correlation coefficient: the sum of products of deviations from the means over the
/// product of their lengths. Throws catmerge::error if it is undefined: if all predictions or all
/// labels are equal, or if there is only one.
inline double pearson(std::span<const double> predicted, std::span<const double> labels) {
  const auto require_spread = [](std::span<const double> x, const std::string& what) {
    if (std::adjacent_find(x.begin(), x.end(), std::not_equal_to<>()) == x.end()) {
      throw error("correlation is undefined: all " + what + " are equal");
    }
  };
  require_spread(predicted, "predictions");
  require_spread(labels, "labels");
  // Deviations scaled to the largest, so that nothing overflows.
  const auto deviations = [](std::span<const double> x) {
    double largest = 0;
    for (const double v : x) largest = std::max(largest, std::abs(v));
    double mean = 0;
    for (const double v : x) mean += v / largest / static_cast<double>(x.size());
    std::vector<double> result;
    for (const double v : x) result.push_back(v / largest - mean);
    return result;
  };
  const std::vector<double> x = deviations(predicted), y = deviations(labels);
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  return 100.0 * dot(x, y) / (std::sqrt(dot(x, x)) * std::sqrt(dot(y, y)));
}

/// 1, 2, ... in rising order; equal values share the mean of their ranks.
inline std::vector<double> average_ranks(std::span<const double> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (std::size_t first = 0, last = 0; first < order.size(); first = last) {
    while (last < order.size() && values[order[last]] == values[order[first]]) ++last;
    for (std::size_t i = first; i < last; ++i) {
      ranks[order[i]] = static_cast<double>(first + 1 + last) / 2.0;
    }
  }
  return ranks;
}

/// Spearman's: Pearson's correlation of the ranks. Throws as pearson does.
inline double spearman(std::span<const double> predicted, std::span<const double> labels) {
  return pearson(average_ranks(predicted), average_ranks(labels));
}

}  // namespace catmerge::harness
