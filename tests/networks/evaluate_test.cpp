// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

/// `catmerge evaluate` on texts: heads, labels and metrics, against the logits that transformers
/// put out (fixtures/make_bert.py); `catmerge features` on texts and OpenCLIP's names.

#include <algorithm>
#include <harness/networks/data/metrics.hpp>

#include "support/harness/program.hpp"

using namespace harness_test;
namespace harness = catmerge::harness;

namespace {

fs::path bert(const std::string& file) {
  return fs::path(CATMERGE_FIXTURES) / "bert" / "bert" / file;
}

const std::vector<std::int64_t> classes = {0, 1, 1, 0, 1};
const values_t scores = {0.5, 4.0, 2.5, 0.0, 3.0};

/// The fixture's texts, with other labels.
fs::path data(dtype type, const values_t& labels) {
  table t(bert("samples.safetensors"));
  t.set("labels", type, {static_cast<index_t>(labels.size())}, labels);
  return t.write(clips().fresh("data.safetensors"));
}

values_t class_labels() {
  return {classes.begin(), classes.end()};
}

/// The logits of class 1 less those of class 0, of the five texts.
values_t differences() {
  const values_t logits = table(bert("expected.safetensors")).values("logits");
  values_t result;
  for (std::size_t i = 0; i < 5; ++i) result.push_back(logits[2 * i + 1] - logits[2 * i]);
  return result;
}

/// A head that says 1 for two of the five texts, and what it says.
std::pair<fs::path, std::vector<std::int64_t>> dividing_head() {
  values_t sorted = differences();
  std::sort(sorted.begin(), sorted.end());
  REQUIRE(sorted[3] - sorted[2] > 1e-3);
  const double threshold = (sorted[2] + sorted[3]) / 2;
  table t(bert("model.safetensors"));
  t.poke("classifier.bias", 1, t.values("classifier.bias")[1] - threshold);
  std::vector<std::int64_t> predicted;
  for (const double d : differences()) predicted.push_back(d > threshold ? 1 : 0);
  return {t.write(clips().fresh("head.safetensors")), predicted};
}

std::string evaluate(const fs::path& file, const fs::path& head, const arguments& more = {}) {
  return run_well(arguments{"evaluate", "--model", bert(""), "--data", file, "--head", head} + more)
      .out;
}

std::string percent(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", value);
  return text;
}

}  // namespace

TEST_CASE("classes: accuracy by default, every metric by name, the first one last") {
  const auto [head, predicted] = dividing_head();
  const fs::path file = data(dtype::i64, class_labels());
  const double right = harness::accuracy(predicted, classes);
  const std::string counted =
      std::to_string(harness::count_correct(predicted, classes)) + " of 5 correct\n";
  CHECK(evaluate(file, head) == counted + percent(right) + "\n");
  CHECK(evaluate(file, head, {"--metric", "accuracy"}) == counted + percent(right) + "\n");
  const std::string mcc = percent(harness::matthews(predicted, classes));
  const std::string f1 = percent(harness::f1(predicted, classes));
  CHECK(evaluate(file, head, {"--metric", "matthews"}) == mcc + "\n");
  CHECK(evaluate(file, head, {"--metric", "f1"}) == f1 + "\n");
  const std::string all = counted + "f1 " + f1 + "\naccuracy " + percent(right) + "\nmatthews " +
                          mcc + "\n" + f1 + "\n";
  CHECK(evaluate(file, head, {"--metric", "f1,accuracy,matthews"}) == all);
  CHECK(evaluate(file, head,
                 {"--metric", "f1", "--metric", "accuracy,matthews", "--threads", "3"}) == all);
  // A whole checkpoint as the head: only its classifier is read.
  CHECK(evaluate(file, bert("")) == evaluate(file, bert("model.safetensors")));
}

TEST_CASE("values: a head with one output, pearson for labels that are not integers") {
  const table model(bert("model.safetensors"));
  const values_t weight = model.values("classifier.weight"), bias = model.values("classifier.bias");
  table one, bare;
  one.set("classifier.weight", dtype::f32, {1, 16}, {weight.begin(), weight.begin() + 16});
  one.set("classifier.bias", dtype::f32, {1}, {bias[0]});
  bare.set("weight", dtype::f32, {1, 16}, {weight.begin(), weight.begin() + 16});
  const fs::path head = one.write(clips().fresh("head.safetensors"));
  values_t outputs;
  for (std::size_t i = 0; i < 5; ++i) {
    outputs.push_back(table(bert("expected.safetensors")).values("logits")[2 * i]);
  }
  const fs::path floats = data(dtype::f32, scores);
  const std::string r = percent(harness::pearson(outputs, scores));
  const std::string rho = percent(harness::spearman(outputs, scores));
  CHECK(evaluate(floats, head) == r + "\n");
  CHECK(evaluate(floats, bare.write(clips().fresh("head.safetensors"))) == r + "\n");
  CHECK(evaluate(floats, head, {"--metric", "spearman,pearson"}) ==
        "spearman " + rho + "\npearson " + r + "\n" + rho + "\n");
  CHECK(evaluate(data(dtype::f64, scores), head) == r + "\n");
  CHECK(evaluate(data(dtype::u8, class_labels()), head, {"--metric", "pearson"}) ==
        percent(harness::pearson(outputs, class_labels())) + "\n");
}

TEST_CASE("metrics that labels or heads do not suit, and undefined ones") {
  const auto check = [](const fs::path& file, const fs::path& head, const arguments& more,
                        int status, const std::vector<std::string>& parts) {
    const outcome r =
        run(arguments{"evaluate", "--model", bert(""), "--data", file, "--head", head} + more);
    CAPTURE(r.err);
    CHECK(r.status == status);
    CHECK(r.out.empty());
    for (const std::string& part : parts) {
      CAPTURE(part);
      CHECK(contains(r.err, part));
    }
  };
  const fs::path two = bert("model.safetensors");
  const fs::path labels = data(dtype::i64, class_labels()), values = data(dtype::f32, scores);
  check(labels, two, {"--metric", "bleu"}, 2, {"--metric", "bleu", "matthews"});
  check(values, two, {}, 1, {two.string(), "1 output", "pearson", "found 2"});
  check(values, two, {"--metric", "accuracy"}, 1, {values.string(), "'labels'", "integers", "F32"});
  table many, one;
  many.set("weight", dtype::f32, {3, 16}, values_t(48, 0.5));
  const fs::path three = many.write(clips().fresh("head.safetensors"));
  check(labels, three, {"--metric", "f1"}, 1, {three.string(), "2 outputs", "f1", "found 3"});
  one.set("weight", dtype::f32, {1, 16}, values_t(16, 0.5));
  const fs::path single = one.write(clips().fresh("head.safetensors"));
  check(labels, single, {}, 1, {labels.string(), "'labels'", "label 1", "1 classes"});
  check(data(dtype::f32, values_t(5, 2.0)), single, {}, 1, {"undefined", "all labels are equal"});
  one.set("weight", dtype::f32, {1, 16}, values_t(16, 0));
  check(values, one.write(clips().fresh("head.safetensors")), {}, 1,
        {"undefined", "all predictions are equal"});
}

TEST_CASE("features of texts and of OpenCLIP's networks: one row per token that counts") {
  const fs::path out = clips().fresh("features.safetensors");
  run_well(
      {"features", "--model", bert(""), "--samples", bert("samples.safetensors"), "--output", out});
  const io::safetensors_file texts(out);
  // 5 + 5 + 3 + 7 + 6 tokens, more than 16 columns: Gram matrices.
  const auto& gram = texts.at("bert.encoder.layer.1.intermediate.dense.weight::gram");
  CHECK(gram.shape == io::shape_t{16, 16});
  const table expected(bert("expected.safetensors"));
  const values_t rows = expected.values("bert.encoder.layer.1.intermediate.dense.weight");
  CHECK(rows.size() == 26 * 16);
  const values_t found = table(out).values("bert.encoder.layer.1.intermediate.dense.weight::gram");
  for (std::size_t i = 0; i < 16; ++i) {
    for (std::size_t j = 0; j < 16; ++j) {
      double sum = 0;
      for (std::size_t r = 0; r < 26; ++r) sum += rows[r * 16 + i] * rows[r * 16 + j];
      CHECK(std::abs(found[i * 16 + j] - sum) <= 1e-4);
    }
  }

  const fs::path clip = fs::path(CATMERGE_FIXTURES) / "open_clip" / "openai";
  const fs::path second = clips().fresh("features.safetensors");
  run_well({"features", "--model", clip / "model.safetensors", "--config",
            clip / "open_clip_config.json", "--samples", clip / "samples.safetensors", "--output",
            second});
  const table images(second);
  const std::string qkv = "visual.transformer.resblocks.0.attn.in_proj_weight";
  CHECK(images.at(qkv).shape == io::shape_t{15, 16});
  const values_t enters = table(clip / "expected.safetensors").values(qkv);
  CHECK(largest_difference(images.values(qkv), enters) <= 1e-4);
}
