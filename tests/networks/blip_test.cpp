// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
// BLIP against transformers' own (fixtures/make_blip.py), on texts of uneven lengths.
#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <harness/networks/batch.hpp>
#include <harness/networks/data/references.hpp>
#include <harness/networks/data/token_scores.hpp>
#include <harness/networks/writing/written_samples.hpp>
#include <nlohmann/json.hpp>

#include "support/networks/checks.hpp"

using namespace network_test;
using harness::token_list;

namespace {

const std::vector<std::string> variants = {"blip/caption", "blip/caption_untied", "blip/vqa",
                                           "blip/vqa_wide", "blip/match"};

bool writes(const std::string& variant) {
  return variant != "blip/match";
}

fs::path samples_of(const std::string& variant) {
  return fixture(variant) / "samples.safetensors";
}

/// A configuration with one key changed.
fs::path changed_config(const std::string& variant, const std::string& key,
                        const nlohmann::json& value) {
  std::ifstream file(fixture(variant) / "config.json");
  auto config = nlohmann::json::parse(file);
  config[nlohmann::json::json_pointer("/" + key)] = value;
  const fs::path path = scratch().file("config.json");
  std::ofstream(path) << config.dump();
  return path;
}

/// The samples of a fixture over and over, so that they fill several chunks.
activations many(const model& m, const std::string& variant, index_t count) {
  const auto reader = m.net->open_samples(samples_of(variant));
  std::vector<activations> parts;
  for (index_t i = 0; i < count; ++i) parts.push_back(reader->load(i * 3 % reader->size(), 1));
  return harness::joined(parts);
}

/// The rows of a tensor of integers as lists, up to the first negative one.
std::vector<token_list> lists_of(const io::safetensors_file& file, const std::string& name) {
  const auto& entry = file.at(name);
  std::vector<token_list> lists;
  for (index_t i = 0; i < entry.shape[0]; ++i) {
    lists.emplace_back();
    for (index_t at = 0; at < entry.shape[1]; ++at) {
      const auto token = harness::integer_at(entry, i * entry.shape[1] + at);
      if (token < 0) break;
      lists.back().push_back(token);
    }
  }
  return lists;
}

/// The prompt of a sample: the tokens before the first that is asked for.
token_list prompt_of(const harness::sample_reader& reader, index_t sample) {
  const activations state = reader.load(sample, 1);
  token_list prompt;
  for (index_t i = 0; i <= state.asked.front(); ++i)
    prompt.push_back(state.waiting.back().tokens[std::size_t(i)].word);
  return prompt;
}

/// A fixture's samples without the tensors named.
fs::path samples_without(const std::string& variant, const std::vector<std::string>& names) {
  table t(samples_of(variant));
  for (const auto& name : names) t.tensors.erase(name);
  return t.write("samples.safetensors");
}

/// Those of the texts that the network shall write.
std::vector<std::string> answer_tensors(const std::string& variant) {
  if (variant.find("vqa") != std::string::npos)
    return {"decoder_input_ids", "decoder_attention_mask", "labels"};
  return {"input_ids", "attention_mask", "labels"};
}

}  // namespace

TEST_CASE("every recorded input and the output agree with transformers") {
  for (const std::string& variant : variants)
    check_agrees(variant, "logits", {"nll", "greedy", "beams"});
}

TEST_CASE("likelihoods of labels agree with transformers") {
  for (const std::string& variant : variants) {
    if (!writes(variant)) continue;
    CAPTURE(variant);
    const model m(variant);
    const auto reader = m.net->open_samples(samples_of(variant));
    const io::safetensors_file expected(fixture(variant) / "expected.safetensors");
    const matrix nll = tensor_rows(expected, "nll");
    index_t row = 0;
    for (const auto& sample : harness::score_tokens(*m.net, m.weights, *reader))
      for (const auto& token : sample)
        CHECK(std::abs(token.log_likelihood + double(nll(row++, 0))) <= tolerance);
    CHECK(row == nll.rows());
  }
}

TEST_CASE("written texts are those of transformers, greedily and by beams") {
  for (const std::string& variant : variants) {
    if (!writes(variant)) continue;
    CAPTURE(variant);
    const model m(variant);
    const io::safetensors_file expected(fixture(variant) / "expected.safetensors");
    // transformers gives answers no prompt of their own.
    const bool answers = variant.find("vqa") != std::string::npos;
    const auto reader = m.net->open_samples(
        answers ? samples_without(variant, answer_tensors(variant)) : samples_of(variant));
    harness::writing_options options;
    options.max_length = std::stoll(expected.metadata().at("max_length"));
    options.min_length = std::stoll(expected.metadata().at("min_length"));
    for (const index_t beams : {1, 3}) {
      CAPTURE(beams);
      options.beams = beams;
      const auto lists = lists_of(expected, beams == 1 ? "greedy" : "beams");
      std::vector<token_list> texts;
      for (std::size_t i = 0; i < lists.size(); ++i) {
        const token_list prompt = prompt_of(*reader, index_t(i));
        REQUIRE(std::equal(prompt.begin(), prompt.end(), lists[i].begin()));
        texts.emplace_back(lists[i].begin() + std::ssize(prompt), lists[i].end());
      }
      // Whole, and one sample at a time: neighbours have no influence.
      CHECK(harness::texts_of(*m.net, m.weights, *reader, options) == texts);
      CHECK(harness::texts_of(*m.net, m.weights, *reader, options, on_threads(2), {}, 1) == texts);
    }
  }
}

TEST_CASE("samples without texts get those that the network writes") {
  for (const std::string& variant : variants) {
    if (!writes(variant)) continue;
    CAPTURE(variant);
    const model m(variant);
    auto images = m.net->open_samples(samples_without(variant, answer_tensors(variant)));
    REQUIRE(images->lacks_texts());
    check_message(message_of([&] { images->asked(0); }), {"samples.safetensors", "is missing"});
    const auto special = *m.net->writing();
    CHECK(prompt_of(*images, 1) == token_list{special.begin});
    const auto texts = harness::texts_of(*m.net, m.weights, *images, {});
    const index_t count = images->size();
    const auto reader = harness::with_texts(*m.net, m.weights, std::move(images), count);
    CHECK_FALSE(reader->lacks_texts());
    // A file with these texts, and every token asked for, is the same.
    std::vector<std::int64_t> ids, mask;
    std::size_t longest = 0;
    for (const auto& text : texts) longest = std::max(longest, text.size() + 1);
    for (const auto& text : texts) {
      for (std::size_t i = 0; i < longest; ++i) {
        ids.push_back(i == 0 ? special.begin : i <= text.size() ? text[i - 1] : special.pad);
        mask.push_back(i <= text.size() ? 1 : 0);
      }
    }
    const std::string prefix = variant.find("vqa") != std::string::npos ? "decoder_" : "";
    table t(samples_without(variant, answer_tensors(variant)));
    const io::shape_t shape{count, index_t(longest)};
    t.set<std::int64_t>(prefix + "input_ids", io::dtype::i64, shape, ids);
    t.set<std::int64_t>(prefix + "attention_mask", io::dtype::i64, shape, mask);
    const auto file = m.net->open_samples(t.write("samples.safetensors"));
    for (const auto& [first, size] : {std::pair<index_t, index_t>{0, count}, {1, 2}}) {
      const auto a = run_all(*m.net, m.weights, reader->load(first, size));
      CHECK(same_bits(a, run_all(*m.net, m.weights, file->load(first, size))));
    }
    for (index_t i = 0; i < count; ++i) {
      const auto a = reader->asked(i), b = file->asked(i);
      REQUIRE(a.size() == b.size());
      for (std::size_t at = 0; at < a.size(); ++at) {
        CHECK(a[at].row == b[at].row);
        CHECK(a[at].token == b[at].token);
      }
    }
    // Each token of a text that was written greedily is the likeliest one.
    CHECK(harness::exact_match(harness::score_tokens(*m.net, m.weights, *reader)) == 100);
  }
}

TEST_CASE("the chosen answer is the likeliest, by the smoothed loss of the published code") {
  const std::string variant = "blip/vqa";
  const model m(variant);
  const auto reader = m.net->open_samples(samples_of(variant));
  const auto special = *m.net->writing();
  table t(samples_of(variant));
  const std::vector<std::int64_t> ids = {5, 6, 0, 7, 0, 0, 9, 8, 7, 11, 12, 0};
  t.set<std::int64_t>("answers", io::dtype::i64, {4, 3}, ids);
  const auto file = t.write("samples.safetensors");
  harness::writing_options options;
  options.answers = harness::candidates_of(file, m.net->output_width(), special);
  REQUIRE(options.answers[1] == token_list{7, special.end});
  const auto chosen = harness::texts_of(*m.net, m.weights, *reader, options);
  for (index_t i = 0; i < reader->size(); ++i) {
    double best = -1e9;
    token_list expected;
    for (const auto& answer : options.answers) {
      activations state = reader->load(i, 1);
      const token_list prompt = prompt_of(*reader, i);
      state.waiting.back() = {};
      state.asked.clear();
      index_t place = 0;
      for (const auto& part : {prompt, answer})
        for (const auto word : part) state.waiting.back().tokens.push_back({word, place++, 0});
      state.waiting.back().offsets.push_back(place);
      for (index_t at = std::ssize(prompt) - 1; at + 1 < place; ++at) state.asked.push_back(at);
      const matrix logits = run_all(*m.net, m.weights, state);
      double score = 0;
      for (index_t at = 0; at < logits.rows(); ++at) {
        const auto p = harness::log_softmax(logits.row(at), 1);
        score += 0.9 * p(answer[std::size_t(at)]) + 0.1 * p.mean();
      }
      if (score > best) expected = answer;
      best = std::max(best, score);
    }
    CHECK(chosen[std::size_t(i)] == expected);
  }
  t.set<std::int64_t>("answers", io::dtype::i64, {2, 2}, {5, 6, special.pad, special.end});
  check_message(message_of([&] { harness::candidates_of(t.write("a.safetensors"), 40, special); }),
                {"a.safetensors", "'answers'", "text 1", "no words"});
  // An answer may be as long as the table of positions has room for, the end left out.
  options.answers = {token_list(std::size_t(special.longest) - 1, 5)};
  options.answers[0].push_back(special.end);
  options.origin = "the file";
  CHECK(harness::texts_of(*m.net, m.weights,
                          *m.net->open_samples(samples_without(variant, answer_tensors(variant))),
                          options)
            .size() == std::size_t(reader->size()));
  options.answers[0].insert(options.answers[0].begin(), 5);
  check_message(message_of([&] { harness::texts_of(*m.net, m.weights, *reader, options); }),
                {"the file", "sample 0", "its prompt with an answer",
                 std::to_string(special.longest) + " at most"});
  t.set<std::int64_t>("answers", io::dtype::i64, {1, 2}, {5, 4000});
  check_message(message_of([&] { harness::candidates_of(t.write("a.safetensors"), 40, special); }),
                {"a.safetensors", "'answers'", "4000"});
}

TEST_CASE("every parameter belongs to one block, in the file's shape") {
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const model m(variant);
    std::string tied;
    const auto last = m.net->parameters(m.net->block_count() - 1);
    const bool apart = std::any_of(
        last.begin(), last.end(), [](const auto& p) { return p.name.ends_with("decoder.weight"); });
    if (writes(variant) && !apart) tied = "text_decoder.bert.embeddings.word_embeddings.weight";
    const auto of_blocks = check_parameters(m, many(m, variant, 12), tied);
    for (const std::string& name : m.checkpoint.names()) {
      CAPTURE(name);
      // Beside a bias of its own this one is not used.
      const bool unused =
          variant == "blip/caption_untied" && name == "text_decoder.cls.predictions.bias";
      CHECK(of_blocks.count(name) == (unused ? 0 : 1));
    }
  }
}

TEST_CASE("every weight and every scale is recorded, but tables and patches") {
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const model m(variant);
    std::set<std::string> recorded;
    for (const auto& block : recorded_names(m, many(m, variant, 3)))
      for (const auto& group : block) recorded.insert(group.begin(), group.end());
    for (std::size_t block = 0; block < m.net->block_count(); ++block) {
      for (const auto& p : m.net->parameters(block)) {
        CAPTURE(p.name);
        const bool table = p.name.ends_with("_embeddings.weight") ||
                           p.name.find("patch_embedding") != std::string::npos;
        CHECK((recorded.count(p.name) == 1) == (p.name.ends_with("weight") && !table));
      }
    }
  }
}

TEST_CASE("the same bits on any number of threads, recording or not") {
  for (const std::string& variant : variants) {
    const model m(variant);
    check_same_bits(m, many(m, variant, 90));
  }
}

TEST_CASE("a run that ends at an input has recorded it whole") {
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const model m(variant);
    check_stops(m, many(m, variant, 3));
  }
}

TEST_CASE("a sample's output does not depend on its neighbours") {
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const model m(variant);
    const activations samples = many(m, variant, 70);
    const auto offsets = harness::output_offsets(samples);
    const matrix all = run_all(*m.net, m.weights, samples);
    const auto reader = m.net->open_samples(samples_of(variant));
    for (const index_t i : {0, 1, 33, 69}) {
      const matrix one = run_all(*m.net, m.weights, reader->load(i * 3 % reader->size(), 1));
      const index_t first = offsets[std::size_t(i)];
      REQUIRE(one.rows() == offsets[std::size_t(i) + 1] - first);
      CHECK(largest_difference(one, all.middleRows(first, one.rows())) <= 2e-5);
    }
  }
}

TEST_CASE("a decoder's token does not see later ones, a question's does") {
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const model m(variant);
    const auto reader = m.net->open_samples(samples_of(variant));
    const activations sample = reader->load(0, 1);
    const auto with_other_last = [&](std::size_t text) {
      activations other = sample;
      auto& word = other.waiting[text].tokens.back().word;
      word = word == 5 ? 6 : 5;
      return run_all(*m.net, m.weights, other);
    };
    const matrix expected = run_all(*m.net, m.weights, sample);
    if (writes(variant)) {
      // The last token is asked for, and never asks.
      CHECK(same_bits(with_other_last(sample.waiting.size() - 1), expected));
    }
    if (!writes(variant) || sample.waiting.size() > 1)
      CHECK(largest_difference(with_other_last(0), expected) > 1e-3);
  }
}

TEST_CASE("the rows of each sample among a weight's inputs") {
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const model m(variant);
    const auto reader = m.net->open_samples(samples_of(variant));
    activations all = reader->load(0, reader->size());
    std::vector<activations> alone;
    for (index_t i = 0; i < reader->size(); ++i) alone.push_back(reader->load(i, 1));
    for (std::size_t block = 0; block < m.net->block_count(); ++block) {
      keep_all together;
      m.net->run(block, m.weights, all, &together);
      std::vector<keep_all> each(alone.size());
      for (std::size_t i = 0; i < alone.size(); ++i)
        m.net->run(block, m.weights, alone[i], &each[i]);
      for (const auto& p : m.net->parameters(block)) {
        for (std::size_t r = 0; r < together.records.size(); ++r) {
          const auto& names = together.records[r].names;
          if (p.shape.size() != 2 || std::find(names.begin(), names.end(), p.name) == names.end())
            continue;
          CAPTURE(p.name);
          std::vector<index_t> expected = {0};
          for (auto& run : each) expected.push_back(expected.back() + run.records[r].rows.rows());
          CHECK(m.net->rows_of_samples(p.name, all) == expected);
        }
      }
    }
  }
}

TEST_CASE("a prompt without room is told by its number in the file") {
  const std::string variant = "blip/caption";
  const model m(variant);
  const auto special = *m.net->writing();
  // Eleven samples, the tenth of which asks for its last token alone.
  table t(samples_of(variant));
  for (const char* name : {"attention_mask", "labels", "image"}) t.tensors.erase(name);
  const index_t n = 11, tokens = 6;
  t.set<std::int32_t>("image", io::dtype::i32, {n}, std::vector<std::int32_t>(n, 1));
  std::vector<std::int32_t> ids(std::size_t(n * tokens), 5), labels(ids.size(), -100);
  for (index_t i = 0; i < n; ++i) {
    ids[std::size_t(i * tokens)] = int(special.begin);
    labels[std::size_t(i * tokens + (i == 9 ? tokens - 1 : 1))] = 5;
  }
  t.set<std::int32_t>("input_ids", io::dtype::i32, {n, tokens}, ids);
  t.set<std::int32_t>("labels", io::dtype::i32, {n, tokens}, labels);
  const auto reader = m.net->open_samples(t.write("samples.safetensors"));
  harness::writing_options options;
  options.origin = "the file";
  options.max_length = tokens;
  const auto all = harness::texts_of(*m.net, m.weights, *reader, options);
  REQUIRE(all.size() == std::size_t(n));
  // The first nine alone, over two batches, are those of all.
  options.samples = 9;
  CHECK(harness::texts_of(*m.net, m.weights, *reader, options) ==
        std::vector<token_list>(all.begin(), all.begin() + 9));
  options.samples = 0;
  options.max_length = tokens - 1;
  check_message(message_of([&] { harness::texts_of(*m.net, m.weights, *reader, options); }),
                {"the file", "sample 9", "5 tokens", "4 at most"});
}

TEST_CASE("the right texts of a file, and the scores of written ones") {
  const std::string variant = "blip/vqa";
  const model m(variant);
  const auto reader = m.net->open_samples(samples_of(variant));
  const auto special = *m.net->writing();
  harness::word_pieces tokens;
  const auto by_labels = harness::references_of(samples_of(variant), *reader, 40, special, tokens);
  for (index_t i = 0; i < reader->size(); ++i) {
    token_list words;
    for (const auto& each : reader->asked(i))
      if (each.token != special.end) words.push_back(each.token);
    CHECK(by_labels[std::size_t(i)] == harness::reference_lists::value_type{words});
  }
  const index_t n = reader->size();
  table t(samples_of(variant));
  std::vector<std::int64_t> ids;
  for (index_t i = 0; i < n; ++i)
    for (const std::int64_t id : {special.begin, index_t{7}, special.end,  // 7
                                  special.pad, index_t{-1}, special.pad,   // none
                                  index_t{5}, index_t{6}, special.end})    // 5 6
      ids.push_back(id);
  t.set<std::int64_t>("references", io::dtype::i64, {n, 3, 3}, ids);
  const auto file = t.write("samples.safetensors");
  const auto found = harness::references_of(file, *reader, 40, special, tokens);
  for (const auto& sample : found)
    CHECK(sample == harness::reference_lists::value_type{{7}, {5, 6}});
  t.set<std::int64_t>("references", io::dtype::i64, {n - 1, 3, 3}, {ids.begin(), ids.end() - 9});
  check_message(message_of([&] {
                  harness::references_of(t.write("few.safetensors"), *reader, 40, special, tokens);
                }),
                {"few.safetensors", "'references'", std::to_string(n) + " samples"});
  t.set<std::int64_t>("references", io::dtype::i64, {n, 0, 3}, {});
  check_message(message_of([&] {
                  harness::references_of(t.write("none.safetensors"), *reader, 40, special, tokens);
                }),
                {"none.safetensors", "'references'", "a text or more"});
  check_message(message_of([&] { harness::check_references("vqa", found, "file"); }),
                {"file", "vqa", "sample 0", "4 references"});
  harness::check_references("cider", found, "file");
  t.set<std::int64_t>("references", io::dtype::i64, {n, 9}, ids);
  check_message(message_of([&] {
                  harness::references_of(t.write("flat.safetensors"), *reader, 40, special, tokens);
                }),
                {"flat.safetensors", "'references'", "3 extents"});
}

TEST_CASE("pieces of words are words once they are together") {
  const fs::path folder = scratch().file("tokenizer");
  fs::create_directories(folder);
  CHECK(harness::word_pieces(folder).words({4, 3}) == token_list{4, 3});
  std::ofstream(folder / "tokenizer.json")
      << R"({"model": {"type": "WordPiece", "vocab": {"a": 0, "##b": 3, "##": 2, "##c": 1}}})";
  harness::word_pieces by_json(folder);
  std::ofstream(folder / "vocab.txt") << "a\n##c\n##\n##b";
  harness::word_pieces by_lines(folder);
  for (harness::word_pieces* pieces : {&by_json, &by_lines}) {
    CHECK(pieces->words({}).empty());
    // a, abc, ##, ac, a, abc; a piece without a word before it is one of its own.
    const auto words = pieces->words({0, 0, 3, 1, 2, 0, 1, 0, 0, 3, 1});
    REQUIRE(words.size() == 6);
    CHECK(words[0] == 0);
    CHECK(words[1] == words[5]);
    CHECK(words[2] == 2);
    CHECK(words[4] == 0);
    CHECK(std::set<std::int64_t>(words.begin(), words.end()).size() == 4);
    CHECK(pieces->words({3, 1}).front() < 0);
  }
  std::ofstream(folder / "vocab.txt", std::ios::trunc).close();
  CHECK(harness::word_pieces(folder).words({0, 1}) == token_list{0, 1});
  fs::remove(folder / "vocab.txt");
  std::ofstream(folder / "tokenizer.json", std::ios::trunc)
      << R"({"model": {"type": "WordPiece", "vocab": {"##b": -1}}})";
  check_message(message_of([&] { harness::word_pieces{folder}; }),
                {"tokenizer.json", "'##b'", "no number"});
}

TEST_CASE("samples that do not fit are refused by name") {
  const model m("blip/vqa");
  const auto refused = [&](const table& t) {
    return message_of([&] { m.net->open_samples(t.write("bad.safetensors")); });
  };
  const table original(samples_of("blip/vqa"));
  const index_t n = original.tensors.at("input_ids").shape[0];
  for (const char* name : {"pixel_values", "input_ids"}) {
    table t = original;
    t.tensors.erase(name);
    check_message(refused(t), {"bad.safetensors", name});
  }
  table t = original;
  std::vector<std::int32_t> numbers(std::size_t(n), 0);
  numbers.back() = 1000;
  t.set<std::int32_t>("image", io::dtype::i32, {n}, numbers);
  check_message(refused(t), {"'image'", "sample " + std::to_string(n - 1), "1000"});
  t.set<std::int32_t>("image", io::dtype::i32, {n + 1},
                      std::vector<std::int32_t>(std::size_t(n) + 1));
  check_message(refused(t), {"'input_ids'", std::to_string(n + 1), "numbers in 'image'"});
  t.set<float>("image", io::dtype::f32, {n}, std::vector<float>(std::size_t(n)));
  check_message(refused(t), {"'image'", "expected integers"});
  t = original;
  auto& ids = t.tensors.at("decoder_input_ids");
  ids.shape[0] -= 1;
  ids.bytes.resize(ids.bytes.size() / std::size_t(n) * std::size_t(n - 1));
  t.tensors.erase("decoder_attention_mask");
  t.tensors.erase("labels");
  check_message(refused(t), {"'decoder_input_ids'"});
  // Labels or a mask without answers are refused, and so are answers for a network of captions.
  for (const char* name : {"labels", "decoder_attention_mask"}) {
    t = original;
    for (const char* each : {"labels", "decoder_attention_mask", "decoder_input_ids"})
      if (std::string(each) != name) t.tensors.erase(each);
    check_message(refused(t), {name, "without 'decoder_input_ids'"});
  }
  t = table(samples_of("blip/caption"));
  t.set<std::int32_t>("decoder_input_ids", io::dtype::i32, {4, 1}, {1, 1, 1, 1});
  check_message(
      message_of([&] { model("blip/caption").net->open_samples(t.write("bad.safetensors")); }),
      {"bad.safetensors", "'decoder_input_ids'", "answers none"});
  for (const std::string variant : {"blip/vqa", "blip/match"}) {
    const fs::path bare = samples_without(variant, {"input_ids", "attention_mask"});
    check_message(message_of([&] { model(variant).net->open_samples(bare); }),
                  {"samples.safetensors", "'input_ids'", "with each image", "--"});
  }
}

TEST_CASE("a tied output that the file holds with other values is used for itself") {
  const std::string output = "text_decoder.cls.predictions.";
  for (const std::string variant : {"blip/caption", "blip/vqa"}) {
    CAPTURE(variant);
    const model m(variant);
    const activations samples = many(m, variant, 5);
    const matrix reference = run_all(*m.net, m.weights, samples);
    const table original(fixture(variant) / "model.safetensors");
    const auto result = [&](const table& t, const fs::path& config) {
      const model other(t.write("other.safetensors"), config);
      return run_all(*other.net, other.weights, samples);
    };
    const fs::path config = model::config_of(variant);

    // Another bias: the output has it, and not the one that it should be tied to.
    table t = original;
    auto bias = original.tensors.at(output + "bias");
    t.tensors[output + "decoder.bias"] = bias;
    CHECK(same_bits(result(t, config), reference));
    t.tensors[output + "bias"].bytes.assign(bias.bytes.size(), std::byte{0x3f});
    CHECK(same_bits(result(t, config), reference));
    t.tensors.erase(output + "bias");
    CHECK(same_bits(result(t, config), reference));

    // Another table, as if config.json said that they are not tied.
    t = original;
    auto rows = original.tensors.at("text_decoder.bert.embeddings.word_embeddings.weight");
    t.tensors[output + "decoder.weight"] = rows;
    CHECK(same_bits(result(t, config), reference));
    std::rotate(rows.bytes.begin(), rows.bytes.begin() + 64, rows.bytes.end());
    t.tensors[output + "decoder.weight"] = rows;
    const matrix apart = result(t, config);
    CHECK(largest_difference(apart, reference) > 1e-3);
    auto untied = nlohmann::json::parse(std::ifstream(config));
    untied["tie_word_embeddings"] = untied["text_config"]["tie_word_embeddings"] = false;
    const fs::path file = scratch().file("config.json");
    std::ofstream(file) << untied.dump();
    CHECK(same_bits(apart, result(t, file)));
  }
}

TEST_CASE("configurations of other networks are refused by key") {
  struct refused {
    std::string key;
    nlohmann::json value;
    std::string message;
  };
  const std::vector<refused> all = {
      {"text_config/num_attention_heads", 5, "text_config.num_attention_heads"},
      {"vision_config/num_attention_heads", 5, "vision_config.num_attention_heads"},
      {"vision_config/patch_size", 5, "vision_config.patch_size"},
      {"text_config/is_decoder", false, "text_config.is_decoder"},
      {"text_config/bos_token_id", 4000, "text_config.bos_token_id"},
      {"text_config/hidden_act", "relu", "text_config.hidden_act"},
      {"text_config/position_embedding_type", "relative_key", "position_embedding_type"},
      {"text_config/vocab_size", 1, "text_config.vocab_size"},
      {"text_config/num_hidden_layers", 1, "num_hidden_layers"},
      {"vision_config/num_hidden_layers", 1000, "num_hidden_layers"},
      {"vision_config", nullptr, "vision_config"}};
  for (const refused& each : all) {
    CAPTURE(each.key);
    const auto config = changed_config("blip/vqa", each.key, each.value);
    check_message(refusal_of(table(fixture("blip/vqa") / "model.safetensors"), config),
                  {each.message});
  }
}

TEST_CASE("a checkpoint without a tensor, or with one of another shape, is refused by name") {
  for (const std::string& variant : variants) {
    const model m(variant);
    std::set<std::string> names;
    for (std::size_t block = 0; block < m.net->block_count(); ++block)
      for (const auto& p : m.net->parameters(block)) names.insert(p.name);
    // Without these it is another network, or another bias serves.
    for (const char* name : {"text_encoder.embeddings.word_embeddings.weight",
                             "text_decoder.bert.embeddings.word_embeddings.weight",
                             "itm_head.weight", "text_decoder.cls.predictions.decoder.bias"})
      names.erase(name);
    check_tensors_needed(table(fixture(variant) / "model.safetensors"), names,
                         "patch_embedding.weight", fixture(variant) / "config.json");
  }
}
