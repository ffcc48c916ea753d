// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/experiment/experiment_plan.hpp>
#include <harness/system/pool.hpp>
#include <harness/system/progress.hpp>
#include <ostream>
#include <string>
#include <vector>

namespace catmerge::harness {

/// A request to run_experiment: one field per option of `catmerge experiment`.
struct experiment_request {
  std::string folder;                         ///< the family
  std::string output;                         ///< a folder; empty: tables are printed only
  std::vector<std::string> studies;           ///< names; all if empty
  std::vector<std::string> rules;             ///< PATTERN=KIND
  std::vector<std::string> drop, task_heads;  ///< patterns
  experiment_plan plan;
  bool overwrite = false;
  verbosity how = verbosity::normal;
  unsigned threads = default_threads();
};

/// The names of all studies, in the order in which they run.
std::vector<std::string> study_names();

/// Compares methods on a family of networks. Prints each study's table when the study ends. Writes
/// results.json, results.csv, tables.md and index.html if a folder is given. Throws
/// catmerge::error, naming the file.
void run_experiment(const experiment_request& request, std::ostream& out);

}  // namespace catmerge::harness
