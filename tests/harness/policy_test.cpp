// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <catmerge/io/checkpoint.hpp>

#include "support/harness/program.hpp"

// Tensors that not every checkpoint has, what is merged and what is not, settings for some
// parameters, and how outputs are written: shards, files beside the weights, existing targets.

using namespace harness_test;

namespace {

const std::string fc0 = layer0 + "mlp.fc1.weight";
const std::string beta0 = layer0 + "layer_norm1.bias";
const std::string table_name = "vision_model.embeddings.position_embedding.weight";

arguments task_arithmetic_by(const std::string& alpha) {
  return {"--method", "task-arithmetic", "--alpha", alpha};
}
const arguments task_arithmetic = task_arithmetic_by("0.25");

/// Writes a table, and returns where.
fs::path write(const table& t, const std::string& name = "changed.safetensors") {
  return t.write(clips().fresh(name));
}

/// A merge of `base` (the family's if empty) with the experts given, tasks a, b, ...
arguments command(const std::vector<fs::path>& experts, const fs::path& output,
                  const fs::path& base = {}) {
  arguments list = {"merge", "--base", base.empty() ? clips().base_path() : base, "--output",
                    output};
  for (std::size_t k = 0; k < experts.size(); ++k)
    list = list + arguments{"--expert", task_names[k] + "=" + experts[k].string()};
  return list;
}

/// The result of such a merge.
table result_of(const std::vector<fs::path>& experts, const arguments& options,
                warning expected = warning::none, const fs::path& base = {}) {
  const fs::path path = clips().fresh();
  run_well(command(experts, path, base) + options, expected);
  return table(path);
}

std::string error_of(const arguments& line, int status = 1) {
  const outcome r = run(line);
  CAPTURE(r.err);
  CHECK(r.status == status);
  return r.err;
}

/// theta_0 + 0.25 sum_k T_k in double, in the shape of the base; rows that an expert lacks count as
/// unchanged.
values_t summed(const values_t& base, const std::vector<values_t>& experts) {
  values_t sum = base;
  for (std::size_t i = 0; i < sum.size(); ++i)
    for (const auto& e : experts)
      if (i < e.size()) sum[i] += 0.25 * (e[i] - base[i]);
  return sum;
}

/// A Hugging Face folder of these tensors.
fs::path model_folder(const table& t) {
  const fs::path folder = clips().fresh("model");
  fs::create_directory(folder);
  t.write(folder / "model.safetensors");
  put(folder / "config.json", get(clips().config()));
  return folder;
}

}  // namespace

TEST_CASE("--drop leaves tensors out, of the base and of experts") {
  table base = clips().base(), a = clips().expert("a"), b = clips().expert("b");
  base.set("lm_head.bias", dtype::f32, {3}, {1, 2, 3});
  a.set("extra.weight", dtype::f32, {2}, {1, 2});
  const std::vector<fs::path> experts = {write(a), write(b)};
  const std::string message =
      error_of(command(experts, clips().fresh(), write(base)) + task_arithmetic);
  CHECK_CONTAINS(message, "'lm_head.bias' is missing");
  CHECK_CONTAINS(message, "'extra.weight' is not in the base");
  CHECK_CONTAINS(message, "--drop");
  const table merged =
      result_of(experts, task_arithmetic + arguments{"--drop", "lm_head.*", "--drop", "extra.*"},
                warning::any, write(base));
  CHECK_FALSE(merged.has("lm_head.bias"));
  CHECK_FALSE(merged.has("extra.weight"));
  CHECK(merged.tensors.size() == clips().base().tensors.size());
  CHECK(merged.at(q0).bytes ==
        result_of({clips().model("a"), clips().model("b")}, task_arithmetic).at(q0).bytes);
}

TEST_CASE("--task-heads writes each expert's own tensors to a file per task, bit for bit") {
  table base = clips().base(), a = clips().expert("a"), b = clips().expert("b");
  base.set("classifier.weight", dtype::f32, {2, 24}, values_t(48, 9));  // untrained
  noise n(3);
  values_t weight_a(72), weight_b(48);
  for (double& x : weight_a) x = n();
  for (double& x : weight_b) x = n();
  a.set("classifier.weight", dtype::f32, {3, 24}, weight_a);
  b.set("classifier.weight", dtype::f16, {2, 24}, weight_b);
  b.set("classifier.steps", dtype::i64, {}, {7});
  const std::vector<fs::path> experts = {write(a), write(b)};
  const fs::path heads = clips().fresh("heads");
  const arguments options =
      task_arithmetic + arguments{"--task-heads", "classifier.*", "--heads-output", heads};
  const table merged = result_of(experts, options, warning::none, write(base));
  CHECK_FALSE(merged.has("classifier.weight"));
  CHECK(merged.tensors.size() == clips().base().tensors.size());
  CHECK(contents(heads).size() == 2);
  const table head_a(heads / "a.safetensors"), head_b(heads / "b.safetensors");
  CHECK(head_a.tensors.size() == 1);
  CHECK(head_a.at("classifier.weight").bytes == a.at("classifier.weight").bytes);
  CHECK(head_b.tensors.size() == 2);
  CHECK(head_b.at("classifier.weight").bytes == b.at("classifier.weight").bytes);
  CHECK(head_b.at("classifier.steps").bytes == b.at("classifier.steps").bytes);

  // A second time: refused, and nothing of the merge appears.
  const fs::path output = clips().fresh();
  CHECK_CONTAINS(error_of(command(experts, output, write(base)) + options), "exists already");
  CHECK_FALSE(fs::exists(output));
  CHECK_CONTAINS(
      error_of(command({experts[0], clips().model("b")}, output, write(base)) + task_arithmetic +
               arguments{"--task-heads", "classifier.*", "--heads-output", clips().fresh("heads")}),
      "expert 'b' has no tensor that --task-heads matches");
  CHECK_CONTAINS(
      error_of(command(experts, output) + arguments{"--task-heads", "x"} + task_arithmetic, 2),
      "--heads-output");
  CHECK_CONTAINS(
      error_of(arguments{"merge", "--base", clips().base_path(), "--expert",
                         "../evil=" + experts[0].string(), "--output", output, "--task-heads",
                         "classifier.*", "--heads-output", clips().fresh("heads")} +
               task_arithmetic),
      "'../evil' cannot be the name of a file");
  CHECK_FALSE(fs::exists(output));
}

TEST_CASE("--missing base: what an expert lacks has no task vector") {
  table a = clips().expert("a");
  a.tensors.erase(q0);
  a.tensors.erase(beta0);
  const std::vector<fs::path> experts = {write(a), clips().model("b")};
  CHECK_CONTAINS(error_of(command(experts, clips().fresh()) + task_arithmetic), "2 differences");
  const table merged =
      result_of(experts, task_arithmetic + arguments{"--missing", "base"}, warning::some);
  for (const auto& name : {q0, beta0})
    CHECK(largest_difference(
              merged.values(name),
              summed(clips().base().values(name), {clips().expert("b").values(name)})) < 1e-6);
  CHECK(merged.at(fc0).bytes ==
        result_of({clips().model("a"), clips().model("b")}, task_arithmetic).at(fc0).bytes);
  // The network of the samples is completed in the same way: as if the expert had the base's.
  table completed = a;
  for (const auto& name : {q0, beta0}) completed.tensors[name] = clips().base().at(name);
  const arguments samples = clips().with_samples({"a", "b"});
  const table one = result_of(experts, samples + arguments{"--missing", "base"}, warning::some);
  const table other = result_of({write(completed), clips().model("b")}, samples);
  for (const auto& [name, t] : one.tensors) {
    CAPTURE(name);
    CHECK(t.bytes == other.at(name).bytes);
  }
}

TEST_CASE("--resized merges the rows in common; the result has the base's") {
  const index_t height = 10, width = 24;
  const auto rows = [&](const values_t& v, index_t count) {
    return values_t(v.begin(), v.begin() + count * width);
  };
  table a = clips().expert("a"), b = clips().expert("b");
  const values_t whole_a = a.values(table_name), whole_b = b.values(table_name);
  values_t taller = whole_a;
  taller.resize(static_cast<std::size_t>((height + 3) * width), 77);
  a.set(table_name, dtype::f32, {height + 3, width}, taller);
  b.set(table_name, dtype::f32, {height - 4, width}, rows(whole_b, height - 4));
  const std::vector<fs::path> experts = {write(a), write(b)};
  CHECK_CONTAINS(error_of(command(experts, clips().fresh()) + task_arithmetic),
                 "expected [10, 24], found [13, 24]");
  const arguments resized = {"--resized", "*position_embedding.weight"};
  const outcome told =
      run_well(command(experts, clips().fresh()) + task_arithmetic + resized, warning::some);
  CHECK_CONTAINS(told.err, "2 tensors of experts have more or fewer rows");
  const table merged = result_of(experts, task_arithmetic + resized, warning::some);
  const values_t base = clips().base().values(table_name);
  CHECK(merged.at(table_name).shape == io::shape_t{height, width});
  CHECK(largest_difference(merged.values(table_name),
                           summed(base, {whole_a, rows(whole_b, height - 4)})) < 1e-6);
  // Widths never differ, and neither do names that no pattern has.
  b.set(table_name, dtype::f32, {width, height}, whole_b);
  CHECK_CONTAINS(error_of(command({write(b)}, clips().fresh()) + task_arithmetic + resized),
                 "expected [10, 24], found [24, 10]");
  CHECK_CONTAINS(error_of(command({experts[0]}, clips().fresh()) + task_arithmetic +
                          arguments{"--resized", "*class_embedding"}),
                 "expected [10, 24], found [13, 24]");
}

TEST_CASE("--resized: rows are those of the file, whichever way the network reads it") {
  // OpenCLIP's projection is stored d_in x d_out.
  noise n(41);
  const auto make = [&](index_t rows) {
    table t;
    values_t values(static_cast<std::size_t>(rows * 4));
    for (double& x : values) x = n();
    t.set("visual.proj", dtype::f32, {rows, 4}, values);
    return t;
  };
  const table base = make(8), taller = make(10), lower = make(6);
  values_t common = taller.values("visual.proj");
  common.resize(32);
  const table merged = result_of({write(taller), write(lower)},
                                 task_arithmetic + arguments{"--resized", "visual.proj"},
                                 warning::some, write(base));
  CHECK(largest_difference(
            merged.values("visual.proj"),
            summed(base.values("visual.proj"), {common, lower.values("visual.proj")})) < 1e-6);
}

TEST_CASE("--include and --exclude: what is not merged is the base's, bit for bit") {
  const std::vector<fs::path> experts = {clips().model("a"), clips().model("b")};
  const table all = result_of(experts, task_arithmetic);
  const table some =
      result_of(experts, task_arithmetic + arguments{"--include", "*.layers.0.*", "--include",
                                                     "*class_embedding", "--exclude", "*.mlp.*"});
  for (const auto& [name, t] : some.tensors) {
    CAPTURE(name);
    const bool merged = (contains(name, "layers.0.") || contains(name, "class_embedding")) &&
                        !contains(name, ".mlp.");
    CHECK(t.bytes == (merged ? all : clips().base()).at(name).bytes);
  }
  for (const std::string option : {"--include", "--exclude", "--drop", "--resized"}) {
    CHECK_CONTAINS(error_of(command(experts, clips().fresh()) + task_arithmetic +
                            arguments{option, "*.layer.0.*"}),
                   option + ": no tensor's name matches '*.layer.0.*'");
    CHECK_CONTAINS(
        error_of(command(experts, clips().fresh()) + task_arithmetic + arguments{option, "{a"}),
        "braces");
  }
}

TEST_CASE("--set: each parameter as if the whole merge had its settings") {
  const std::vector<std::string> tasks = {"a", "b", "c"};
  const arguments features = clips().with_features(tasks);
  const auto merge = [&](const arguments& options) { return merged(options + features, tasks); };
  const table plain = merge({});
  const table by_alpha = merge({"--alpha", "0.15"});
  const table by_rank = merge({"--rank", "1", "--lambda", "0.5"});
  const table by_scale = merge({"--scale-rank", "9", "--scale-lambda", "0"});
  const table by_shift = merge({"--shift-rank", "11", "--alpha", "0.15"});
  const table set = merge({"--set", "*.layers.0.*:alpha=0.9", "--set", "*.layers.0.*:alpha=0.15",
                           "--set", "*.layers.1.mlp.*.weight:rank=1,lambda=0.5", "--set",
                           "*.layers.1.layer_norm?.weight:rank=9,lambda=0", "--set",
                           "*.layers.1.*bias:rank=11,alpha=0.15"});
  int changed = 0;
  for (const auto& [name, t] : set.tensors) {
    CAPTURE(name);
    const table* expected = &plain;
    if (contains(name, "layers.0.")) expected = &by_alpha;
    if (contains(name, "layers.1.mlp") && name.ends_with("weight")) expected = &by_rank;
    if (contains(name, "layers.1.layer_norm") && name.ends_with("weight")) expected = &by_scale;
    if (contains(name, "layers.1.") && name.ends_with("bias")) expected = &by_shift;
    CHECK(t.bytes == expected->at(name).bytes);
    changed += expected != &plain && t.bytes != plain.at(name).bytes ? 1 : 0;
  }
  CHECK(changed > 25);
  // Every setting of the trims, by its own name.
  const table own = merge({"--set", "*:scale-rank=9,scale-lambda=0,order=joint,basis-energy=0.5"});
  const table joint = merge(
      {"--scale-rank", "9", "--scale-lambda", "0", "--order", "joint", "--basis-energy", "0.5"});
  for (const auto& [name, t] : own.tensors) CHECK(t.bytes == joint.at(name).bytes);
  CHECK(own.at(q0).bytes != plain.at(q0).bytes);
  // By kind.
  const table by_kind = merge({"--set", "@linear:rank=1,lambda=0.5", "--set",
                               "@scale:rank=9,lambda=0", "--set", "@shift:rank=11,alpha=0.15"});
  CHECK(by_kind.at(q0).bytes == by_rank.at(q0).bytes);
  CHECK(by_kind.at(gamma0).bytes == by_scale.at(gamma0).bytes);
  CHECK(by_kind.at(beta0).bytes == by_shift.at(beta0).bytes);
  CHECK(by_kind.at(table_name).bytes == plain.at(table_name).bytes);
  const table other = merged({"--method", "task-arithmetic", "--set", "@other:alpha=1"}, {"a"});
  CHECK(largest_difference(other.values(table_name), clips().expert("a").values(table_name)) <
        1e-6);

  for (const auto& [text, why] : std::vector<std::pair<std::string, std::string>>{
           {"*", "PATTERN:KEY=VALUE"},
           {":alpha=1", "PATTERN:KEY=VALUE"},
           {"*:", "PATTERN:KEY=VALUE"},
           {"*:rank=1,basis-energy=0.5", "'rank' excludes 'basis-energy'"},
           {"*:order=both", "expected sequential or joint, found 'both'"},
           {"*:beta=1", "no setting 'beta': expected alpha, lambda, rank, "},
           {"*:alpha=", "expected KEY=VALUE, found 'alpha='"},
           {"*:alpha=1x", "expected a number"},
           {"*:alpha=nan", "expected a number"},
           {"*:lambda=-1", "of at least 0"},
           {"*:rank=-1", "whole number"},
           {"*:rank=1.5", "whole number"},
           {"*:alpha=1,", "end with a comma"},
           {"@conv:alpha=1", "expected @linear"},
           {"{a:alpha=1", "braces"}}) {
    CAPTURE(text);
    CHECK_CONTAINS(
        error_of(clips().merge(clips().fresh()) + features + arguments{"--set", text}, 2), why);
  }
  CHECK_CONTAINS(
      error_of(clips().merge(clips().fresh()) + features + arguments{"--set", "nothing:alpha=1"}),
      "--set 'nothing:alpha=1' applies to no parameter that is merged");
  CHECK_CONTAINS(error_of(clips().merge(clips().fresh()) + features +
                          arguments{"--set", "*position_ids:alpha=1"}),
                 "applies to no parameter");
  CHECK_CONTAINS(error_of(clips().merge(clips().fresh()) + features +
                          arguments{"--include", "*.bias", "--set", "@scale:alpha=1"}),
                 "applies to no parameter");
}

TEST_CASE("tied tensors stay tied, whatever rules their names fall under") {
  // A head that is the table of tokens under another name; the rule would trim the one and not the
  // other. Zeros alike in base and experts say nothing.
  const std::string owner = "shared.weight", alias = "lm_head.weight";
  table base = clips().base();
  std::vector<table> experts = {clips().expert("a"), clips().expert("b")};
  const auto tie = [&](table& t) { t.tensors[owner] = t.tensors[alias] = t.at(table_name); };
  tie(base), base.set("zeros", dtype::f32, {4}, {0, 0, 0, 0});
  for (table& t : experts) tie(t), t.set("zeros", dtype::f32, {4}, {1, 0, 0, 0});
  base.set("more_zeros", dtype::f32, {4}, {0, 0, 0, 0});
  for (table& t : experts) t.set("more_zeros", dtype::f32, {4}, {0, 1, 0, 0});
  const fs::path report = clips().fresh("report.json");
  const std::vector<fs::path> paths = {write(experts[0]), write(experts[1])};
  const auto options = task_arithmetic + arguments{"--rule", "*zeros=shift"};
  const table merged =
      result_of(paths, options + arguments{"--report", report}, warning::any, write(base));
  CHECK(merged.at(alias).bytes == merged.at(owner).bytes);
  CHECK(merged.at(owner).bytes ==
        result_of({clips().model("a"), clips().model("b")}, task_arithmetic).at(table_name).bytes);
  CHECK(merged.values("zeros") == values_t{0.5, 0, 0, 0});
  CHECK(merged.values("more_zeros") == values_t{0, 0.5, 0, 0});
  CHECK(json::parse(get(report))["tied"] == json{{alias, owner}});

  // --set may name either of them.
  for (const std::string& name : {alias, owner}) {
    const table set = result_of(paths, options + arguments{"--set", name + ":alpha=0"},
                                warning::any, write(base));
    CHECK(set.at(owner).bytes == base.at(owner).bytes);
    CHECK(set.at(alias).bytes == base.at(owner).bytes);
  }
  // A file may hold one of the two names only.
  for (const std::string& name : {alias, owner}) {
    table one_name = experts[0];
    one_name.tensors.erase(name);
    const table whole =
        result_of({write(one_name), paths[1]}, options + arguments{"--missing", "base"},
                  warning::any, write(base));
    CHECK(whole.at(alias).bytes == merged.at(owner).bytes);
    CHECK(whole.at(owner).bytes == merged.at(owner).bytes);
  }
  // A pattern that takes one of two tied tensors would part them; one that takes both does not.
  CHECK_CONTAINS(error_of(command(paths, clips().fresh(), write(base)) + options +
                          arguments{"--exclude", alias}),
                 "must take both or neither");
  const table kept = result_of(paths, options + arguments{"--exclude", alias, "--exclude", owner},
                               warning::any, write(base));
  CHECK(kept.at(alias).bytes == base.at(owner).bytes);

  // One expert in which they differ: not tied.
  experts[1].poke(alias, 5, 3);
  const table apart = result_of({paths[0], write(experts[1])}, options, warning::any, write(base));
  CHECK(apart.at(alias).bytes != apart.at(owner).bytes);
}

TEST_CASE("a table larger than a piece: the same bytes as in one") {
  // 3 million values in 8 MiB pieces; an expert with fewer rows, so that a piece ends in it and the
  // next has none of it.
  const index_t width = 1000, height = 3001;
  noise n(17);
  const auto make = [&](index_t rows) {
    table t;
    values_t values(static_cast<std::size_t>(rows * width));
    for (double& x : values) x = n();
    t.set("table", dtype::f32, {rows, width}, values);
    return t;
  };
  const table base = make(height), a = make(height), b = make(2200);
  const fs::path report = clips().fresh("report.json");
  const table merged = result_of({write(a), write(b)},
                                 task_arithmetic + arguments{"--resized", "table", "--report",
                                                             report, "--set", "table:alpha=0.25"},
                                 warning::some, write(base));
  CHECK(largest_difference(merged.values("table"),
                           summed(base.values("table"), {a.values("table"), b.values("table")})) <
        1e-6);
  const json parameters = json::parse(get(report))["parameters"];
  REQUIRE(parameters.size() == 1);
  CHECK(parameters[0]["name"] == "table");
  const json settings = json::parse(get(report))["catmerge"]["settings"];
  CHECK(settings["resized"] == json{"table"});
  CHECK(settings["set"] == json{"table:alpha=0.25"});
  CHECK_FALSE(settings.contains("drop"));
}

TEST_CASE("shards of the size asked for, and what lies beside the weights") {
  const fs::path base = model_folder(clips().base());
  put(base / "tokenizer.json", "{}");
  put(base / "pytorch_model.bin", "old");
  fs::create_directory(base / "1_Pooling");
  put(base / "1_Pooling/config.json", "{\"a\": 1}");
  const fs::path one = clips().fresh("one"), many = clips().fresh("many");
  const arguments experts = {"--expert", "a=" + clips().model("a").string()};
  run_well(arguments{"merge", "--base", base, "--output", one} + experts + task_arithmetic);
  run_well(arguments{"merge", "--base", base, "--output", many, "--max-shard-size", "10KB"} +
           experts + task_arithmetic);
  CHECK(fs::exists(one / "model.safetensors"));
  CHECK(get(one / "tokenizer.json") == "{}");
  CHECK(get(one / "1_Pooling/config.json") == "{\"a\": 1}");
  CHECK_FALSE(fs::exists(one / "pytorch_model.bin"));
  const io::checkpoint whole(one), shards(many);
  CHECK(fs::exists(many / "model.safetensors.index.json"));
  CHECK(shards.names().size() == whole.names().size());
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(many)) {
    if (entry.path().extension() != ".safetensors") continue;
    ++files;
    const io::safetensors_file file(entry.path());
    std::size_t bytes = 0;
    for (const auto& e : file.entries()) bytes += e.bytes.size();
    CHECK((bytes <= 10000 || file.entries().size() == 1));
  }
  CHECK(files > 3);
  for (const auto& name : whole.names())
    CHECK(io_test::text_of(whole.at(name).bytes) == io_test::text_of(shards.at(name).bytes));
  // Shards in, a shardless file out.
  const fs::path file = clips().fresh();
  run_well(arguments{"merge", "--base", many, "--output", file} + experts +
           task_arithmetic_by("0"));
  CHECK(table(file).at(q0).bytes == table(one / "model.safetensors").at(q0).bytes);

  for (const std::string size : {"", "x", "-1", "0.5", "5 TB", "1e30GB", "nan"})
    CHECK_CONTAINS(error_of(arguments{"merge", "--base", base, "--output", clips().fresh("x"),
                                      "--max-shard-size", size} +
                                experts + task_arithmetic,
                            2),
                   "--max-shard-size");
  CHECK_CONTAINS(error_of(clips().merge(clips().fresh()) + task_arithmetic +
                              arguments{"--max-shard-size", "1GB"},
                          2),
                 "is for Hugging Face folders");
}

TEST_CASE("another type in a folder: the configuration says so") {
  table half = clips().base();
  half.retype_all(dtype::f16);
  const fs::path base = model_folder(half);
  put(base / "config.json",
      R"({"torch_dtype": "float16", "x": 1e-05, "vision_config": {"dtype": "float16", "name": "float16"}})");
  const arguments experts = {"--expert", "a=" + clips().model("a").string()};
  const fs::path same = clips().fresh("same"), wide = clips().fresh("wide");
  run_well(arguments{"merge", "--base", base, "--output", same} + experts + task_arithmetic);
  CHECK(get(same / "config.json") == get(base / "config.json"));
  run_well(arguments{"merge", "--base", base, "--output", wide, "--out-dtype", "bf16"} + experts +
           task_arithmetic);
  CHECK(json::parse(get(wide / "config.json")) ==
        json::parse(R"({"torch_dtype": "bfloat16", "x": 1e-05,
                        "vision_config": {"dtype": "bfloat16", "name": "float16"}})"));
  CHECK(table(wide / "model.safetensors").at(q0).type == dtype::bf16);
}

TEST_CASE("what exists is refused, unless it is to be replaced") {
  const arguments experts = {"--expert", "a=" + clips().model("a").string()};
  const fs::path base = model_folder(clips().base());
  for (const bool is_folder : {false, true}) {
    const fs::path output = clips().fresh(is_folder ? "out" : "out.safetensors");
    const fs::path report = clips().fresh("report.json");
    const auto merge = [&](const std::string& alpha, const arguments& more = {}) {
      return arguments{"merge", "--base", base, "--output", output, "--report", report} + experts +
             task_arithmetic_by(alpha) + more;
    };
    run_well(merge("0.25"));
    const fs::path weights = is_folder ? output / "model.safetensors" : output;
    const std::string before = get(weights), said = get(report);
    CHECK_CONTAINS(error_of(merge("0.5")), "exists already");
    fs::remove(report);
    CHECK_CONTAINS(error_of(merge("0.5")), "exists already");
    CHECK_FALSE(fs::exists(report));
    CHECK(get(weights) == before);
    run_well(merge("0.5", {"--overwrite"}));
    CHECK(get(weights) != before);
    CHECK(get(report) != said);
  }
  // Nothing that is read lies in what is replaced, and no output in another.
  const fs::path nest = clips().fresh("nest");
  fs::create_directories(nest / "base/into");
  clips().base().write(nest / "base/model.safetensors");
  clips().expert("a").write(nest / "a.safetensors");
  const std::string inside = "b=" + (nest / "a.safetensors").string();
  for (const auto& line :
       {arguments{"--base", nest / "base", "--output", nest},
        arguments{"--base", base, "--expert", inside, "--output", nest},
        arguments{"--base", nest / "base", "--output", nest / "base/into/x"},
        arguments{"--base", nest / "base", "--output", nest / "base/into/../.."}}) {
    CHECK_CONTAINS(error_of(arguments{"merge", "--overwrite"} + line + experts + task_arithmetic),
                   "one of the inputs");
    CHECK(fs::exists(nest / "base/model.safetensors"));
    CHECK(fs::exists(nest / "a.safetensors"));
  }
  const fs::path out = clips().fresh("out");
  for (const auto& line :
       {arguments{"--output", out, "--report", out / "report.json"},
        arguments{"--output", out, "--task-heads", "flags", "--heads-output", out / "heads"},
        arguments{"--output", out / "merged", "--task-heads", "flags", "--heads-output", out}}) {
    CHECK_CONTAINS(error_of(arguments{"merge", "--overwrite", "--base", base} + line + experts +
                            task_arithmetic),
                   "one lies in the other");
    CHECK_FALSE(fs::exists(out));
  }
  CHECK_CONTAINS(error_of(arguments{"merge", "--base", base, "--output", out, "--drop", "*"} +
                          experts + task_arithmetic),
                 "leave nothing");
  const fs::path home = clips().fresh("home");
  fs::create_directory(home);
  put(home / "thesis.tex", "years of work");
  CHECK_CONTAINS(error_of(arguments{"merge", "--base", base, "--output", home, "--overwrite"} +
                          experts + task_arithmetic),
                 "is not replaced: it holds 'thesis.tex'");
  CHECK(get(home / "thesis.tex") == "years of work");
  const arguments features = {"features",
                              "--model",
                              clips().model("b"),
                              "--samples",
                              clips().samples("b"),
                              "--config",
                              clips().config(),
                              "--output",
                              clips().fresh("features.safetensors")};
  run_well(features);
  CHECK_CONTAINS(error_of(features), "exists already");
  run_well(features + arguments{"--overwrite"});
}
