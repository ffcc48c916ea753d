// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/safetensors.hpp>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <harness/networks/data/integers.hpp>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// Questions with several answers, each of which is a sample of a file: `question` (n) numbers the
/// questions, in any order, and `correct` (n) is 1 for right answers and 0 for the others.
class choices {
 public:
  /// Throws catmerge::error naming the file, the tensor and the question, unless each question has
  /// two answers or more, and a right one among them.
  choices(const std::filesystem::path& path, index_t samples) {
    const io::safetensors_file file(path);
    const auto integers = [&](const char* name) {
      const io::tensor_entry& entry = file.at(name);
      if (entry.shape != io::shape_t{samples} || !is_integer(entry.type)) {
        io::fail(path, name,
                 "expected integers " + io::to_string({samples}) + ", one for each sample, found " +
                     io::describe(entry));
      }
      std::vector<std::int64_t> values;
      for (index_t i = 0; i < samples; ++i) values.push_back(integer_at(entry, i));
      return values;
    };
    const auto question = integers("question"), correct = integers("correct");
    std::map<std::int64_t, std::vector<std::size_t>> by_question;
    for (std::size_t i = 0; i < question.size(); ++i) {
      if (correct[i] != 0 && correct[i] != 1) {
        io::fail(path, "correct",
                 "sample " + std::to_string(i) + ": expected 0 or 1, found " +
                     std::to_string(correct[i]));
      }
      correct_.push_back(correct[i] == 1);
      by_question[question[i]].push_back(i);
    }
    for (auto& [number, answers] : by_question) {
      bool has_right = false;
      for (const std::size_t i : answers) has_right = has_right || correct_[i];
      if (answers.size() < 2 || !has_right) {
        io::fail(path, "question",
                 "question " + std::to_string(number) +
                     ": expected two answers or more, one of them correct, found " +
                     std::to_string(answers.size()) + (has_right ? "" : ", none of them correct"));
      }
      questions_.push_back(std::move(answers));
    }
  }

  /// The share of questions, in percent, whose answer of the largest value is right; among equals
  /// the first counts. values: one per sample.
  double accuracy(const std::vector<double>& values) const {
    double right = 0;
    for (const auto& answers : questions_) {
      std::size_t best = answers.front();
      for (const std::size_t i : answers) {
        if (values[i] > values[best]) best = i;
      }
      right += correct_[best] ? 1 : 0;
    }
    return 100.0 * right / static_cast<double>(questions_.size());
  }

 private:
  std::vector<bool> correct_;
  std::vector<std::vector<std::size_t>> questions_;  // the samples of each
};

}  // namespace catmerge::harness
