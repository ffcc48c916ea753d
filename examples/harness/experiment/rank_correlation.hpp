// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <catmerge/tensor/scalar.hpp>
#include <cstdint>
#include <functional>
#include <harness/networks/data/metrics.hpp>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <vector>

/// Rank correlations over ordered pairs of tasks, with intervals.
namespace catmerge::harness {

/// Spearman's rho, from -1 to 1. None if one of the two is constant. Precondition: as many a as b.
inline std::optional<double> rank_correlation(const std::vector<double>& a,
                                              const std::vector<double>& b) {
  for (const auto* values : {&a, &b})
    if (std::adjacent_find(values->begin(), values->end(), std::not_equal_to<>()) == values->end())
      return std::nullopt;
  return spearman(a, b) / 100;
}

/// Spearman's rho of the entries (k, i), k != i, of two K x K matrices, for k and i in a list of
/// tasks. A pair counts as often as the list has it.
inline std::optional<double> rank_correlation(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b,
                                              const std::vector<index_t>& tasks) {
  std::vector<double> of_a, of_b;
  for (const index_t k : tasks)
    for (const index_t i : tasks) {
      if (k == i) continue;
      of_a.push_back(a(k, i));
      of_b.push_back(b(k, i));
    }
  return rank_correlation(of_a, of_b);
}

/// A rank correlation over all ordered pairs of tasks, and its 95 % interval.
struct correlation {
  double rho = 0, low = 0, high = 0;
};

/// Spearman's rho of the entries (k, i), k != i, of two K x K matrices. 0 if one is constant.
///
/// The interval is that of the percentile bootstrap over tasks: pairs that share a task are not
/// independent, so K tasks are drawn with replacement, and all their pairs are taken. Lists of
/// fewer than three different tasks are drawn again: two pairs are in one of two orders. So K must
/// be at least three.
inline correlation correlate(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b,
                             std::uint64_t seed = 1) {
  constexpr int resamples = 2000;  // 50 beyond each end: the ends are sure to a hundredth
  std::vector<index_t> tasks(static_cast<std::size_t>(a.rows()));
  std::iota(tasks.begin(), tasks.end(), index_t{0});
  correlation found;
  found.rho = rank_correlation(a, b, tasks).value_or(0);
  std::mt19937_64 bits(seed);
  std::vector<double> drawn;
  for (int n = 0; n < resamples; ++n) {
    std::set<index_t> different;
    while (different.size() < 3) {
      for (auto& task : tasks)
        task = static_cast<index_t>(bits() % static_cast<std::uint64_t>(a.rows()));
      different = {tasks.begin(), tasks.end()};
    }
    drawn.push_back(rank_correlation(a, b, tasks).value_or(0));
  }
  std::sort(drawn.begin(), drawn.end());
  found.low = drawn[resamples / 40];
  found.high = drawn[resamples - 1 - resamples / 40];
  return found;
}

}  // namespace catmerge::harness
