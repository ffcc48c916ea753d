// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/dtype.hpp>
#include <catmerge/tensor/scalar.hpp>
#include <cstdint>
#include <harness/checkpoints/task_file.hpp>
#include <harness/system/pool.hpp>
#include <harness/system/progress.hpp>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace catmerge::harness {

/// A factor of one expert's task vector.
struct task_weight {
  std::string task;
  double weight = 1;
};

/// A request to merge, as run_merge takes it: one field per option of `catmerge merge`
/// (`catmerge merge --help` explains them). An empty text or list is an option that is not given.
/// Methods, transforms and selectors of parameters are texts in the grammar of the command line:
/// "ties:density=0.1", "@linear".
struct merge_request {
  // Inputs.
  std::string base;
  std::vector<task_file> experts;       ///< CAT trims by the tasks in this order
  std::vector<task_file> features;      ///< statistics of layer inputs: none, or one per expert
  std::vector<task_file> samples;       ///< or samples to record them from
  std::vector<task_file> heads;         ///< the last layers of each task; none: in the experts
  std::vector<task_file> importance;    ///< the importance of each entry to each task
  std::optional<index_t> sample_count;  ///< the first so many samples of each file; none, 0: all
  std::optional<double> feature_coefficient;  ///< a: features come from base + a (expert - base)
  std::string config;                         ///< the network's config.json, if not the base's own

  // The method.
  std::string method = "auto";
  std::optional<double> alpha;             ///< none: the method's own
  bool alpha_by_outputs = false;           ///< alpha is chosen by outputs on the samples
  std::string preset;                      ///< of CAT's trims; empty: "paper"
  std::map<std::string, std::string> cat;  ///< settings of CAT's trims: {"lambda", "1"}
  std::vector<std::string> before;         ///< transforms of task vectors
  std::vector<std::string> after;          ///< transforms of the merged vector
  std::vector<std::string> method_for;     ///< SELECTOR=METHOD
  std::vector<std::string> set;            ///< SELECTOR:KEY=VALUE,...
  std::vector<task_weight> weights;        ///< of experts; others have 1

  // Names.
  std::vector<std::string> rules;                               ///< PATTERN=KIND
  std::vector<std::string> include;                             ///< patterns: merge these only
  std::vector<std::string> exclude, drop, task_heads, resized;  ///< patterns
  std::vector<std::string> rename;                              ///< EXPERT:FROM=TO
  bool base_for_missing = false;     ///< missing in an expert: the base's; else an error
  bool contradictions_pass = false;  ///< contradictions to the base are warnings; else errors

  // Outputs.
  bool adapter = false;                 ///< experts and output are adapters (harness/adapters)
  std::optional<index_t> adapter_rank;  ///< the most of each weight; none: the sum of all ranks
  std::string output;
  std::string heads_output;                     ///< the folder of the tensors of task_heads
  std::vector<std::string> reports;             ///< files, F.html or F.json
  std::optional<io::dtype> out_dtype;           ///< of merged tensors; none: each its own
  std::optional<std::uint64_t> max_shard_size;  ///< in bytes; none: 5 GB; 0: one file
  bool overwrite = false;

  unsigned threads = default_threads();
  verbosity how = verbosity::normal;
};

}  // namespace catmerge::harness
