// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
// Writing texts and ranking answers: against what transformers writes by the same tables, and
// against the best of all texts.
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <harness/networks/writing/rank_answers.hpp>
#include <harness/networks/writing/write_texts.hpp>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "support/networks/fixtures.hpp"

using namespace network_test;
using harness::hypothesis;
using harness::matrix;
using harness::token_list;
using harness::writing_limits;

namespace {

/// The logits after a text.
using model_t = std::function<std::vector<double>(const token_list&)>;

/// By a table of tests/fixtures/beams.json.
model_t of_table(const nlohmann::json& table) {
  const auto pairs = table.at("pairs").get<std::vector<std::vector<std::vector<int>>>>();
  const auto places = table.at("places").get<std::vector<std::vector<int>>>();
  return [pairs, places](const token_list& text) {
    const auto last = static_cast<std::size_t>(text.back());
    const auto before = text.size() < 2 ? 0 : static_cast<std::size_t>(text[text.size() - 2]);
    std::vector<double> logits;
    for (std::size_t v = 0; v < places[text.size()].size(); ++v) {
      logits.push_back((pairs[before][last][v] + places[text.size()][v]) / 64.0);
    }
    return logits;
  };
}

/// Random logits, which depend on the whole text.
model_t random_model(unsigned seed, std::size_t words, double spread) {
  return [=](const token_list& text) {
    std::vector<unsigned> seeds = {seed};
    for (const auto token : text) seeds.push_back(static_cast<unsigned>(token) + 1);
    std::seed_seq sequence(seeds.begin(), seeds.end());
    std::mt19937 random(sequence);
    std::vector<double> logits(words);
    for (auto& v : logits) v = float(spread * (double(random() % 100001) / 5e4 - 1));
    return logits;
  };
}

/// The natural log-likelihood of each next token.
std::vector<double> likelihoods(const model_t& model, const token_list& text) {
  std::vector<double> values = model(text);
  double sum = 0;
  for (const double v : values) sum += std::exp(v);
  for (double& v : values) v -= std::log(sum);
  return values;
}

/// Sum of the log-likelihoods of a text's tokens after the first `prompt`.
double likelihood(const model_t& model, const token_list& text, std::size_t prompt) {
  double sum = 0;
  for (std::size_t i = prompt; i < text.size(); ++i) {
    const token_list before(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(i));
    sum += likelihoods(model, before)[static_cast<std::size_t>(text[i])];
  }
  return sum;
}

matrix rows_for(const model_t& model, const std::vector<hypothesis>& texts) {
  matrix logits;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto row = model(texts[i].tokens);
    if (i == 0) logits.resize(std::ssize(texts), std::ssize(row));
    for (std::size_t v = 0; v < row.size(); ++v) logits(index_t(i), index_t(v)) = float(row[v]);
  }
  return logits;
}

/// write_texts; checks what the model is asked for.
std::vector<token_list> write(const model_t& model, const std::vector<token_list>& prompts,
                              const writing_limits& limits) {
  std::size_t calls = 0;
  auto written = harness::write_texts(prompts, limits, [&](const std::vector<hypothesis>& texts) {
    REQUIRE_FALSE(texts.empty());
    std::set<std::pair<index_t, token_list>> asked;
    for (const hypothesis& each : texts) {
      const token_list& prompt = prompts.at(static_cast<std::size_t>(each.sample));
      REQUIRE(each.tokens.size() == prompt.size() + calls);
      CHECK(std::equal(prompt.begin(), prompt.end(), each.tokens.begin()));
      CHECK(std::ssize(each.tokens) < limits.max_length);
      CHECK((calls == 0 || each.tokens.back() != limits.end));
      CHECK(each.score ==
            doctest::Approx(likelihood(model, each.tokens, prompt.size())).epsilon(1e-9));
      CHECK(asked.insert({each.sample, each.tokens}).second);
    }
    ++calls;
    return rows_for(model, texts);
  });
  REQUIRE(written.size() == prompts.size());
  return written;
}

/// All complete texts.
void enumerate(const token_list& text, std::size_t prompt, index_t words,
               const writing_limits& limits, std::vector<token_list>& found) {
  const bool ended = text.size() > prompt && text.back() == limits.end;
  if (ended || std::ssize(text) == limits.max_length) {
    found.push_back(text);
    return;
  }
  for (index_t v = 0; v < words; ++v) {
    if (v == limits.end && std::ssize(text) < limits.min_length) continue;
    token_list longer = text;
    longer.push_back(v);
    enumerate(longer, prompt, words, limits, found);
  }
}

}  // namespace

TEST_CASE("texts are those of transformers, by greedy writing and by beams") {
  const auto file = nlohmann::json::parse(std::ifstream(fixture("beams.json")));
  std::size_t ended = 0, cut = 0;
  for (const auto& table : file.at("tables")) {
    const model_t model = of_table(table);
    const std::vector<token_list> prompts = table.at("prompts");
    for (const auto& run : table.at("runs")) {
      const writing_limits limits = {file.at("end"), run.at("min_length"), run.at("max_length"),
                                     run.at("beams")};
      CAPTURE(run.at("beams").dump());
      CAPTURE(limits.min_length);
      CAPTURE(limits.max_length);
      const std::vector<token_list> expected = run.at("texts");
      const auto written = write(model, prompts, limits);
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        CAPTURE(i);
        CHECK(written[i] == expected[i]);
        CHECK(write(model, {prompts[i]}, limits).front() == expected[i]);
        ++(written[i].back() == limits.end ? ended : cut);
      }
    }
  }
  CHECK(ended > 400);
  CHECK(cut > 400);
}

TEST_CASE("with a beam for every text the best text is found") {
  constexpr index_t words = 3;
  std::set<std::size_t> lengths;
  for (unsigned seed = 0; seed < 40; ++seed) {
    for (const index_t min_length : {0, 3}) {
      const model_t model = random_model(seed, words, seed % 2 == 0 ? 0.7 : 3.0);
      const token_list prompt = seed % 3 == 0 ? token_list{1, 0} : token_list{2};
      writing_limits limits = {1, min_length, 5};
      std::vector<token_list> all;
      enumerate(prompt, prompt.size(), words, limits, all);
      limits.beams = std::ssize(all);
      const token_list* best = nullptr;
      double best_mean = -std::numeric_limits<double>::infinity();
      for (const token_list& text : all) {
        const double mean = likelihood(model, text, prompt.size()) /
                            static_cast<double>(text.size() - prompt.size());
        if (mean > best_mean) best_mean = mean, best = &text;
      }
      CHECK(write(model, {prompt}, limits).front() == *best);
      lengths.insert(best->size());
    }
  }
  CHECK(lengths.size() > 2);
}

TEST_CASE("among equal tokens the first is written, and greedy writing stops at an end") {
  const model_t even = [](const token_list&) { return std::vector<double>(4); };
  CHECK(write(even, {{3}}, {2, 0, 4}) == std::vector<token_list>{{3, 0, 0, 0}});
  CHECK(write(even, {{3}, {1, 1}}, {0, 0, 4}) == std::vector<token_list>{{3, 0}, {1, 1, 0}});
  CHECK(write(even, {{3}}, {0, 3, 9}) == std::vector<token_list>{{3, 1, 1, 0}});
  // No end before four tokens, and none within the limit of three.
  CHECK(write(even, {{3}}, {0, 4, 3}) == std::vector<token_list>{{3, 1, 1}});
  // A better text needs a worse first token: beams find it.
  const model_t late = [](const token_list& text) -> std::vector<double> {
    if (text.size() == 1) return {0, 0.1, 0.2};
    return text[1] == 1 ? std::vector<double>{9, 0, 0} : std::vector<double>{0.1, 0, 0};
  };
  CHECK(write(late, {{2}}, {0, 0, 3, 1}) == std::vector<token_list>{{2, 2, 0}});
  CHECK(write(late, {{2}}, {0, 0, 3, 2}) == std::vector<token_list>{{2, 1, 0}});
}

TEST_CASE("prompts without room and logits that are not finite are refused by their sample") {
  const model_t even = [](const token_list&) { return std::vector<double>(4); };
  check_message(message_of([&] {
                  write(even, {{1}, {}}, {0, 0, 3});
                }),
                {"sample 1", "prompt of 1 to 2 tokens, found 0"});
  check_message(message_of([&] {
                  write(even, {{1}, {1, 2, 3}}, {0, 0, 3});
                }),
                {"sample 1", "prompt of 1 to 2 tokens, found 3"});
  const model_t broken = [](const token_list& text) {
    return std::vector<double>{text.size() == 3 ? std::nan("") : 1.0, 0.0, 0.0};
  };
  check_message(message_of([&] {
                  harness::write_texts({{1}, {1, 2}}, {1, 0, 5},
                                       [&](const auto& texts) { return rows_for(broken, texts); });
                }),
                {"sample 1: a logit after 3 tokens is not finite"});
  CHECK_THROWS_AS(harness::write_texts({{1}}, {0, 0, 5}, [](const auto&) { return matrix(2, 4); }),
                  std::logic_error);
  CHECK(harness::write_texts({}, {0, 0, 5}, [](const auto&) { return matrix(); }).empty());
}

TEST_CASE("the answer that is chosen has the largest likelihood") {
  constexpr std::size_t words = 6;
  std::set<std::size_t> chosen;
  std::size_t cut_off = 0, smoothed = 0;
  for (unsigned seed = 0; seed < 120; ++seed) {
    const model_t model = random_model(seed, words, 2);
    std::mt19937 random(seed);
    harness::answer_ranking ranking = {{5}, {{0}}};  // an answer without words
    for (int i = 0; i < 9; ++i) {
      token_list answer(1 + random() % 4);
      for (auto& token : answer) token = 1 + random() % (words - 1);
      answer.push_back(0);
      ranking.answers.push_back(answer);
    }
    // Those ahead of `a` by the first token, and the best sum among those with less than `kept`.
    const auto best = [&](index_t kept, double smoothing) {
      const auto first = likelihoods(model, ranking.prompt);
      const auto of = [&](std::size_t a) { return first[std::size_t(ranking.answers[a].front())]; };
      std::size_t found = 0;
      double largest = -std::numeric_limits<double>::infinity();
      for (std::size_t a = 0; a < ranking.answers.size(); ++a) {
        index_t ahead = 0;
        for (std::size_t b = 0; b < ranking.answers.size(); ++b) {
          ahead += of(b) > of(a) || (of(b) == of(a) && b < a) ? 1 : 0;
        }
        if (ahead >= kept) continue;
        double sum = 0;
        token_list text = ranking.prompt;
        for (const auto token : ranking.answers[a]) {
          const auto row = likelihoods(model, text);
          for (const double v : row) sum += smoothing * v / double(words);
          sum += (1 - smoothing) * row[std::size_t(token)];
          text.push_back(token);
        }
        if (sum > largest) largest = sum, found = a;
      }
      return found;
    };
    for (const double smoothing : {0.0, 0.4}) {
      for (const index_t kept : {1, 3, 10, 128}) {
        ranking.kept = kept;
        ranking.smoothing = smoothing;
        std::size_t calls = 0;
        const auto next = [&](const std::vector<hypothesis>& texts) {
          CHECK(std::ssize(texts) <= (calls == 0 ? 1 : kept));
          for (const hypothesis& each : texts) {
            CHECK(each.sample == 7);
            CHECK(each.tokens.size() == 1 + calls);
          }
          ++calls;
          return rows_for(model, texts);
        };
        CHECK(harness::best_answer(7, ranking, next) == best(kept, smoothing));
      }
    }
    chosen.insert(best(128, 0));
    cut_off += best(3, 0) != best(128, 0) ? 1U : 0U;
    smoothed += best(128, 0.4) != best(128, 0) ? 1U : 0U;
  }
  CHECK(chosen.size() == 10);
  CHECK(cut_off > 5);
  CHECK(smoothed > 5);
}

TEST_CASE("an answer whose first token is not among the likeliest is not chosen") {
  // After the prompt 1 is likelier than 2; after 1 all is even, after 2 the end is certain.
  const model_t model = [](const token_list& text) -> std::vector<double> {
    if (text.size() == 1) return {-9, 1, 0.5, -9};
    return text.back() == 2 ? std::vector<double>{20, 0, 0, 0} : std::vector<double>(4);
  };
  const auto next = [&](const auto& texts) { return rows_for(model, texts); };
  harness::answer_ranking ranking = {{3}, {{1, 0}, {2, 0}, {1, 3, 0}}};
  CHECK(harness::best_answer(0, ranking, next) == 1);
  ranking.kept = 2;  // both that begin with 1
  CHECK(harness::best_answer(0, ranking, next) == 0);
  // Among equals the first of the list.
  ranking.answers = {{1, 3, 0}, {1, 1, 0}, {1, 2, 3}};
  CHECK(harness::best_answer(0, ranking, next) == 0);
  ranking.answers.assign(40, {1, 3, 0});
  CHECK(harness::best_answer(0, ranking, next) == 0);
}
