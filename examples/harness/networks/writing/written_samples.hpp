// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <harness/networks/network.hpp>
#include <harness/networks/writing/texts_of.hpp>
#include <memory>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// Samples with texts that a network wrote.
class written_samples final : public sample_reader {
 public:
  /// texts: of each sample, without the prompt.
  written_samples(std::unique_ptr<sample_reader> samples, std::vector<token_list> texts)
      : samples_(std::move(samples)), texts_(std::move(texts)) {}

  index_t size() const override { return samples_->size(); }

  activations load(index_t first, index_t count) const override {
    activations state = samples_->load(first, count);
    const sample_texts prompts = std::exchange(state.waiting.back(), {});
    sample_texts& texts = state.waiting.back();
    state.asked.clear();
    for (index_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const auto from = prompts.tokens.begin();
      texts.tokens.insert(texts.tokens.end(), from + prompts.offsets[at],
                          from + prompts.offsets[at + 1]);
      index_t place = prompts.offsets[at + 1] - prompts.offsets[at];
      for (const auto word : texts_[static_cast<std::size_t>(first + i)]) {
        state.asked.push_back(std::ssize(texts.tokens) - 1);
        texts.tokens.push_back({word, place++, 0});
      }
      texts.offsets.push_back(std::ssize(texts.tokens));
    }
    return state;
  }

  std::vector<asked_token> asked(index_t sample) const override {
    const index_t prompt = samples_->load(sample, 1).waiting.back().offsets.back();
    std::vector<asked_token> list;
    for (const auto word : texts_[static_cast<std::size_t>(sample)])
      list.push_back({prompt - 1 + std::ssize(list), word});
    return list;
  }

 private:
  std::unique_ptr<sample_reader> samples_;
  std::vector<token_list> texts_;
};

/// The samples, and where they lack their texts, those that the network writes greedily for the
/// first `count` (0: all), beyond which no sample may be loaded then.
inline std::unique_ptr<sample_reader> with_texts(const network& net, const weight_source& weights,
                                                 std::unique_ptr<sample_reader> samples,
                                                 index_t count, const executor& threads = {}) {
  if (!samples->lacks_texts()) return samples;
  writing_options greedy;
  greedy.samples = count;
  auto texts = texts_of(net, weights, *samples, greedy, threads);
  return std::make_unique<written_samples>(std::move(samples), std::move(texts));
}

}  // namespace catmerge::harness
