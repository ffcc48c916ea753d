// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <harness/networks/data/output_distance.hpp>
#include <harness/networks/writing/next_logits.hpp>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// Lengths count all tokens of a text: the prompt, and the end if it is written.
struct writing_limits {
  std::int64_t end = 0;    ///< the token that ends a text
  index_t min_length = 0;  ///< no end follows a text shorter than this
  index_t max_length = 0;  ///< a text as long as this is complete, with or without an end
  index_t beams = 1;       ///< texts of a sample that go on together; 1: greedy
};

/// The search for one sample's text, by the rules of `generate` in transformers 5.24
/// (length_penalty 1, early_stopping false). Log-likelihoods are summed in double, there in float.
class beam {
 public:
  beam(hypothesis prompt, const writing_limits& limits)
      : limits_(limits), prompt_(std::ssize(prompt.tokens)), running_{std::move(prompt)} {}

  /// The texts whose next token is asked for, the best first. None once the sample is written.
  const std::vector<hypothesis>& running() const { return running_; }

  /// The complete text with the best mean of its tokens' log-likelihoods. Precondition: running()
  /// is empty.
  const token_list& written() const { return complete_.front().tokens; }

  /// Goes on by one token. Row first + i of the logits is that of running()[i].
  void advance(const matrix& logits, index_t first) {
    const index_t length = std::ssize(running_.front().tokens) + 1;
    const auto written = static_cast<double>(length - prompt_);
    std::vector<hypothesis> longer;
    index_t place = 0;
    for (const continuation& each : best_continuations(logits, first)) {
      hypothesis text = running_[each.from];
      text.tokens.push_back(each.token);
      text.score = each.score;
      if (each.token != limits_.end && length < limits_.max_length) {
        if (std::ssize(longer) < limits_.beams) longer.push_back(std::move(text));
      } else if (place < limits_.beams) {  // a worse end is dropped
        text.score /= written;
        complete_.push_back(std::move(text));
      }
      ++place;
    }
    std::stable_sort(complete_.begin(), complete_.end(),
                     [](const auto& a, const auto& b) { return a.score > b.score; });
    while (std::ssize(complete_) > limits_.beams) complete_.pop_back();
    // The search goes on until there are enough complete texts, and the best running one has no
    // better mean, so far, than the worst of them. A single beam stops at its first end.
    const bool done = std::ssize(complete_) == limits_.beams &&
                      (longer.empty() || longer.front().score / written <= complete_.back().score);
    running_ = done ? std::vector<hypothesis>() : std::move(longer);
  }

 private:
  struct continuation {
    double score;
    std::size_t from;  ///< the running text
    std::int64_t token;
  };

  /// The 2 beams best, so that `beams` of them or more are no ends. Among equals the better text's
  /// come first, and of one text the smaller token.
  std::vector<continuation> best_continuations(const matrix& logits, index_t first) const {
    std::vector<continuation> all;
    for (std::size_t i = 0; i < running_.size(); ++i) {
      const auto likelihoods = log_softmax(logits.row(first + static_cast<index_t>(i)), 1);
      const bool too_short = std::ssize(running_[i].tokens) < limits_.min_length;
      for (index_t token = 0; token < likelihoods.size(); ++token) {
        if (too_short && token == limits_.end) continue;
        all.push_back({running_[i].score + likelihoods(token), i, token});
      }
    }
    const auto kept = all.begin() + std::min(2 * limits_.beams, std::ssize(all));
    std::partial_sort(all.begin(), kept, all.end(), [](const auto& a, const auto& b) {
      if (a.score != b.score) return a.score > b.score;
      return a.from != b.from ? a.from < b.from : a.token < b.token;
    });
    all.erase(kept, all.end());
    return all;
  }

  writing_limits limits_;
  index_t prompt_;  // its tokens
  std::vector<hypothesis> running_;
  std::vector<hypothesis> complete_;  // the best first; their scores are means
};

}  // namespace catmerge::harness
