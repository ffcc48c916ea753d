// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

/// The command line: what it refuses, what help says; `catmerge evaluate` and `catmerge inspect`.

#include "support/harness/program.hpp"

using namespace harness_test;

namespace {

/// Exit status 2, a message with these parts, nothing on the standard output, no file touched.
void check_refused(const arguments& command, const std::vector<std::string>& parts) {
  const auto in = contents(clips().in()), out = contents(clips().out());
  const outcome r = run(command);
  CAPTURE(r.err);
  CHECK(r.status == 2);
  CHECK(r.out.empty());
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(contains(r.err, part));
  }
  CHECK(contents(clips().in()) == in);
  CHECK(contents(clips().out()) == out);
}

/// Exit status 0, and a warning with these parts.
void check_noted(const arguments& command, const std::vector<std::string>& parts) {
  const outcome r = run(command + arguments{"--overwrite"});
  CAPTURE(r.err);
  CHECK(r.status == 0);
  CHECK_CONTAINS(r.err, "catmerge: warning: " + parts.front() + ": has no meaning for");
  for (const std::string& part : parts) CHECK_CONTAINS(r.err, part);
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> list;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) list.push_back(line);
  return list;
}

}  // namespace

TEST_CASE("help at every level, with every option") {
  const std::map<std::string, std::vector<std::string>> options = {
      {"",
       {"merge", "features", "evaluate", "inspect", "methods", "experiment", "report", "--version",
        "Exit status"}},
      {"merge",
       {"--base", "--expert", "NAME=P", "--output", "--method", "cat", "task-arithmetic",
        "catmerge methods", "--before", "--after", "--method-for", "--importance", "--quiet",
        "--verbose", "--alpha", "--preset", "paper", "port", "--features", "--samples", "NAME=F",
        "--head", "--rank", "--basis-energy", "--basis-positive", "--basis-tolerance", "--lambda",
        "--scale-rank", "--scale-lambda", "--shift-rank", "--rescale", "none", "frobenius",
        "--order", "sequential", "joint", "--weighting", "sum", "mean", "--feature-coefficient",
        "--out-dtype", "base", "f32", "f16", "bf16", "f64", "--threads", "--report", "--config",
        "--sample-count", "--rule", "--include", "--exclude", "--drop", "--task-heads",
        "--heads-output", "--resized", "--missing", "--set", "--max-shard-size", "--overwrite",
        "--adapter", "--adapter-rank",
        // defaults
        "=auto", "default: 0.4", "=paper", "=4", "=5", "=10", "=sequential", "=sum", "=base"}},
      {"features",
       {"--model", "--samples", "--output", "--config", "--threads", "--sample-count", "--rule",
        "--overwrite"}},
      {"evaluate", {"--model", "--data", "--head", "--config", "--threads", "percent"}},
      {"inspect", {"P", "--rule"}},
      {"report", {"F.json", "--output", "--scores", "--overwrite"}},
      {"methods", {"List the merging methods"}},
      {"experiment",
       {"FOLDER", "--output", "--overwrite", "--studies", "--methods", "--samples", "--seeds",
        "--alphas", "--lambdas", "--ranks", "--drop", "--task-heads", "--rule", "--threads",
        "--quiet", "--verbose"}}};
  for (const auto& [command, words] : options) {
    const std::string& shown = command;
    CAPTURE(shown);
    for (const std::string flag : {"--help", "-h"}) {
      const arguments given = command.empty() ? arguments{flag} : arguments{command, flag};
      const outcome r = run(given);
      CHECK(r.status == 0);
      CHECK(r.err.empty());
      for (const auto& word : words) {
        CAPTURE(word);
        CHECK(contains(r.out, word));
      }
    }
  }
  const outcome version = run({"--version"});
  CHECK(version.status == 0);
  CHECK(version.out.starts_with("catmerge "));
}

TEST_CASE("command lines that mean nothing") {
  clips().features("a"), clips().features("b"), clips().features("c");
  const std::string base = clips().base_path(), a = "a=" + clips().model("a").string(),
                    b = "b=" + clips().model("b").string(), output = clips().fresh(),
                    fa = "a=" + clips().features("a").string(),
                    fb = "b=" + clips().features("b").string(),
                    sa = "a=" + clips().samples("a").string();
  const arguments one = {"merge", "--base", base, "--expert", a, "--output", output};
  const arguments good = one + arguments{"--features", fa};
  SUBCASE("subcommands") {
    check_refused({}, {"subcommand"});
    check_refused({"bogus"}, {"bogus"});
    check_refused({"merge"}, {"--base", "required"});
    check_refused({"features"}, {"required"});
    check_refused({"evaluate"}, {"required"});
    check_refused({"inspect"}, {"required"});
    check_refused({"merge", "--base", base, "--expert", a}, {"--output", "required"});
    check_refused({"merge", "--base", base, "--output", output}, {"--expert", "required"});
  }
  SUBCASE("options that there are not") {
    check_refused(good + arguments{"--bogus", "1"}, {"--bogus"});
    check_refused(good + arguments{"extra"}, {"extra"});
    check_refused({"inspect", "--bogus", base}, {"--bogus"});
    check_refused(good + arguments{"--base", base}, {"--base"});
    check_refused(good + arguments{"--report"}, {"--report"});
  }
  SUBCASE("tasks and files") {
    check_refused({"merge", "--base", base, "--expert", "a", "--output", output},
                  {"--expert", "NAME=P", "'a'"});
    check_refused({"merge", "--base", base, "--expert", "=x", "--output", output},
                  {"--expert", "'=x'"});
    check_refused({"merge", "--base", base, "--expert", "a=", "--output", output},
                  {"--expert", "'a='"});
    check_refused(good + arguments{"--expert", a}, {"--expert", "'a'", "twice"});
    check_refused(good + arguments{"--features", fa}, {"--features", "'a'", "twice"});
    check_refused(one + arguments{"--features", "a"}, {"--features", "NAME=P"});
    check_refused(one, {"--method cat", "--features", "--samples"});
    check_refused(good + arguments{"--expert", b}, {"--features", "'b'"});
    check_refused(good + arguments{"--features", fb}, {"--features", "'b'"});
    check_refused(good + arguments{"--samples", sa}, {"--features", "--samples"});
    check_refused(one + arguments{"--samples", "b=" + clips().samples("b").string()},
                  {"--samples", "'b'"});
    check_refused(one + arguments{"--expert", b, "--samples", sa, "--config", clips().config()},
                  {"--samples", "'b'"});
  }
  SUBCASE("options without meaning") {
    for (const std::string method : {"average", "task-arithmetic"}) {
      const std::map<std::string, std::string> values = {
          {"--features", fa},           {"--samples", sa},
          {"--preset", "paper"},        {"--rank", "4"},
          {"--basis-energy", "0.5"},    {"--lambda", "5"},
          {"--scale-rank", "4"},        {"--scale-lambda", "1"},
          {"--shift-rank", "4"},        {"--rescale", "none"},
          {"--order", "joint"},         {"--weighting", "sum"},
          {"--basis-tolerance", "1e-9"}};
      for (const auto& [option, value] : values)
        check_noted(one + arguments{"--method", method, option, value}, {option, method});
      check_noted(one + arguments{"--method", method, "--basis-positive"},
                  {"--basis-positive", method});
      for (const std::string option : {"--sample-count", "--feature-coefficient"})
        check_refused(one + arguments{"--method", method, option, "1"}, {option, "--samples"});
    }
    check_noted(one + arguments{"--method", "average", "--alpha", "1"}, {"--alpha", "average"});
    check_refused(good + arguments{"--feature-coefficient", "1"},
                  {"--feature-coefficient", "--samples"});
    check_refused(good + arguments{"--sample-count", "1"}, {"--sample-count", "--samples"});
  }
  SUBCASE("options that exclude each other") {
    check_refused(good + arguments{"--rank", "4", "--basis-energy", "0.5"},
                  {"--rank", "--basis-energy"});
    check_refused(good + arguments{"--rank", "4", "--basis-positive"},
                  {"--rank", "--basis-positive"});
    check_refused(good + arguments{"--basis-energy", "0.5", "--basis-positive"},
                  {"--basis-energy", "--basis-positive"});
  }
  SUBCASE("values") {
    for (const std::string rule : {"x", "x=", "x=bad", "{x=linear", "=linear="}) {
      check_refused(good + arguments{"--rule", rule}, {"--rule"});
      check_refused({"inspect", base, "--rule", rule}, {"--rule"});
    }
    for (const std::string option : {"--rank", "--scale-rank", "--shift-rank", "--lambda",
                                     "--scale-lambda", "--basis-energy", "--basis-tolerance"}) {
      check_refused(good + arguments{option, "-1"}, {option, "-1"});
      check_refused(good + arguments{option, "many"}, {option, "many"});
      check_refused(good + arguments{option, "nan"}, {option, "nan"});
      check_refused(good + arguments{option, ""}, {option});
    }
    for (const std::string option : {"--rank", "--scale-rank", "--shift-rank"}) {
      check_refused(good + arguments{option, "2.5"}, {option, "2.5"});
      check_refused(good + arguments{option, "99999999999999999999"}, {option});
    }
    for (const std::string value : {"nan", "inf", "-inf", "1e999", "x", "0.4x"}) {
      check_refused(good + arguments{"--alpha", value}, {"--alpha", value});
      check_refused(one + arguments{"--samples", sa, "--feature-coefficient", value},
                    {"--feature-coefficient", value});
      check_refused(good + arguments{"--lambda", value}, {"--lambda", value});
    }
    check_refused(good + arguments{"--basis-energy", "1.5"}, {"--basis-energy", "1.5"});
    for (const std::string value : {"0", "-1", "many", "1e9"})
      check_refused(good + arguments{"--threads", value}, {"--threads", value});
    check_refused(one + arguments{"--samples", sa, "--sample-count", "-1"},
                  {"--sample-count", "-1"});
    for (const std::string option :
         {"--method", "--preset", "--rescale", "--order", "--weighting", "--out-dtype"})
      check_refused(good + arguments{option, "bogus"}, {option, "bogus"});
    // Messages are sentences: no limits of the machine's numbers in them.
    CHECK(run(good + arguments{"--lambda", "-1"}).err.size() < 200);
  }
}

TEST_CASE("progress is for terminals; the standard output is for results") {
  const arguments command =
      clips().merge(clips().fresh()) + clips().with_samples() + arguments{"--overwrite"};
  const outcome quiet = run(command);
  CHECK(quiet.status == 0);
  CHECK(quiet.out.starts_with("40 parameters merged: "));
  CHECK(quiet.err.empty());
  surroundings screen;
  screen.terminal = true;
  const outcome shown = run(command, screen);
  CHECK(shown.status == 0);
  CHECK(shown.out == quiet.out);
  CHECK_CONTAINS(shown.err, "merging parameters 1/40");
  CHECK(shown.err.ends_with("\r\x1b[K"));  // nothing stays on the line
  const arguments features = {"features",           "--model",    clips().model("a"), "--samples",
                              clips().samples("a"), "--config",   clips().config(),   "--output",
                              clips().fresh(),      "--overwrite"};
  CHECK(run(features).err.empty());
  CHECK_CONTAINS(run(features, screen).err, "running blocks");
  // An error on a terminal stands on a line of its own.
  table broken = clips().expert("b");
  broken.poke(layer1 + "mlp.fc2.weight", 0, std::nan(""));
  const fs::path b = broken.write(clips().fresh("b.safetensors"));
  const outcome failed = run({"merge", "--base", clips().base_path(), "--expert", "b=" + b.string(),
                              "--method", "average", "--output", clips().fresh()},
                             screen);
  CHECK(failed.status == 1);
  CHECK_CONTAINS(failed.err, "\r\x1b[Kcatmerge: ");
}

TEST_CASE("an output that cannot take the result") {
  surroundings full;
  full.out_to = "/dev/full";
  const outcome r = run({"inspect", clips().base_path()}, full);
  CHECK(r.status == 1);
  CHECK_CONTAINS(r.err, "standard output");
}

TEST_CASE("evaluate: the accuracy in percent on the last line") {
  // Many samples: those that transformers has run, over and over.
  const table expected(fixture("expected.safetensors"));
  const values_t pixels = expected.values("pixel_values"),
                 embeddings = expected.values("image_embeds");
  constexpr std::size_t samples = 70, classes = 5, width = 10;  // more than are run at a time
  noise n(11);
  values_t many, labels, weight(classes * width), bias(classes);
  for (double& x : weight) x = n();
  for (double& x : bias) x = n(0.1);
  for (std::size_t i = 0; i < samples; ++i) {
    const auto first = static_cast<std::ptrdiff_t>(i % 3 * 432);
    many.insert(many.end(), pixels.begin() + first, pixels.begin() + first + 432);
    labels.push_back(static_cast<double>((i * i + i / 7) % classes));
  }
  table data;
  data.set("pixel_values", dtype::f32, {samples, 3, 12, 12}, many);
  data.set("labels", dtype::i64, {samples}, labels);
  const auto evaluate = [](const fs::path& model, const fs::path& file, const fs::path& head,
                           const arguments& more = {}) {
    const outcome r =
        run_well(arguments{"evaluate", "--model", model, "--data", file, "--head", head} + more);
    return lines(r.out).back();
  };
  for (const bool with_bias : {false, true}) {
    CAPTURE(with_bias);
    table head;
    head.set("weight", dtype::f32, {classes, width}, weight);
    if (with_bias) head.set("bias", dtype::f32, {classes}, bias);
    // The class of each picture, from the recorded embeddings.
    std::size_t chosen[3] = {};
    for (std::size_t i = 0; i < 3; ++i) {
      double length = 0, best = -1e9, second = -1e9;
      for (std::size_t j = 0; j < width; ++j)
        length += embeddings[i * width + j] * embeddings[i * width + j];
      for (std::size_t c = 0; c < classes; ++c) {
        double logit = with_bias ? bias[c] : 0;
        for (std::size_t j = 0; j < width; ++j)
          logit += weight[c * width + j] * embeddings[i * width + j] / std::sqrt(length);
        if (logit > best)
          second = best, best = logit, chosen[i] = c;
        else
          second = std::max(second, logit);
      }
      REQUIRE(best - second > 1e-3);
    }
    int correct = 0;
    for (std::size_t i = 0; i < samples; ++i)
      correct += static_cast<double>(chosen[i % 3]) == labels[i] ? 1 : 0;
    REQUIRE(correct > 0);
    REQUIRE(correct < static_cast<int>(samples));
    char percent[32];
    std::snprintf(percent, sizeof percent, "%.2f", 100.0 * correct / static_cast<double>(samples));

    const fs::path file = data.write(clips().fresh("data.safetensors")),
                   head_file = head.write(clips().fresh("head.safetensors"));
    CHECK(evaluate(fixture(""), file, head_file) == percent);
    for (const std::string threads : {"1", "3"})
      CHECK(evaluate(fixture("model.safetensors"), file, head_file,
                     {"--config", clips().config(), "--threads", threads}) == percent);
    table narrow = data;
    narrow.set("labels", dtype::i32, {samples}, labels);
    CHECK(evaluate(fixture(""), narrow.write(clips().fresh("data.safetensors")), head_file) ==
          percent);
    // As bytes, with mean and deviation: the fixture's own samples.
    table bytes(fixture("samples.safetensors"));
    bytes.set("labels", dtype::i64, {3},
              {static_cast<double>(chosen[0]), static_cast<double>(chosen[1]),
               static_cast<double>((chosen[2] + 1) % classes)});
    CHECK(evaluate(fixture(""), bytes.write(clips().fresh("data.safetensors")), head_file) ==
          "66.67");
  }
}

TEST_CASE("evaluate: what does not fit") {
  table head, data(fixture("samples.safetensors"));
  head.set("weight", dtype::f32, {3, 10}, values_t(30, 0.5));
  const fs::path good_data = fixture("samples.safetensors"),
                 good_head = head.write(clips().fresh("head.safetensors"));
  const auto check = [](const fs::path& file, const fs::path& head_file,
                        const std::vector<std::string>& words) {
    const outcome r =
        run({"evaluate", "--model", fixture(""), "--data", file, "--head", head_file});
    CAPTURE(r.err);
    CHECK(r.status == 1);
    CHECK(r.out.empty());
    for (const std::string& word : words) {
      CAPTURE(word);
      CHECK(contains(r.err, word));
    }
  };
  run_well({"evaluate", "--model", fixture(""), "--data", good_data, "--head", good_head});
  head.set("weight", dtype::f32, {3, 24}, values_t(72, 0.5));
  const fs::path wide = head.write(clips().fresh("head.safetensors"));
  check(good_data, wide, {wide.string(), "'weight'", "[classes, 10]", "[3, 24]"});
  head.set("weight", dtype::f32, {2, 10}, values_t(20, 0.5));
  const fs::path few = head.write(clips().fresh("head.safetensors"));
  check(good_data, few, {good_data.string(), "'labels'", "label 2", "2 classes"});
  data.tensors.erase("labels");
  const fs::path unlabelled = data.write(clips().fresh("data.safetensors"));
  check(unlabelled, good_head, {unlabelled.string(), "'labels'"});
  data.set("labels", dtype::i64, {2}, {0, 1});
  const fs::path short_of = data.write(clips().fresh("data.safetensors"));
  check(short_of, good_head, {short_of.string(), "'labels'", "[3]", "[2]"});
}

TEST_CASE("inspect says where an index and its shards disagree") {
  const fs::path folder = clips().fresh("shards");
  fs::create_directory(folder);
  table t;
  t.set("a.weight", dtype::f32, {1, 1}, {1});
  t.set("extra.weight", dtype::f32, {1, 1}, {2});
  t.write(folder / "model-00001-of-00001.safetensors");
  put(folder / "model.safetensors.index.json",
      R"({"weight_map":{"a.weight":"model-00001-of-00001.safetensors",)"
      R"("lost.weight":"model-00001-of-00001.safetensors"}})");
  const outcome r = run_well({"inspect", folder}, warning::some);
  CHECK_CONTAINS(r.out, "extra.weight");
  CHECK_CONTAINS(r.out, "2 tensors");
  CHECK_CONTAINS(r.err,
                 "catmerge: warning: " + (folder / "model-00001-of-00001.safetensors").string() +
                     ": tensor 'extra.weight': the index does not list it");
  CHECK_CONTAINS(r.err, "tensor 'lost.weight': the index lists it, but no shard has it");
}

TEST_CASE("inspect: names, types, shapes, kinds") {
  table t = clips().base();
  t.retype(layer0 + "mlp.fc1.weight", dtype::bf16);
  const fs::path path = t.write(clips().fresh("model.safetensors"));
  const auto check = [&](const arguments& more, const std::map<std::string, std::string>& kinds) {
    const outcome r = run_well(arguments{"inspect", path, fixture("")} + more);
    CHECK_CONTAINS(r.out, path.string());
    CHECK_CONTAINS(r.out, "42 tensors");
    CHECK_CONTAINS(r.out, "format: pt");
    std::size_t found = 0;
    for (const auto& line : lines(r.out)) {
      std::istringstream in(line);
      std::string name, type, rest;
      in >> name >> type;
      std::getline(in, rest);
      if (!t.has(name) || found == t.tensors.size()) continue;
      ++found;
      CAPTURE(line);
      const auto& entry = t.at(name);
      CHECK(type == io::name_of(entry.type));
      CHECK(contains(rest, io::to_string(entry.shape)));
      std::string kind = name == "flags"                ? "packed"
                         : !is_float(entry)             ? "fixed"
                         : contains(name, "embedding")  ? "embedding, not trimmed"
                         : contains(name, "visual_pro") ? "linear, not trimmed"
                         : name.ends_with("bias")       ? "shift"
                         : contains(name, "norm") || contains(name, "layrnorm") ? "scale"
                                                                                : "linear";
      if (kinds.contains(name)) kind = kinds.at(name);
      CHECK(rest.ends_with(" " + kind));
    }
    CHECK(found == t.tensors.size());
  };
  check({}, {});
  check({"--rule", "visual_projection.weight=linear", "--rule", "*class_embedding=shift"},
        {{"visual_projection.weight", "linear"},
         {"vision_model.embeddings.class_embedding", "shift"}});
}
