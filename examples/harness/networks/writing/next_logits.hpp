// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/error.hpp>
#include <cstdint>
#include <functional>
#include <harness/networks/activations.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The tokens of a text, special ones too.
using token_list = std::vector<std::int64_t>;

/// A text under way.
struct hypothesis {
  index_t sample = 0;
  token_list tokens;  ///< the prompt and what was written
  double score = 0;   ///< of a search: the sum of log-likelihoods of what was written
};

/// The logits of the token after each of some texts, which may have different lengths: texts x
/// vocabulary.
using next_logits = std::function<matrix(const std::vector<hypothesis>&)>;

/// next(texts). Throws catmerge::error naming the sample for a logit that is not finite, and
/// std::logic_error unless there is a row for each text.
inline matrix ask(const next_logits& next, const std::vector<hypothesis>& texts) {
  matrix logits = next(texts);
  if (logits.rows() != std::ssize(texts)) {
    throw std::logic_error("next_logits: expected " + std::to_string(texts.size()) +
                           " rows, found " + std::to_string(logits.rows()));
  }
  for (index_t i = 0; i < logits.rows(); ++i) {
    if (logits.row(i).allFinite()) continue;
    const hypothesis& text = texts[static_cast<std::size_t>(i)];
    throw error("sample " + std::to_string(text.sample) + ": a logit after " +
                std::to_string(text.tokens.size()) + " tokens is not finite");
  }
  return logits;
}

}  // namespace catmerge::harness
