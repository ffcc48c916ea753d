// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// Written texts against right ones. Texts are equal if their tokens are: what some data sets'
/// scripts do first (lower case, no punctuation, no articles) is the caller's.
namespace catmerge::harness {

/// The tokens of one text, without special ones.
using word_list = std::vector<std::int64_t>;

/// The right texts of each sample.
using reference_lists = std::vector<std::vector<word_list>>;

/// Throws catmerge::error unless each sample has `least` references or more. origin: what the
/// message starts with, for instance the file and the tensor.
inline void require_references(const reference_lists& references, std::size_t least,
                               const std::string& origin) {
  for (std::size_t i = 0; i < references.size(); ++i) {
    if (references[i].size() >= least) continue;
    throw error(origin + ": sample " + std::to_string(i) + ": expected " + std::to_string(least) +
                (least == 1 ? " reference" : " references") + " or more, found " +
                std::to_string(references[i].size()));
  }
}

/// For each sample 100 if the written text equals one of its references, else 0. The mean is the
/// share of right answers in percent. written and references: one per sample. Throws
/// (require_references) for a sample without a reference.
inline std::vector<double> answer_accuracy(const std::vector<word_list>& written,
                                           const reference_lists& references,
                                           const std::string& origin = "references") {
  require_references(references, 1, origin);
  std::vector<double> scores;
  for (std::size_t i = 0; i < written.size(); ++i) {
    const auto& right = references[i];
    scores.push_back(std::find(right.begin(), right.end(), written[i]) == right.end() ? 0 : 100);
  }
  return scores;
}

/// VQA accuracy (Antol et al. 2015, arXiv 1505.00468, and the data set's official evaluation): each
/// of a sample's r references is left out in turn, and the answer counts min(1, m / 3), where m of
/// the other r - 1 equal it. One number per sample, the mean over the r turns, in percent; the
/// data set's is their mean. An answer that m references give gets
///
///     100 (m min(1, (m - 1) / 3) + (r - m) min(1, m / 3)) / r
///
/// written and references: one per sample. Throws (require_references) for a sample with fewer than
/// four references, by which no answer could get 100.
inline std::vector<double> vqa_accuracy(const std::vector<word_list>& written,
                                        const reference_lists& references,
                                        const std::string& origin = "references") {
  require_references(references, 4, origin);
  std::vector<double> scores;
  for (std::size_t i = 0; i < written.size(); ++i) {
    const auto& right = references[i];
    const auto r = static_cast<double>(right.size());
    const auto m = static_cast<double>(std::count(right.begin(), right.end(), written[i]));
    const double by_given = m * std::min(1.0, (m - 1) / 3);  // one that gives it is left out
    const double by_others = (r - m) * std::min(1.0, m / 3);
    scores.push_back(100 * (by_given + by_others) / r);
  }
  return scores;
}

}  // namespace catmerge::harness
