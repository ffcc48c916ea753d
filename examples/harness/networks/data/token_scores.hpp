// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <harness/networks/data/choices.hpp>
#include <harness/networks/data/output_distance.hpp>
#include <harness/networks/data/predict.hpp>
#include <harness/networks/network.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// How well a language model predicts tokens.
namespace catmerge::harness {

/// The answer for one token.
struct token_score {
  double log_likelihood;  ///< of the right token, natural
  bool is_greedy;         ///< the right token has the largest logit; among equals the first
};

/// The answers of each sample.
using sample_scores = std::vector<std::vector<token_score>>;

/// The scores of logits: rows `first`, ... of them answer `asked`.
inline std::vector<token_score> scores_of(const matrix& logits, index_t first,
                                          const std::vector<asked_token>& asked) {
  std::vector<token_score> scores;
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const auto row = logits.row(first + static_cast<index_t>(i));
    index_t best = 0;
    row.maxCoeff(&best);
    scores.push_back({log_softmax(row, 1)(asked[i].token), best == asked[i].token});
  }
  return scores;
}

/// Runs a language model on all samples of a file, at most `batch` in memory at a time, and fewer
/// if they have more than `most_logits` (512 MB), but at least one. `progress`, if any, is called
/// after each batch with the number of samples done. Throws output_not_finite.
inline sample_scores score_tokens(const network& net, const weight_source& weights,
                                  const sample_reader& samples, const executor& threads = {},
                                  const std::function<void(index_t)>& progress = {},
                                  index_t batch = 8, index_t most_logits = index_t{1} << 27) {
  const index_t most_rows = most_logits / net.output_width();
  sample_scores all;
  for (index_t first = 0; first < samples.size();) {
    std::vector<std::vector<asked_token>> asked;
    index_t rows = 0;
    for (index_t i = first; i < std::min(first + batch, samples.size()); ++i) {
      auto mine = samples.asked(i);
      if (!asked.empty() && rows + std::ssize(mine) > most_rows) break;
      rows += std::ssize(mine);
      asked.push_back(std::move(mine));
    }
    const index_t count = std::ssize(asked);
    const matrix logits = run_all(net, weights, samples.load(first, count), nullptr, threads);
    require_finite(logits, first, count);
    index_t row = 0;
    for (const auto& mine : asked) {
      all.push_back(scores_of(logits, row, mine));
      row += std::ssize(mine);
    }
    first += count;
    if (progress) progress(first);
  }
  return all;
}

/// The share of tokens that are greedy.
inline double token_accuracy(const sample_scores& samples) {
  double right = 0, all = 0;
  for (const auto& sample : samples) {
    for (const auto& answer : sample) right += answer.is_greedy ? 1 : 0;
    all += static_cast<double>(sample.size());
  }
  return 100.0 * right / all;
}

/// The share of samples of which all tokens are greedy: greedy decoding, started before the first
/// of them, writes them all, if they follow each other.
inline double exact_match(const sample_scores& samples) {
  double right = 0;
  for (const auto& sample : samples) {
    right += std::all_of(sample.begin(), sample.end(), [](const auto& a) { return a.is_greedy; })
                 ? 1
                 : 0;
  }
  return 100.0 * right / static_cast<double>(samples.size());
}

/// The exponential of the mean negative log-likelihood of all tokens.
inline double perplexity(const sample_scores& samples) {
  double sum = 0, all = 0;
  for (const auto& sample : samples) {
    for (const auto& answer : sample) sum -= answer.log_likelihood;
    all += static_cast<double>(sample.size());
  }
  return std::exp(sum / all);
}

/// A sample's log-likelihood: the sum over its tokens, or their mean.
inline std::vector<double> log_likelihoods(const sample_scores& samples, bool per_token) {
  std::vector<double> values;
  for (const auto& sample : samples) {
    double sum = 0;
    for (const auto& answer : sample) sum += answer.log_likelihood;
    values.push_back(per_token ? sum / static_cast<double>(sample.size()) : sum);
  }
  return values;
}

/// The names of the metrics of language models: in percent, but for perplexity.
inline const std::vector<std::string> token_metric_names = {
    "accuracy", "choice", "choice-per-token", "exact", "likelihood", "perplexity"};

/// A metric of language models on one file:
///
/// - accuracy: tokens that are greedy;
/// - exact: samples all of whose tokens are greedy;
/// - perplexity: the exponential of the mean negative log-likelihood;
/// - likelihood: 100 / perplexity, the geometric mean of the probabilities of the right tokens.
/// More
///   is better, as of all metrics by which settings are chosen;
/// - choice: questions (choices.hpp) whose answer of the largest likelihood is right;
/// - choice-per-token: the same by the mean over an answer's tokens, so that short answers have no
///   advantage.
class token_metric {
 public:
  /// called: the metric's name and origin in messages. Throws catmerge::error for an unknown
  /// metric, and for a file without the questions that the metric needs.
  token_metric(std::string name, const std::string& called, const std::filesystem::path& file,
               index_t samples)
      : name_(std::move(name)) {
    if (std::find(token_metric_names.begin(), token_metric_names.end(), name_) ==
        token_metric_names.end())
      throw error(called +
                  ": expected accuracy, choice, choice-per-token, exact, likelihood or perplexity "
                  "for a language model (of BLIP's written texts answer, cider or vqa)");
    if (name_.starts_with("choice")) questions_.emplace(file, samples);
  }

  double operator()(const sample_scores& samples) const {
    if (name_ == "accuracy") return token_accuracy(samples);
    if (name_ == "exact") return exact_match(samples);
    if (questions_)
      return questions_->accuracy(log_likelihoods(samples, name_ == "choice-per-token"));
    return name_ == "perplexity" ? perplexity(samples) : 100.0 / perplexity(samples);
  }

 private:
  std::string name_;
  std::optional<choices> questions_;
};

}  // namespace catmerge::harness
