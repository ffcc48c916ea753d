// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/scalar.hpp>
#include <harness/system/pool.hpp>
#include <optional>
#include <string>
#include <vector>

namespace catmerge::harness {

/// A request to evaluate: one field per option of `catmerge evaluate`.
struct evaluation_request {
  std::string model, data;
  std::string head;    ///< empty for a language model
  std::string config;  ///< the network's config.json, if not the model's own
  /// Empty: accuracy for classes, pearson for values, perplexity for a language model.
  std::vector<std::string> metrics;
  /// Of texts that the network writes (writing_options); by default 1, 20 and 3.
  std::optional<index_t> min_length, max_length, beams;
  bool rank_answers = false;  ///< the texts are chosen among the file's `answers`
  unsigned threads = default_threads();
};

/// A network's score by one metric.
struct score {
  std::string metric;
  double value = 0;             ///< in percent, but for perplexity
  index_t correct = 0, of = 0;  ///< samples; for the accuracy of classes only
};
using evaluation = std::vector<score>;

/// A network's scores on a task: one per metric, at least one. Throws catmerge::error, naming the
/// file, for files that do not fit each other or the metric.
evaluation evaluate(const evaluation_request& request);

}  // namespace catmerge::harness
