// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

/// The program on decoder language models: small random ones of every family, each with three
/// experts.

#include <algorithm>
#include <cmath>
#include <tuple>

#include "support/harness/three_experts.hpp"

using namespace harness_test;

namespace {

std::vector<std::string> all_variants() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(fs::path(CATMERGE_FIXTURES) / "decoder"))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

/// A decoder of the fixtures with three experts near it, and texts for each.
class decoders : public three_experts {
 public:
  explicit decoders(const std::string& variant) {
    const fs::path source = fs::path(CATMERGE_FIXTURES) / "decoder" / variant;
    copy_base(source);
    const auto words = json::parse(get(source / "config.json")).at("vocab_size").get<int>();
    unsigned seed = 7;
    for (const auto& task : task_names) {
      noise n(seed++);
      table expert(base() / "model.safetensors");
      for (auto& [name, tensor] : expert.tensors) {
        values_t values = expert.values(name);
        for (double& x : values) x += n(0.1);
        expert.set(name, tensor.type, tensor.shape, values);
      }
      expert.write(this->expert(task));
      table texts;
      values_t ids(4 * 6), mask(4 * 6, 1);
      for (double& id : ids) id = std::floor((n() + 1) / 2 * words);
      mask[5] = mask[4] = mask[17] = 0;  // the first text has four tokens, the third five
      texts.set("input_ids", dtype::i32, {4, 6}, ids);
      texts.set("attention_mask", dtype::u8, {4, 6}, mask);
      texts.write(samples(task));
    }
  }
};

std::vector<json> parameters_of(const fs::path& report) {
  return json::parse(get(report)).at("parameters").get<std::vector<json>>();
}

}  // namespace

TEST_CASE("samples and features give the same bytes, and every trimmed parameter has statistics") {
  for (const std::string& variant : all_variants()) {
    CAPTURE(variant);
    const decoders d(variant);
    const outcome by_samples =
        run(d.merge("a") + d.with_samples() + arguments{"--report", d.file("report.json")});
    CAPTURE(by_samples.err);
    REQUIRE(by_samples.status == 0);
    const outcome by_features = run(d.merge("b") + d.recorded_features());
    CAPTURE(by_features.err);
    REQUIRE(by_features.status == 0);
    CHECK(get(d.file("a") / "model.safetensors") == get(d.file("b") / "model.safetensors"));
    for (const json& p : parameters_of(d.file("report.json"))) {
      CAPTURE(p.dump());
      // An expert of a mixture may get no token of some task.
      const bool may_lack = p.at("name").get<std::string>().find("experts.") != std::string::npos;
      CHECK((may_lack || !p.contains("missing_statistics")));
      CHECK((!p.contains("missing_statistics") || !by_samples.err.empty()));
    }
  }
}

TEST_CASE("the merge without settings: distances of next tokens choose, without heads") {
  for (const std::string variant : {"llama", "gemma2", "mixtral", "gpt2"}) {
    CAPTURE(variant);
    const decoders d(variant);
    const outcome done = run(d.merge("a") + d.with_samples() +
                             arguments{"--method", "auto", "--report", d.file("report.json")});
    CAPTURE(done.err);
    REQUIRE(done.status == 0);
    const json choice = json::parse(get(d.file("report.json"))).at("choice");
    double merged = 0, base = 0;
    for (std::size_t k = 0; k < task_names.size(); ++k) {
      merged += choice.at("distance").at("merged").at(k).get<double>();
      base += choice.at("distance").at("base").at(k).get<double>();
    }
    CHECK(merged < base);
    CHECK(choice.at("refitted").size() >= 8);
    // Experts get other rows in another network, so they keep the prior.
    for (const json& name : choice.at("refitted"))
      CHECK(name.get<std::string>().find("experts.") == std::string::npos);
    const outcome again =
        run(d.merge("b") + d.with_samples() + arguments{"--method", "auto", "--threads", "1"});
    REQUIRE(again.status == 0);
    CHECK(get(d.file("a") / "model.safetensors") == get(d.file("b") / "model.safetensors"));
  }
}

TEST_CASE("experts that part a tied output: the merge is that of networks that are not tied") {
  // The base holds both with the same values, as config.json says; the experts' have moved apart.
  const decoders d("qwen2");
  table base(d.base() / "model.safetensors");
  const std::string words = "model.embed_tokens.weight", head = "lm_head.weight";
  base.tensors[head] = base.tensors.at(words);
  base.write(d.base() / "model.safetensors");
  unsigned seed = 70;
  for (const auto& task : task_names) {
    noise n(seed++);
    table expert(d.expert(task));
    values_t values = expert.values(words);
    for (double& x : values) x += n(0.1);
    expert.set(head, expert.tensors.at(words).type, expert.tensors.at(words).shape, values);
    expert.write(d.expert(task));
  }
  const auto automatic = [&](const std::string& name) {
    const outcome done = run(d.merge(name) + d.with_samples() + arguments{"--method", "auto"});
    CAPTURE(done.err);
    REQUIRE(done.status == 0);
    return done.err;
  };
  CHECK_CONTAINS(automatic("a"), "config.json ties 'lm_head.weight'");
  json config = json::parse(get(d.base() / "config.json"));
  const auto perplexity = [&](const std::string& name) {
    const outcome done = run(
        {"evaluate", "--model", d.file(name), "--data", d.samples("a"), "--metric", "perplexity"});
    CAPTURE(done.err);
    REQUIRE(done.status == 0);
    return done;
  };
  const outcome told = perplexity("a");
  CHECK_CONTAINS(told.err, "'lm_head.weight'");
  CHECK_CONTAINS(told.err, "each is used for itself");
  config["tie_word_embeddings"] = false;
  put(d.base() / "config.json", config.dump());
  automatic("b");
  CHECK(get(d.file("a") / "model.safetensors") == get(d.file("b") / "model.safetensors"));
  CHECK(perplexity("b").out == told.out);
}

TEST_CASE("evaluate: perplexity by default, every metric by name, heads are refused") {
  const decoders d("qwen3");
  const arguments evaluate = {"evaluate", "--model", d.base(), "--data", d.samples("a")};
  const double perplexity = std::stod(run_well(evaluate).out);
  CHECK(perplexity > 1);
  const std::string all =
      run_well(evaluate + arguments{"--metric", "likelihood,perplexity,accuracy,exact"}).out;
  CHECK_CONTAINS(all, "likelihood ");
  CHECK_CONTAINS(all, "perplexity ");
  CHECK_CONTAINS(all, "accuracy ");
  CHECK_CONTAINS(all, "exact ");
  const double likelihood = std::stod(all.substr(all.rfind('\n', all.size() - 2) + 1));
  CHECK(likelihood == doctest::Approx(100 / perplexity).epsilon(0.01));
  const outcome head = run(evaluate + arguments{"--head", d.base()});
  CHECK(head.status != 0);
  CHECK_CONTAINS(head.err, "the network has no heads of tasks");
  const outcome metric = run(evaluate + arguments{"--metric", "f1"});
  CHECK(metric.status != 0);
  CHECK_CONTAINS(metric.err, "likelihood");
  const outcome merge =
      run(d.merge("c") + d.with_samples() +
          arguments{"--method", "auto", "--head", "a=" + d.expert("a").string(), "--head",
                    "b=" + d.expert("b").string(), "--head", "c=" + d.expert("c").string()});
  CHECK(merge.status != 0);
  CHECK_CONTAINS(merge.err, "the network has no heads of tasks");
}

TEST_CASE("the committed family scores as PyTorch and PEFT have it") {
  // The table of examples/families/decoder/README.md, which its train.py printed.
  const fs::path family = fs::path(CATMERGE_FAMILIES) / "decoder" / "family";
  const temporary_folder folder;
  const auto score = [&](const fs::path& model, const std::string& task,
                         const std::string& metric) {
    const std::string out =
        run_well({"evaluate", "--model", model, "--data", family / "test" / (task + ".safetensors"),
                  "--metric", metric})
            .out;
    return std::stod(out.substr(out.rfind('\n', out.size() - 2) + 1));
  };
  // One of 8,128 bytes whose two likeliest answers are near to each other may be judged otherwise.
  CHECK(score(family / "base", "verse", "likelihood") == doctest::Approx(11.48).epsilon(0.001));
  CHECK(score(family / "base", "verse", "accuracy") == doctest::Approx(42.42).epsilon(0.001));
  CHECK(score(family / "base", "sort", "exact") == 0);
  const std::vector<std::tuple<std::string, std::string, double>> experts = {
      {"sort", "exact", 96.48}, {"sort", "accuracy", 99.12}, {"changelog", "likelihood", 17.17}};
  for (const auto& [task, metric, expected] : experts) {
    const fs::path expert = folder.path() / task;
    if (!fs::exists(expert))
      run_well({"merge", "--base", family / "base", "--expert",
                task + "=" + (family / "experts" / task).string(), "--method",
                "task-arithmetic:alpha=1", "--output", expert, "--out-dtype", "f32"});
    CHECK(score(expert, task, metric) == doctest::Approx(expected).epsilon(0.001));
  }
}
