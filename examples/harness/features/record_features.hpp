// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/scalar.hpp>
#include <harness/system/pool.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The arguments of record_features: one field per option of `catmerge features`.
struct features_request {
  std::string model, samples, output;
  std::string config;              ///< the network's config.json; empty: the model's own
  std::vector<std::string> rules;  ///< PATTERN=KIND
  index_t sample_count = 0;        ///< the first so many samples; 0: all
  bool overwrite = false;
  unsigned threads = default_threads();
};

/// Runs samples through a network and writes the inputs of each of its linear and scale parameters,
/// for io::statistics_file. Throws catmerge::error, naming the file.
void record_features(const features_request& request);

}  // namespace catmerge::harness
