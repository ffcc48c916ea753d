// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <harness/networks/data/written_text.hpp>
#include <map>
#include <string>
#include <vector>

namespace catmerge::harness {

/// How often each run of 1 to 4 words occurs in a text.
using ngram_counts = std::map<word_list, double>;

inline ngram_counts ngrams_of(const word_list& text) {
  ngram_counts counts;
  for (auto first = text.begin(); first != text.end(); ++first) {
    for (std::ptrdiff_t n = 1; n <= std::min<std::ptrdiff_t>(4, text.end() - first); ++n) {
      counts[word_list(first, first + n)] += 1;
    }
  }
  return counts;
}

/// CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726), as pycocoevalcap 1.2 computes it.
class cider {
 public:
  /// References of all samples, by which n-grams are weighed. Throws (require_references) for a
  /// sample without one.
  explicit cider(const reference_lists& references, const std::string& origin = "references")
      : samples_(static_cast<double>(references.size())) {
    require_references(references, 1, origin);
    for (const auto& of_sample : references) {
      ngram_counts together;
      for (const word_list& each : of_sample) together.merge(ngrams_of(each));
      for (const auto& [ngram, count] : together) documents_[ngram] += 1;
    }
  }

  /// A written text's score against its references, 0 to 1000.
  double operator()(const word_list& written, const std::vector<word_list>& references) const {
    const weighed mine = weigh(written);
    double sum = 0;
    for (const word_list& each : references) sum += similarity(mine, weigh(each));
    return 100 * 10 * sum / 4 / static_cast<double>(references.size());
  }

 private:
  struct weighed {
    std::map<word_list, double> weights;  ///< of each n-gram
    std::array<double, 4> squares{};      ///< the sums of their squares, for n = 1, 2, 3, 4
    double words = 0;
  };

  /// Count times log(samples / samples with the n-gram in a reference). An n-gram of no reference
  /// counts as one of a single sample.
  weighed weigh(const word_list& text) const {
    weighed result;
    result.words = static_cast<double>(text.size());
    for (const auto& [ngram, count] : ngrams_of(text)) {
      const auto found = documents_.find(ngram);
      const double rarity =
          std::log(samples_) - (found == documents_.end() ? 0 : std::log(found->second));
      result.weights[ngram] = count * rarity;
      result.squares[ngram.size() - 1] += count * rarity * count * rarity;
    }
    return result;
  }

  /// The sum over n of the cosines of the weights, where a written n-gram counts at most as often
  /// as the reference has it, times the penalty of unequal lengths, a Gaussian of deviation 6.
  static double similarity(const weighed& written, const weighed& reference) {
    std::array<double, 4> products{};
    for (const auto& [ngram, weight] : written.weights) {
      const auto found = reference.weights.find(ngram);
      if (found == reference.weights.end()) continue;
      products[ngram.size() - 1] += std::min(weight, found->second) * found->second;
    }
    double sum = 0;
    for (std::size_t n = 0; n < 4; ++n) {
      const double lengths = std::sqrt(written.squares[n]) * std::sqrt(reference.squares[n]);
      if (lengths > 0) sum += products[n] / lengths;
    }
    const double difference = written.words - reference.words;
    return sum * std::exp(-difference * difference / (2 * 6 * 6));
  }

  double samples_;
  ngram_counts documents_;  // the number of samples with the n-gram in a reference
};

/// CIDEr-D of each sample, in percent: 100 where papers print 1.0. The data set's is their mean. A
/// copy of the only reference gets 1000 if, for each n up to 4, it has an n-gram that not all
/// samples share. A single sample therefore gets 0. written and references: one per sample; texts
/// may be empty. Throws as class cider does.
inline std::vector<double> cider_d(const std::vector<word_list>& written,
                                   const reference_lists& references,
                                   const std::string& origin = "references") {
  const cider score(references, origin);
  std::vector<double> scores;
  for (std::size_t i = 0; i < written.size(); ++i) {
    scores.push_back(score(written[i], references[i]));
  }
  return scores;
}

}  // namespace catmerge::harness
