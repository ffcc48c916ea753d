// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

/// The program on BLIP: small random networks of every kind, each with three experts, and images
/// without labels.

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iomanip>
#include <sstream>

#include "support/harness/three_experts.hpp"

using namespace harness_test;

namespace {

const std::vector<std::string> variants = {"caption", "caption_untied", "vqa", "match"};

/// A BLIP of the fixtures with three experts near it, and images for each, with questions or texts
/// to match, but without captions or answers.
class blips : public three_experts {
 public:
  explicit blips(const std::string& variant) {
    const fs::path source = fixture(variant);
    copy_base(source);
    unsigned seed = 7;
    for (const auto& task : task_names) {
      noise n(seed++);
      table expert(base() / "model.safetensors");
      for (auto& [name, tensor] : expert.tensors) {
        // Both names of a tied pair would have to change alike.
        if (name.find("cls.predictions.") != std::string::npos && name.ends_with("bias")) continue;
        values_t values = expert.values(name);
        for (double& x : values) x += n(0.1);
        expert.set(name, tensor.type, tensor.shape, values);
      }
      expert.write(this->expert(task));
      table pictures(source / "samples.safetensors");
      auto& pixels = pictures.tensors.at("pixel_values");
      values_t values = pictures.values("pixel_values");
      if (pixels.type != dtype::u8) {
        for (double& x : values) x += n(0.3);
        pictures.set("pixel_values", pixels.type, pixels.shape, values);
      }
      for (const char* name : {"labels", "decoder_input_ids", "decoder_attention_mask"})
        pictures.tensors.erase(name);
      if (variant.starts_with("caption")) {
        pictures.tensors.erase("input_ids");
        pictures.tensors.erase("attention_mask");
      }
      pictures.write(samples(task));
    }
  }

  static fs::path fixture(const std::string& variant) {
    return fs::path(CATMERGE_FIXTURES) / "blip" / variant;
  }
};

double last_line(const std::string& out) {
  return std::stod(out.substr(out.rfind('\n', out.size() - 2) + 1));
}

}  // namespace

TEST_CASE("samples and features give the same bytes, and every trimmed parameter has statistics") {
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const blips b(variant);
    const outcome by_samples =
        run(b.merge("a") + b.with_samples() + arguments{"--report", b.file("report.json")});
    CAPTURE(by_samples.err);
    REQUIRE(by_samples.status == 0);
    // Who wrote the texts is told, here and in the report.
    const json report = json::parse(get(b.file("report.json")));
    const std::string sentence = "the samples of 'a', 'b', 'c' have no texts";
    CHECK((by_samples.err.find(sentence) != std::string::npos) == (variant != "match"));
    CHECK((report.dump().find(sentence) != std::string::npos) == (variant != "match"));
    for (const json& p : report.at("parameters")) {
      CAPTURE(p.dump());
      CHECK_FALSE(p.contains("missing_statistics"));
    }
    const auto features = b.recorded_features(variant == "match" ? warning::none : warning::some);
    const outcome by_features = run(b.merge("b") + features);
    CAPTURE(by_features.err);
    REQUIRE(by_features.status == 0);
    CHECK(get(b.file("a") / "model.safetensors") == get(b.file("b") / "model.safetensors"));
  }
}

TEST_CASE("the merge without settings: distances of the outputs choose, without heads") {
  for (const std::string& variant : variants) {
    CAPTURE(variant);
    const blips b(variant);
    const outcome done = run(b.merge("a") + b.with_samples() +
                             arguments{"--method", "auto", "--report", b.file("report.json")});
    CAPTURE(done.err);
    REQUIRE(done.status == 0);
    const json choice = json::parse(get(b.file("report.json"))).at("choice");
    CHECK((done.err.find("'b', 'c' have no texts") != std::string::npos) == (variant != "match"));
    double merged = 0, base = 0;
    for (std::size_t k = 0; k < task_names.size(); ++k) {
      merged += choice.at("distance").at("merged").at(k).get<double>();
      base += choice.at("distance").at("base").at(k).get<double>();
    }
    CHECK(merged < base);
    // The keys of a cross attention, which read other rows than its queries, too.
    bool has_keys = false;
    for (const json& name : choice.at("refitted"))
      has_keys = has_keys || name.get<std::string>().ends_with("crossattention.self.key.weight");
    CHECK(has_keys);
    const outcome again =
        run(b.merge("b") + b.with_samples() + arguments{"--method", "auto", "--threads", "1"});
    REQUIRE(again.status == 0);
    CHECK(get(b.file("a") / "model.safetensors") == get(b.file("b") / "model.safetensors"));
  }
}

TEST_CASE("evaluate: next tokens and written texts by every metric") {
  const fs::path source = blips::fixture("vqa");
  const temporary_folder folder;
  const fs::path data = folder.path() / "data.safetensors";
  table t(source / "samples.safetensors");
  const auto n = t.tensors.at("input_ids").shape[0];
  // The network's own answers are right: those that transformers wrote with three beams.
  const table expected(source / "expected.safetensors");
  const auto length = expected.tensors.at("beams").shape[1];
  const values_t beams = expected.values("beams");
  values_t references;
  for (long i = 0; i < n; ++i)
    for (int copy = 0; copy < 4; ++copy)
      for (long at = 0; at < length; ++at)
        references.push_back(beams[std::size_t(i * length + at)]);
  t.tensors.erase("labels");  // every token of an answer is asked for: there is no prompt
  t.set("references", dtype::i32, {n, 4, length}, references);
  // The first sample's text, and two others as long as that.
  values_t candidates;
  for (const double other : {-1.0, 5.0, 7.0})
    for (long at = 0; at < length; ++at)
      candidates.push_back(other < 0 || beams[std::size_t(at)] < 0 ? beams[std::size_t(at)]
                                                                   : other);
  t.set("answers", dtype::i32, {3, length}, candidates);
  t.write(data);
  const arguments evaluate = {
      "evaluate", "--model", source / "model.safetensors", "--config", source / "config.json",
      "--data",   data};
  const arguments ranking = evaluate + arguments{"--rank-answers"};
  const arguments writing = evaluate + arguments{"--max-tokens", "12"};
  CHECK(last_line(run_well(evaluate).out) > 1);  // perplexity
  CHECK(last_line(run_well(writing + arguments{"--metric", "answer"}).out) == 100);
  CHECK(last_line(run_well(writing + arguments{"--metric", "vqa"}).out) == 100);
  CHECK(last_line(run_well(writing + arguments{"--metric", "cider"}, warning::some).out) > 100);
  // Among the first text and two others, the first sample's choice is as good as transformers'
  // text.
  CHECK(last_line(run_well(ranking + arguments{"--metric", "answer"}).out) >= 100.0 / double(n));
  const std::string all = run_well(writing + arguments{"--metric", "exact,answer,likelihood"}).out;
  CHECK(all.find("exact ") < all.find("answer "));
  CHECK(all.find("answer ") < all.find("likelihood "));
  const auto refused = [&](const arguments& more) {
    const outcome found = run(evaluate + more);
    CHECK(found.status != 0);
    return found.err;
  };
  // Options without a use, and lengths that do not fit.
  for (const arguments& unused :
       {arguments{"--rank-answers"}, arguments{"--beams", "2"}, arguments{"--max-tokens", "9"}})
    CHECK_CONTAINS(refused(unused + arguments{"--metric", "exact"}), "no metric of written texts");
  CHECK_CONTAINS(refused({"--metric", "answer", "--rank-answers", "--beams", "2"}),
                 "leave --beams");
  CHECK_CONTAINS(refused({"--metric", "answer", "--max-tokens", "1000"}), "--max-tokens");
  CHECK_CONTAINS(refused({"--metric", "exact,answer", "--max-tokens", "1000"}), "--max-tokens");
  CHECK_CONTAINS(refused({"--metric", "answer", "--min-tokens", "12", "--max-tokens", "12"}),
                 "--min-tokens");
  CHECK_CONTAINS(refused({"--head", source / "model.safetensors"}), "no heads");
  t.tensors.erase("answers");
  t.tensors.erase("references");
  t.write(data);
  CHECK_CONTAINS(refused({"--metric", "answer", "--rank-answers"}), "'answers'");
  CHECK_CONTAINS(refused({"--metric", "vqa"}), "4 references");
}

TEST_CASE("evaluate: cider takes pieces of words together") {
  const fs::path family = fs::path(CATMERGE_FAMILIES) / "blip" / "family";
  const temporary_folder folder;
  fs::copy_file(family / "base" / "config.json", folder.path() / "config.json");
  const auto measured = [&](warning expected) {
    return run_well({"evaluate", "--model", family / "experts" / "tally.safetensors", "--config",
                     folder.path() / "config.json", "--data", family / "test" / "tally.safetensors",
                     "--metric", "cider"},
                    expected);
  };
  const outcome by_tokens = measured(warning::some);
  CHECK_CONTAINS(by_tokens.err, "every token for a word");
  // Every token continues a word: texts are one word each.
  std::ofstream words(folder.path() / "vocab.txt");
  for (int i = 0; i < 76; ++i) words << "##piece" << i << '\n';
  words.close();
  const outcome by_words = measured(warning::none);
  CHECK(last_line(by_words.out) < last_line(by_tokens.out));
}

TEST_CASE("experiments measure written texts, and tell who wrote those of the samples") {
  // The family, of two tasks, judged by what the networks write.
  const fs::path family = fs::path(CATMERGE_FAMILIES) / "blip" / "family";
  const temporary_folder folder;
  const fs::path mine = folder.path() / "family";
  const std::vector<std::pair<std::string, std::string>> tasks = {{"beside", "answer"},
                                                                  {"describe", "cider"}};
  for (const char* part : {"base", "experts", "samples", "validation", "test"})
    fs::create_directories(mine / part);
  fs::copy(family / "base", mine / "base", fs::copy_options::recursive);
  for (const auto& [task, metric] : tasks) {
    const std::string name = task + ".safetensors";
    fs::copy_file(family / "experts" / name, mine / "experts" / name);
    fs::copy_file(family / "samples" / name, mine / "samples" / name);
    for (const char* split : {"validation", "test"}) {
      table t(family / split / name);
      t.metadata["metric"] = metric;
      t.write(mine / split / name);
    }
  }
  const auto experiment = [&] {
    const outcome done =
        run({"experiment", mine, "--studies", "comparison", "--methods", "average", "--samples",
             "1", "--seeds", "1", "--overwrite", "--output", folder.path() / "results"});
    CAPTURE(done.err);
    REQUIRE(done.status == 0);
    return done.out;
  };
  // The cell of the base, whose greedy texts `evaluate` judges, too.
  const auto cider_of_base = [&] {
    std::ostringstream cell;
    cell << "| " << std::fixed << std::setprecision(2)
         << last_line(run_well({"evaluate", "--model", mine / "base", "--data",
                                mine / "test" / "describe.safetensors", "--metric", "cider",
                                "--beams", "1"},
                               warning::any)
                          .out)
         << " |";
    return cell.str();
  };
  const std::string words = cider_of_base();
  const std::string by_words = experiment();
  CHECK_CONTAINS(by_words, "beside (answer)");
  CHECK_CONTAINS(by_words, "describe (cider)");
  CHECK_CONTAINS(by_words, "| 99.22 |");  // the expert on beside, as in the family's table
  CHECK_CONTAINS(by_words, "the samples of 'beside', 'describe' have no texts");
  CHECK_CONTAINS(by_words, words);
  CHECK_FALSE(io_test::contains(by_words, "every token for a word"));

  // Shapes, as if they continued the words before them.
  const fs::path vocabulary = mine / "base" / "vocab.txt";
  std::ifstream lines(vocabulary);
  std::ostringstream pieces;
  int number = 0;
  for (std::string line; std::getline(lines, line); ++number)
    pieces << (number >= 4 && number < 20 ? "##" : "") << line << '\n';
  lines.close();
  std::ofstream(vocabulary) << pieces.str();
  REQUIRE(cider_of_base() != words);
  CHECK_CONTAINS(experiment(), cider_of_base());

  fs::remove(vocabulary);
  REQUIRE(cider_of_base() == words);
  const std::string by_tokens = experiment();
  CHECK_CONTAINS(by_tokens, words);
  CHECK_CONTAINS(by_tokens, "every token for a word");
}

TEST_CASE("evaluate: matching by the share of right decisions") {
  const fs::path source = blips::fixture("match");
  const temporary_folder folder;
  table t(source / "samples.safetensors");
  const table expected(source / "expected.safetensors");
  const values_t logits = expected.values("logits");
  values_t labels;
  for (std::size_t i = 0; i < logits.size(); i += 3)
    labels.push_back(logits[i + 1] > logits[i] ? 1 : 0);
  labels.front() = 1 - labels.front();
  t.set("labels", dtype::i64, {long(labels.size())}, labels);
  t.write(folder.path() / "data.safetensors");
  const double right =
      last_line(run_well({"evaluate", "--model", source / "model.safetensors", "--config",
                          source / "config.json", "--data", folder.path() / "data.safetensors"})
                    .out);
  const double n = double(labels.size());
  CHECK(right == doctest::Approx(100 * (n - 1) / n).epsilon(1e-3));
}

TEST_CASE("the committed family scores as transformers has it") {
  // The table of examples/families/blip/README.md, which its train.py printed.
  const fs::path family = fs::path(CATMERGE_FAMILIES) / "blip" / "family";
  const temporary_folder folder;
  const auto score = [&](const fs::path& model, const std::string& task, const arguments& more) {
    return last_line(run_well(arguments{"evaluate", "--model", model, "--config",
                                        family / "base" / "config.json", "--data",
                                        family / "test" / (task + ".safetensors")} +
                              more)
                         .out);
  };
  const arguments exact = {"--metric", "exact"}, greedy = {"--metric", "answer", "--beams", "1"};
  // Of 224 or fewer rows one whose two likeliest words are near to each other may be judged
  // otherwise.
  const auto about = [](double x) { return doctest::Approx(x).epsilon(0.006); };
  CHECK(score(family / "base", "tally", exact) == about(73.21));
  CHECK(score(family / "base", "describe", exact) == 0);
  const auto expert = [&](const std::string& task) {
    return family / "experts" / (task + ".safetensors");
  };
  for (const auto& [task, expected] : std::vector<std::pair<std::string, double>>{
           {"describe", 100}, {"number", 85.27}, {"beside", 99.22}}) {
    CHECK(score(expert(task), task, exact) == about(expected));
    CHECK(score(expert(task), task, greedy) == about(expected));
  }
  CHECK(score(expert("describe"), "describe", {"--metric", "cider"}) >
        3 * score(family / "base", "describe", {"--metric", "cider"}));
  arguments sum = {"merge",
                   "--base",
                   family / "base",
                   "--method",
                   "task-arithmetic:alpha=0.7",
                   "--output",
                   folder.path() / "sum",
                   "--out-dtype",
                   "f32"};
  for (const char* task : {"describe", "tally", "number", "beside", "pair"})
    sum = sum + arguments{"--expert", std::string(task) + "=" + expert(task).string()};
  run_well(sum);
  CHECK(score(folder.path() / "sum", "beside", exact) == about(79.84));
  CHECK(score(folder.path() / "sum", "pair", exact) == doctest::Approx(41.25).epsilon(0.02));
}
