// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <harness/networks/data/output_distance.hpp>
#include <harness/networks/writing/next_logits.hpp>
#include <numeric>
#include <vector>

namespace catmerge::harness {

/// How BLIP chooses among given answers (`rank_answer` of models/blip_vqa.py in salesforce/BLIP):
/// the `kept` answers whose first token is likeliest, and of these the one with the largest sum of
/// its tokens' natural log-likelihoods, the end among them. Among equals the likelier first token
/// decides, then the place in the list.
struct answer_ranking {
  token_list prompt;                ///< what the answers follow: the token that begins a text
  std::vector<token_list> answers;  ///< one or more, each with its end
  index_t kept = 128;               ///< one or more; all answers, if there are fewer
  /// The share of the mean log-likelihood of all tokens of the vocabulary in a token's: the
  /// published code ranks by its loss, whose label smoothing is 0.1.
  double smoothing = 0;
};

/// The answer to a sample, by its place in the list. `next` is asked for the prompt alone, then for
/// up to `kept` texts at a time. Throws as `ask` does.
inline std::size_t best_answer(index_t sample, const answer_ranking& ranking,
                               const next_logits& next) {
  const auto& answers = ranking.answers;
  const Eigen::VectorXd first = log_softmax(ask(next, {{sample, ranking.prompt}}).row(0), 1);
  std::vector<std::size_t> kept(answers.size());
  std::iota(kept.begin(), kept.end(), std::size_t{0});
  std::stable_sort(kept.begin(), kept.end(), [&](std::size_t a, std::size_t b) {
    return first(answers[a].front()) > first(answers[b].front());
  });
  kept.resize(std::min(kept.size(), static_cast<std::size_t>(ranking.kept)));

  std::vector<double> scores(kept.size());
  const auto add = [&](std::size_t i, std::size_t place, const Eigen::VectorXd& likelihoods) {
    scores[i] += (1 - ranking.smoothing) * likelihoods(answers[kept[i]][place]) +
                 ranking.smoothing * likelihoods.mean();
  };
  for (std::size_t i = 0; i < kept.size(); ++i) add(i, 0, first);
  for (std::size_t place = 1;; ++place) {
    std::vector<hypothesis> texts;
    std::vector<std::size_t> longer;  // those with a token at this place
    for (std::size_t i = 0; i < kept.size(); ++i) {
      const token_list& answer = answers[kept[i]];
      if (answer.size() <= place) continue;
      texts.push_back({sample, ranking.prompt});
      texts.back().tokens.insert(texts.back().tokens.end(), answer.begin(),
                                 answer.begin() + static_cast<std::ptrdiff_t>(place));
      longer.push_back(i);
    }
    if (texts.empty()) break;
    const matrix logits = ask(next, texts);
    for (std::size_t row = 0; row < longer.size(); ++row) {
      add(longer[row], place, log_softmax(logits.row(static_cast<index_t>(row)), 1));
    }
  }
  const auto best = std::max_element(scores.begin(), scores.end());
  return kept[static_cast<std::size_t>(best - scores.begin())];
}

}  // namespace catmerge::harness
