// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <cstddef>
#include <functional>
#include <harness/networks/data/predict.hpp>
#include <harness/networks/network.hpp>
#include <harness/networks/writing/rank_answers.hpp>
#include <harness/networks/writing/write_texts.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

/// Texts that a network writes (network::writing).
namespace catmerge::harness {

/// A batch of samples, whose texts a network writes or ranks. The parts before the decoder run
/// once, at the start, and the decoder's keys and values of their rows are kept. The rest of the
/// decoder runs anew for each token.
class text_batch {
 public:
  /// All arguments but `samples`, which are before the first block, must outlive the batch. first:
  /// the number of the first sample, for messages.
  text_batch(const network& net, const weight_source& weights, activations samples, index_t first,
             const executor& threads)
      : net_(net),
        weights_(weights),
        threads_(threads),
        first_block_(net.writing()->first_block),
        first_(first),
        count_(samples.samples()),
        state_(std::move(samples)) {
    while (state_.next_block < first_block_)
      net_.run(state_.next_block, weights_, state_, nullptr, threads_);
    const sample_texts& texts = state_.waiting.back();
    const auto offsets = output_offsets(state_);
    for (index_t i = 0; i < count_; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const index_t end = state_.asked[static_cast<std::size_t>(offsets[at])] + 1;
      prompts_.emplace_back();
      for (index_t row = texts.offsets[at]; row < end; ++row)
        prompts_.back().push_back(texts.tokens[static_cast<std::size_t>(row)].word);
    }
  }

  /// The prompt of each sample: its tokens before the first one that is asked for.
  const std::vector<token_list>& prompts() const { return prompts_; }

  /// The logits of the token after each text. Throws output_not_finite.
  matrix operator()(const std::vector<hypothesis>& texts) {
    state_.next_block = first_block_;
    state_.waiting.assign(1, {});
    state_.asked.clear();
    state_.memory_of.clear();
    if (!state_.keys) state_.keys = std::make_shared<memory_keys>();
    sample_texts& waiting = state_.waiting.back();
    for (const hypothesis& text : texts) {
      for (index_t i = 0; i < std::ssize(text.tokens); ++i)
        waiting.tokens.push_back({text.tokens[static_cast<std::size_t>(i)], i, 0});
      waiting.offsets.push_back(std::ssize(waiting.tokens));
      state_.asked.push_back(waiting.offsets.back() - 1);
      state_.memory_of.push_back(text.sample);
    }
    while (state_.next_block < net_.block_count())
      net_.run(state_.next_block, weights_, state_, nullptr, threads_);
    require_finite(state_.hidden, first_, count_);
    return std::move(state_.hidden);
  }

 private:
  const network& net_;
  const weight_source& weights_;
  const executor& threads_;
  std::size_t first_block_;
  index_t first_, count_;
  activations state_;
  std::vector<token_list> prompts_;
};

/// How a network's texts are made.
struct writing_options {
  index_t min_length = 1;   ///< tokens before the end, with the prompt
  index_t max_length = 20;  ///< tokens with the prompt and the end; at most what the network reads
  index_t beams = 1;        ///< 1: greedy
  index_t samples = 0;      ///< the first so many of the file; 0: all
  /// If not empty, the text is the best of these, each with its end.
  std::vector<token_list> answers{};
  std::string origin = "samples";  ///< the file, for messages
};

/// The texts of the samples of a file, without their prompts, at most `batch` samples in memory at
/// a time. `progress`, if any, is called after each batch with the number of samples done. Throws
/// output_not_finite, and catmerge::error naming the sample for a prompt that leaves no room.
/// Preconditions: the network writes texts; options.samples is at most samples.size().
inline std::vector<token_list> texts_of(const network& net, const weight_source& weights,
                                        const sample_reader& samples,
                                        const writing_options& options,
                                        const executor& threads = {},
                                        const std::function<void(index_t)>& progress = {},
                                        index_t batch = 8) {
  const text_writing how = *net.writing();
  const writing_limits limits{how.end, options.min_length,
                              std::min(options.max_length, how.longest), options.beams};
  const auto require_room = [&](index_t sample, const std::string& what, index_t tokens,
                                index_t most) {
    if (tokens <= most) return;
    throw error(options.origin + ": sample " + std::to_string(sample) + ": " + what + " has " +
                std::to_string(tokens) + " tokens, expected " + std::to_string(most) + " at most");
  };
  std::vector<token_list> all;
  const index_t size = options.samples == 0 ? samples.size() : options.samples;
  for (index_t first = 0; first < size; first += batch) {
    const index_t count = std::min(batch, size - first);
    text_batch texts(net, weights, samples.load(first, count), first, threads);
    const auto next = [&](const std::vector<hypothesis>& asked) { return texts(asked); };
    if (options.answers.empty()) {
      for (index_t i = 0; i < count; ++i) {
        require_room(first + i, "its prompt",
                     std::ssize(texts.prompts()[static_cast<std::size_t>(i)]),
                     limits.max_length - 1);
      }
      const auto written = write_texts(texts.prompts(), limits, next);
      for (std::size_t i = 0; i < written.size(); ++i) {
        const auto begin = std::ssize(texts.prompts()[i]);
        all.emplace_back(written[i].begin() + begin, written[i].end());
      }
    } else {
      for (index_t i = 0; i < count; ++i) {
        const token_list& prompt = texts.prompts()[static_cast<std::size_t>(i)];
        for (const token_list& answer : options.answers)  // its end is not read
          require_room(first + i, "its prompt with an answer",
                       std::ssize(prompt) + std::ssize(answer) - 1, how.longest);
        // As the published code ranks: by its loss, which is smoothed.
        const answer_ranking ranking{prompt, options.answers, 128, 0.1};
        all.push_back(options.answers[best_answer(i, ranking, next)]);
      }
    }
    if (progress) progress(first + count);
  }
  return all;
}

}  // namespace catmerge::harness
