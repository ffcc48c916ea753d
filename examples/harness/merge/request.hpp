// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>
#include <catmerge/tensor/scalar.hpp>
#include <harness/commands/command_line.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The command line of `catmerge merge` as it was given.
struct merge_arguments {
  std::string base, output, config, heads_output, missing = "error", contradictions = "error",
                                                  max_shard_size = "5GB";
  std::vector<std::string> experts, features, samples, importance, rules, overrides, reports;
  std::vector<std::string> renames, weights;    ///< EXPERT:FROM=TO; TASK=NUMBER
  std::vector<std::string> before, method_for;  ///< transforms; PATTERN=METHOD
  std::vector<std::string> include, exclude, drop, task_heads, resized;  ///< patterns of names
  std::string method = "cat", preset = "paper", rescale, order = "sequential", rows = "sum",
              out_dtype = "base";
  double alpha = 0.4, energy = 0, lambda = 5, scale_lambda = 10, coefficient = 1, tolerance = 0;
  index_t rank = 4, scale_rank = 4, shift_rank = 4, sample_count = 0;
  bool positive = false, overwrite = false, quiet = false, verbose = false;
  unsigned threads = default_threads();
};

/// Merges. `command` tells which options were given at all.
void run_merge(const CLI::App& command, const merge_arguments& a);

}  // namespace catmerge::harness
