// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
// Scores of written texts: CIDEr-D against pycocoevalcap's, the shares of right answers against
// their definitions in plain loops.
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <harness/networks/data/average.hpp>
#include <harness/networks/data/cider.hpp>
#include <harness/networks/data/written_text.hpp>
#include <nlohmann/json.hpp>
#include <random>

#include "support/networks/fixtures.hpp"

using namespace network_test;
using harness::reference_lists;
using harness::word_list;
using texts_t = std::vector<word_list>;

namespace {

struct corpus {
  texts_t written;
  reference_lists references;
  std::vector<double> scores;
};

/// The corpora of tests/fixtures/cider.json.
std::vector<corpus> corpora() {
  std::vector<corpus> all;
  for (const auto& each : nlohmann::json::parse(std::ifstream(fixture("cider.json")))) {
    all.push_back({each.at("written"), each.at("references"), each.at("scores")});
  }
  return all;
}

/// Answers of up to two words of three, which often agree.
word_list random_answer(std::mt19937& random) {
  word_list answer(random() % 3);
  for (auto& word : answer) word = random() % 3;
  return answer;
}

}  // namespace

TEST_CASE("CIDEr-D is pycocoevalcap's") {
  const auto all = corpora();
  REQUIRE(all.size() == 7);
  std::size_t alone = 0, empty = 0, zero = 0, large = 0;
  for (const corpus& each : all) {
    const auto scores = harness::cider_d(each.written, each.references);
    REQUIRE(scores.size() == each.scores.size());
    for (std::size_t i = 0; i < scores.size(); ++i) {
      CHECK(std::abs(scores[i] / 100 - each.scores[i]) < 1e-10);
      empty += each.written[i].empty() ? 1U : 0U;
      zero += each.scores[i] == 0 ? 1U : 0U;
      large += each.scores[i] > 5 ? 1U : 0U;
    }
    alone += each.scores.size() == 1 ? 1U : 0U;
  }
  CHECK(alone > 0);
  CHECK(empty > 2);
  CHECK(zero > 5);
  CHECK(large > 4);
}

TEST_CASE("CIDEr-D: names of words, orders, copies, a single sample") {
  for (corpus each : corpora()) {
    const auto before = harness::cider_d(each.written, each.references);
    const double mean = harness::average_of(before);
    const auto rename = [](word_list& text) {
      for (auto& word : text) word = (std::int64_t{1} << 40) - 3 * word;
    };
    for (word_list& text : each.written) rename(text);
    for (auto& of_sample : each.references) {
      for (word_list& text : of_sample) rename(text);
      std::reverse(of_sample.begin(), of_sample.end());
    }
    std::reverse(each.written.begin(), each.written.end());
    std::reverse(each.references.begin(), each.references.end());
    const auto after = harness::cider_d(each.written, each.references);
    CHECK(harness::average_of(after) == doctest::Approx(mean).epsilon(1e-12));
    for (std::size_t i = 0; i < after.size(); ++i) {
      CHECK(after[i] == doctest::Approx(before[before.size() - 1 - i]).epsilon(1e-12));
    }
  }
  const reference_lists two = {{{1, 2, 3, 4}}, {{5, 6, 7, 8, 9}}};
  const auto copies = harness::cider_d({{1, 2, 3, 4}, {5, 6, 7, 8, 9}}, two);
  CHECK(copies[0] == doctest::Approx(1000));
  CHECK(copies[1] == doctest::Approx(1000));
  // Three words of four: the cosines for one, two and three words, and the penalty.
  const auto shorter = harness::cider_d({{1, 2, 3}, {}}, two);
  const double cosines = std::sqrt(3.0 / 4) + std::sqrt(2.0 / 3) + std::sqrt(1.0 / 2);
  CHECK(shorter[0] == doctest::Approx(1000 * cosines / 4 * std::exp(-1.0 / 72)).epsilon(1e-12));
  CHECK(shorter[1] == 0);
  CHECK(harness::cider_d({{1, 2, 3, 4}}, {{{1, 2, 3, 4}}}) == std::vector<double>{0});
}

TEST_CASE("VQA accuracy leaves out each reference in turn") {
  std::mt19937 random(6);
  texts_t written;
  reference_lists references;
  std::vector<double> expected;
  for (std::size_t i = 0; i < 300; ++i) {
    written.push_back(random_answer(random));
    references.emplace_back(4 + random() % 8);
    for (word_list& each : references.back()) each = random_answer(random);
    double sum = 0;
    for (std::size_t left_out = 0; left_out < references[i].size(); ++left_out) {
      double equal = 0;
      for (std::size_t j = 0; j < references[i].size(); ++j) {
        equal += j != left_out && references[i][j] == written[i] ? 1 : 0;
      }
      sum += std::min(1.0, equal / 3);
    }
    expected.push_back(100 * sum / static_cast<double>(references[i].size()));
  }
  const auto scores = harness::vqa_accuracy(written, references);
  REQUIRE(scores.size() == 300);
  for (std::size_t i = 0; i < 300; ++i) CHECK(scores[i] == doctest::Approx(expected[i]));
  // Of ten references the answer is that of none, 1, 2, 3, 4, all.
  const std::vector<std::pair<int, double>> known = {{0, 0},  {1, 30},  {2, 60},
                                                     {3, 90}, {4, 100}, {10, 100}};
  for (const auto& [equal, score] : known) {
    texts_t ten(10, word_list{8});
    std::fill(ten.begin(), ten.begin() + equal, word_list{5, 1});
    CHECK(harness::vqa_accuracy({{5, 1}}, {ten}).front() == doctest::Approx(score));
  }
}

TEST_CASE("an answer is right if it equals a reference") {
  const reference_lists references = {{{1, 2}, {3}}, {{1, 2}, {3}}, {{1, 2}, {3}}, {{}}, {{4}}};
  CHECK(harness::answer_accuracy({{3}, {1, 2}, {2, 1}, {}, {4, 4}}, references) ==
        std::vector<double>{100, 100, 0, 100, 0});
}

TEST_CASE("samples with too few references are named") {
  const reference_lists three = {texts_t(4, {1}), texts_t(3, {1})}, none = {{{1}}, {}};
  const texts_t written = {{1}, {1}};
  check_message(message_of([&] { harness::vqa_accuracy(written, three, "a.safetensors: 'r'"); }),
                {"a.safetensors: 'r': sample 1: expected 4 references or more, found 3"});
  check_message(message_of([&] { harness::answer_accuracy(written, none); }),
                {"references: sample 1: expected 1 reference or more, found 0"});
  check_message(message_of([&] { harness::cider_d(written, none, "b"); }),
                {"b: sample 1: expected 1 reference or more, found 0"});
}
