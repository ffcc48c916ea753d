// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <functional>
#include <harness/networks/data/head.hpp>
#include <harness/networks/network.hpp>
#include <string>

namespace catmerge::harness {

/// The error of a network's output that is not finite.
class output_not_finite : public error {
 public:
  using error::error;
};

/// Throws output_not_finite unless the outputs of samples first ... first + count - 1 are finite.
inline void require_finite(const matrix& outputs, index_t first, index_t count) {
  if (outputs.allFinite()) return;
  throw output_not_finite("the network's output for a sample among " + std::to_string(first) +
                          " to " + std::to_string(first + count - 1) + " is not finite");
}

/// The outputs of a network and a head for all samples of a file, `batch` samples in memory at a
/// time: samples x head.outputs(). `progress`, if any, is called after each batch with the number
/// of samples done. Throws output_not_finite for an output that is not finite.
inline matrix predict(const network& net, const weight_source& weights,
                      const sample_reader& samples, const task_head& head, index_t batch = 64,
                      const executor& threads = {},
                      const std::function<void(index_t)>& progress = {}) {
  matrix result(samples.size(), head.outputs());
  for (index_t first = 0; first < samples.size(); first += batch) {
    const index_t count = std::min(batch, samples.size() - first);
    const matrix rows = run_all(net, weights, samples.load(first, count), nullptr, threads);
    const matrix outputs = head(view(rows));
    require_finite(outputs, first, count);
    rows_of(result, first, count) = outputs;
    if (progress) progress(first + count);
  }
  return result;
}

}  // namespace catmerge::harness
