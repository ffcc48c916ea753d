// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <harness/methods/catalogue.hpp>
#include <vector>

namespace catmerge::harness {

/// The alphas that are tried, in the unit of a sum of task vectors.
inline const std::vector<double>& alpha_grid() {
  static const std::vector<double> grid = {0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3,
                                           0.35,  0.4,  0.5, 0.6,  0.8, 1};
  return grid;
}

/// An alpha of the grid in the method's unit, to 12 decimals: 3 times 0.1 is 0.3. 1 for a method
/// without alpha.
inline double in_units(double alpha, alpha_unit unit, index_t tasks) {
  double factor = 1;
  if (unit == alpha_unit::none) return 1;
  if (unit == alpha_unit::mean) factor = static_cast<double>(tasks);
  if (unit == alpha_unit::spectrum) factor = 3;
  return std::round(alpha * factor * 1e12) / 1e12;
}

/// A grid in the method's unit; 1 alone for a method without alpha.
inline std::vector<double> in_units(const std::vector<double>& grid, alpha_unit unit,
                                    index_t tasks) {
  if (unit == alpha_unit::none) return {1};
  std::vector<double> alphas;
  for (const double a : grid) alphas.push_back(in_units(a, unit, tasks));
  return alphas;
}

}  // namespace catmerge::harness
