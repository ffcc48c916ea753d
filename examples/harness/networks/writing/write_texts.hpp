// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>
#include <harness/networks/writing/beam_search.hpp>
#include <harness/networks/writing/next_logits.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// Writes a text after each prompt, and returns it with the prompt. The unfinished texts of all
/// samples are asked for together. Preconditions: two tokens or more in the vocabulary, a beam or
/// more. Throws as `ask` does, and catmerge::error naming the sample for a prompt that is empty or
/// leaves no room.
inline std::vector<token_list> write_texts(const std::vector<token_list>& prompts,
                                           const writing_limits& limits, const next_logits& next) {
  std::vector<beam> samples;
  for (const token_list& prompt : prompts) {
    const index_t number = std::ssize(samples);
    if (prompt.empty() || std::ssize(prompt) >= limits.max_length) {
      throw error("sample " + std::to_string(number) + ": expected a prompt of 1 to " +
                  std::to_string(limits.max_length - 1) + " tokens, found " +
                  std::to_string(prompt.size()));
    }
    samples.emplace_back(hypothesis{number, prompt}, limits);
  }
  for (;;) {
    std::vector<hypothesis> texts;
    for (const beam& each : samples) {
      texts.insert(texts.end(), each.running().begin(), each.running().end());
    }
    if (texts.empty()) break;
    const matrix logits = ask(next, texts);
    index_t row = 0;
    for (beam& each : samples) {
      const index_t count = std::ssize(each.running());
      if (count > 0) each.advance(logits, row);
      row += count;
    }
  }
  std::vector<token_list> written;
  for (const beam& each : samples) written.push_back(each.written());
  return written;
}

}  // namespace catmerge::harness
