// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <harness/calibration/merged_vectors.hpp>
#include <harness/calibration/output_judge.hpp>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// The distance from the experts over a setting.
struct distance_curve {
  std::vector<double> settings;             ///< alphas, or values of another setting
  std::vector<sample_distances> distances;  ///< per setting

  /// J of a setting.
  double mean(std::size_t i) const { return average_of(of_tasks(distances[i])); }

  /// The position of the least J; among equals the first.
  std::size_t best() const {
    std::size_t least = 0;
    for (std::size_t i = 1; i < settings.size(); ++i)
      if (mean(i) < mean(least)) least = i;
    return least;
  }

  /// The setting of the least J.
  double choice() const { return settings[best()]; }

  /// True if the least J is at an end of several settings: another grid may do better.
  bool at_edge() const {
    return settings.size() > 2 && (best() == 0 || best() + 1 == settings.size());
  }
};

/// The curve of theta_0 + alpha tau over several alphas, computed side by side. Throws
/// catmerge::error if no alpha gives finite outputs.
inline distance_curve curve_over_alpha(const output_judge& judge, const merged_vectors& tau,
                                       std::vector<double> alphas, const executor& threads) {
  distance_curve curve{std::move(alphas), {}};
  curve.distances.resize(curve.settings.size());
  const auto measure = [&](index_t i) {
    const auto at = static_cast<std::size_t>(i);
    curve.distances[at] =
        judge.distances(merged_vectors::network(tau, curve.settings[at]), threads);
  };
  threads(std::ssize(curve.settings), measure);
  if (!std::isfinite(curve.mean(curve.best())))
    throw error("no alpha of the grid gives a network whose outputs are finite");
  return curve;
}

}  // namespace catmerge::harness
