// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/safetensors.hpp>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <harness/networks/data/cider.hpp>
#include <harness/networks/data/integers.hpp>
#include <harness/networks/data/word_pieces.hpp>
#include <harness/networks/data/written_text.hpp>
#include <harness/networks/network.hpp>
#include <harness/networks/writing/next_logits.hpp>
#include <string>
#include <utility>
#include <vector>

/// Right texts, in data files, and the metrics that compare written texts with them.
namespace catmerge::harness {

/// A text without special tokens: padding, beginning and end, and numbers below 0.
inline token_list without_special(const token_list& text, const text_writing& special) {
  token_list kept;
  for (const auto token : text) {
    if (token >= 0 && token != special.begin && token != special.end && token != special.pad)
      kept.push_back(token);
  }
  return kept;
}

/// The texts of a tensor of integers (..., tokens) as lists of tokens. Throws catmerge::error for
/// another type, and for a token beyond `words`, the size of the table.
inline std::vector<token_list> token_lists(const io::safetensors_file& file,
                                           const std::string& name, std::size_t extents,
                                           index_t words) {
  const io::tensor_entry& entry = file.at(name);
  if (entry.shape.size() != extents || entry.shape.back() < 1 || !is_integer(entry.type)) {
    io::fail(file.path(), name,
             "expected integers of " + std::to_string(extents) +
                 " extents, the last one tokens, found " + io::describe(entry));
  }
  const index_t length = entry.shape.back();
  index_t texts = 1;
  for (std::size_t i = 0; i + 1 < extents; ++i) texts *= entry.shape[i];
  std::vector<token_list> lists(static_cast<std::size_t>(texts));
  for (index_t i = 0; i < texts * length; ++i) {
    const std::int64_t token = integer_at(entry, i);
    if (token >= words) {
      io::fail(file.path(), name,
               "text " + std::to_string(i / length) + " has token " + std::to_string(token) +
                   ", expected less than " + std::to_string(words));
    }
    lists[static_cast<std::size_t>(i / length)].push_back(token);
  }
  return lists;
}

/// The candidates `answers` (m, tokens) of a file, each with its end.
inline std::vector<token_list> candidates_of(const std::filesystem::path& path, index_t words,
                                             const text_writing& special) {
  std::vector<token_list> answers;
  for (const auto& text : token_lists(io::safetensors_file(path), "answers", 2, words)) {
    answers.push_back(without_special(text, special));
    if (answers.back().empty()) {
      io::fail(path, "answers",
               "text " + std::to_string(answers.size() - 1) +
                   " has no words: every row is one of "
                   "the answers");
    }
    answers.back().push_back(special.end);
  }
  if (answers.empty()) io::fail(path, "answers", "holds no answers");
  return answers;
}

/// The right texts of each sample: those of `references` (n, texts, tokens) that have words, or, if
/// there is no such tensor, the one that `labels` ask for. words: tokens in the table.
inline reference_lists references_of(const std::filesystem::path& path,
                                     const sample_reader& samples, index_t words,
                                     const text_writing& special, word_pieces& pieces) {
  const io::safetensors_file file(path);
  reference_lists all;
  if (file.find("references") == nullptr) {
    for (index_t i = 0; i < samples.size(); ++i) {
      token_list text;
      for (const auto& each : samples.asked(i)) text.push_back(each.token);
      all.push_back({pieces.words(without_special(text, special))});
    }
    return all;
  }
  const auto lists = token_lists(file, "references", 3, words);
  const auto& shape = file.at("references").shape;
  if (shape[1] < 1) {
    io::fail(path, "references",
             "expected a text or more per sample, found " + io::describe(file.at("references")));
  }
  if (shape[0] != samples.size()) {
    io::fail(path, "references",
             "expected texts of " + std::to_string(samples.size()) + " samples, found " +
                 std::to_string(shape[0]));
  }
  for (std::size_t i = 0; i < lists.size(); ++i) {
    if (i % static_cast<std::size_t>(shape[1]) == 0) all.emplace_back();
    word_list text = pieces.words(without_special(lists[i], special));
    if (!text.empty()) all.back().push_back(std::move(text));
  }
  require_references(all, 1, path.string() + ": tensor 'references'");
  return all;
}

/// The names of the metrics of written texts.
inline const std::vector<std::string> written_metric_names = {"answer", "cider", "vqa"};

inline bool is_of_written_texts(const std::string& metric) {
  return std::find(written_metric_names.begin(), written_metric_names.end(), metric) !=
         written_metric_names.end();
}

/// Throws catmerge::error unless each sample has enough right texts for the metric, before a
/// network runs.
inline void check_references(const std::string& metric, const reference_lists& references,
                             const std::filesystem::path& path) {
  require_references(references, metric == "vqa" ? 4 : 1,
                     path.string() + ": " + metric +
                         " (right texts are 'references', or what "
                         "'labels' ask for)");
}

/// The scores of written texts by a metric, one per sample; their mean is that of the file:
///
/// - answer: 100 if the words are those of a reference;
/// - vqa: VQA accuracy, in percent;
/// - cider: CIDEr-D times 100.
inline std::vector<double> scores_of_texts(const std::string& metric,
                                           const std::vector<word_list>& written,
                                           const reference_lists& references) {
  if (metric == "answer") return answer_accuracy(written, references);
  if (metric == "vqa") return vqa_accuracy(written, references);
  return cider_d(written, references);
}

}  // namespace catmerge::harness
