// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <cstdint>
#include <functional>
#include <network/head.hpp>
#include <network/network.hpp>
#include <span>
#include <string>

namespace catmerge::harness {

struct accuracy {
  index_t correct = 0;
  index_t total = 0;

  double percent() const {
    return total == 0 ? 0.0 : 100.0 * static_cast<double>(correct) / static_cast<double>(total);
  }
};

/// Top-1 accuracy of a network on all samples of a file, `batch` samples in memory at a time.
/// labels: one per sample. `progress`, if given, is called after each batch with the counts so far.
/// Throws catmerge::error if an output is not finite.
inline accuracy measure_accuracy(const network& net, const weight_source& weights,
                                 const sample_reader& samples, std::span<const std::int64_t> labels,
                                 const classification_head& head, index_t batch = 64,
                                 const executor& threads = {},
                                 const std::function<void(const accuracy&)>& progress = {}) {
  accuracy result;
  for (index_t first = 0; first < samples.size(); first += batch) {
    const index_t count = std::min(batch, samples.size() - first);
    const matrix embeddings = run_all(net, weights, samples.load(first, count), nullptr, threads);
    const matrix logits = head.logits(view(embeddings));
    if (!logits.allFinite()) {
      throw error("the network's output for a sample among " + std::to_string(first) + " to " +
                  std::to_string(first + count - 1) + " is not finite");
    }
    for (const index_t chosen : top1(view(logits))) {
      result.correct += chosen == labels[static_cast<std::size_t>(result.total)] ? 1 : 0;
      ++result.total;
    }
    if (progress) progress(result);
  }
  return result;
}

}  // namespace catmerge::harness
