// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <catmerge/tensor/scalar.hpp>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <utility>
#include <vector>

/// Rank correlations over ordered pairs of tasks, with intervals.
namespace catmerge::harness {

/// The ranks of some values, 1 for the smallest; equal values share the mean of their ranks.
inline std::vector<double> ranks_of(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (std::size_t first = 0, last; first < order.size(); first = last) {
    for (last = first; last < order.size() && values[order[last]] == values[order[first]];) ++last;
    for (std::size_t i = first; i < last; ++i)
      ranks[order[i]] = static_cast<double>(first + 1 + last) / 2;
  }
  return ranks;
}

/// Spearman's rho: Pearson's correlation of the ranks. None if one of the two is constant.
/// Precondition: as many a as b.
inline std::optional<double> rank_correlation(const std::vector<double>& a,
                                              const std::vector<double>& b) {
  const auto of_a = ranks_of(a), of_b = ranks_of(b);
  const double mean = static_cast<double>(a.size() + 1) / 2;
  double product = 0, square_a = 0, square_b = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    product += (of_a[i] - mean) * (of_b[i] - mean);
    square_a += (of_a[i] - mean) * (of_a[i] - mean);
    square_b += (of_b[i] - mean) * (of_b[i] - mean);
  }
  if (!(square_a > 0 && square_b > 0)) return std::nullopt;
  return product / std::sqrt(square_a * square_b);
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
