// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/scalar.hpp>
#include <harness/methods/alpha_grid.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The grids of experiments, and the number of repetitions.
struct experiment_plan {
  std::vector<double> alphas = alpha_grid();
  std::vector<double> lambdas;  ///< of CAT; the catalogue's if empty
  std::vector<index_t> ranks;   ///< of CAT; the catalogue's if empty
  index_t samples = 3;          ///< per task
  index_t most_samples = 64;
  index_t seeds = 3;                 ///< draws of samples
  std::vector<std::string> methods;  ///< names of the compared methods; empty: all
};

}  // namespace catmerge::harness
