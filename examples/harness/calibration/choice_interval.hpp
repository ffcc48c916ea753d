// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <harness/calibration/distance_curve.hpp>
#include <optional>
#include <random>
#include <vector>

namespace catmerge::harness {

/// A range of settings.
struct choice_interval {
  double low, high;

  /// True if the samples leave a factor of two or more open.
  bool is_wide() const { return high >= 2 * low; }
};

/// The positions that a curve would choose in 1,000 resamplings of each task's samples, with
/// replacement (a bootstrap of a fixed seed). Empty if a task has one sample.
inline std::vector<std::size_t> resampled_choices(const distance_curve& curve) {
  constexpr std::size_t repetitions = 1000;
  for (const auto& task : curve.distances.front())
    if (task.size() < 2) return {};
  std::mt19937_64 random(1);
  std::vector<std::size_t> choices;
  while (choices.size() < repetitions) {
    std::vector<double> sums(curve.settings.size());
    for (std::size_t k = 0; k < curve.distances.front().size(); ++k) {
      const std::size_t count = curve.distances.front()[k].size();
      for (std::size_t draw = 0; draw < count; ++draw) {
        const std::size_t sample = random() % count;
        for (std::size_t i = 0; i < sums.size(); ++i)
          sums[i] += curve.distances[i][k][sample] / static_cast<double>(count);
      }
    }
    const auto best = std::min_element(sums.begin(), sums.end()) - sums.begin();
    choices.push_back(static_cast<std::size_t>(best));
  }
  return choices;
}

/// The range in which the choice of a curve lies in 95 of 100 resamplings (percentiles). None if a
/// task has one sample.
inline std::optional<choice_interval> interval_of(const distance_curve& curve) {
  std::vector<double> choices;
  for (const std::size_t position : resampled_choices(curve))
    choices.push_back(curve.settings[position]);
  if (choices.empty()) return std::nullopt;
  std::sort(choices.begin(), choices.end());
  const std::size_t tail = choices.size() / 40;
  return choice_interval{choices[tail], choices[choices.size() - 1 - tail]};
}

/// The share of resamplings that choose what the curve chooses. None if a task has one sample.
inline std::optional<double> share_of_choice(const distance_curve& curve) {
  const auto choices = resampled_choices(curve);
  if (choices.empty()) return std::nullopt;
  return static_cast<double>(std::count(choices.begin(), choices.end(), curve.best())) /
         static_cast<double>(choices.size());
}

}  // namespace catmerge::harness
