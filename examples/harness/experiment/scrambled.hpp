// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <harness/experiment/calibration.hpp>
#include <random>
#include <vector>

/// Samples of another distribution than the tasks' own.
namespace catmerge::harness {

/// The samples with a share of their pixels or words exchanged: for those of random places of the
/// same image, or for random words of all samples. A text's first and last token mark its ends and
/// stay. The same on every machine.
inline task_inputs scrambled(task_inputs inputs, double share, std::uint64_t seed) {
  std::mt19937_64 bits(seed);
  const auto is_hit = [&] { return static_cast<double>(bits() >> 11) * 0x1p-53 < share; };
  std::vector<index_t> words;
  for (const auto& samples : inputs)
    for (const auto& sample : samples)
      for (std::size_t i = 1; i + 1 < sample.text.size(); ++i) words.push_back(sample.text[i].word);
  for (auto& samples : inputs)
    for (auto& sample : samples) {
      const matrix pixels = sample.hidden;
      const auto size = static_cast<std::uint64_t>(pixels.size());
      for (index_t i = 0; i < pixels.size(); ++i)
        if (is_hit()) sample.hidden.data()[i] = pixels.data()[bits() % size];
      for (std::size_t i = 1; i + 1 < sample.text.size(); ++i)
        if (is_hit()) sample.text[i].word = words[bits() % words.size()];
    }
  return inputs;
}

}  // namespace catmerge::harness
