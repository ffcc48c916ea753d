// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>

#include "support/harness/program.hpp"

// Checkpoints of other people's making: what is not arithmetic on weights, names and layouts of
// other networks, files that differ from the base by a rule or by mistake. Nothing of it may end in
// a wrong network without a word.

using namespace harness_test;

namespace {

/// Files of one test.
class files {
 public:
  fs::path write(const table& t) { return t.write(fresh(".safetensors")); }
  /// A folder with a configuration.
  fs::path folder(const table& t, const json& config) {
    const fs::path path = fresh("");
    fs::create_directory(path);
    t.write(path / "model.safetensors");
    put(path / "config.json", config.dump());
    return path;
  }
  fs::path fresh(const std::string& end) { return root_ / (std::to_string(count_++) + end); }

 private:
  temporary_folder root_;
  int count_ = 0;
};

arguments command(const fs::path& base, const std::vector<fs::path>& experts,
                  const fs::path& output) {
  arguments list = {"merge", "--base", base, "--output", output};
  for (std::size_t k = 0; k < experts.size(); ++k)
    list = list + arguments{"--expert",
                            std::string(1, static_cast<char>('a' + k)) + "=" + experts[k].string()};
  return list;
}

struct merge_outcome {
  outcome run;
  table merged;
  json report;
};

/// Merges and wants it to work.
merge_outcome merge(files& f, const fs::path& base, const std::vector<fs::path>& experts,
                    const arguments& options) {
  const fs::path output = f.fresh(".safetensors"), report = f.fresh(".json");
  merge_outcome result{
      run(command(base, experts, output) + options + arguments{"--report", report}), {}, {}};
  CAPTURE(result.run.err);
  REQUIRE(result.run.status == 0);
  result.merged = table(output);
  result.report = json::parse(get(report));
  return result;
}

/// Merges tables.
merge_outcome merge(files& f, const table& base, const std::vector<table>& experts,
                    const arguments& options) {
  std::vector<fs::path> paths;
  for (const auto& e : experts) paths.push_back(f.write(e));
  return merge(f, f.write(base), paths, options);
}

/// The message of a merge that must end with status 1 and no output; else it says so.
std::string refused(files& f, const fs::path& base, const std::vector<fs::path>& experts,
                    const arguments& options = {"--method", "average"}) {
  const fs::path output = f.fresh(".safetensors");
  const outcome result = run(command(base, experts, output) + options);
  if (result.status != 1 || fs::exists(output))  // (no assertion: this is called inside of some)
    return "not refused, but status " + std::to_string(result.status) + ": " + result.err;
  return result.err;
}
std::string refused(files& f, const table& base, const std::vector<table>& experts,
                    const arguments& options = {"--method", "average"}) {
  std::vector<fs::path> paths;
  for (const auto& e : experts) paths.push_back(f.write(e));
  return refused(f, f.write(base), paths, options);
}

/// Values that a float holds.
values_t random_values(noise& n, index_t count, double size = 1) {
  values_t values(static_cast<std::size_t>(count));
  for (double& x : values) x = rounded(n(size), dtype::f32);
  return values;
}

values_t moved(const values_t& base, noise& n, double size = 0.05) {
  values_t values = base;
  for (double& x : values) x = rounded(x + n(size), dtype::f32);
  return values;
}

values_t mean_of(const std::vector<values_t>& all) {
  values_t sum(all[0].size(), 0);
  for (const auto& v : all)
    for (std::size_t i = 0; i < v.size(); ++i) sum[i] += v[i] / static_cast<double>(all.size());
  return sum;
}

values_t task_arithmetic(const values_t& base, const std::vector<values_t>& experts, double alpha) {
  values_t sum = base;
  for (const auto& e : experts)
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += alpha * (e[i] - base[i]);
  return sum;
}

values_t transposed(const values_t& v, index_t rows, index_t columns) {
  values_t t(v.size());
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < columns; ++j)
      t[static_cast<std::size_t>(j * rows + i)] = v[static_cast<std::size_t>(i * columns + j)];
  return t;
}

/// OCP's E4M3 and E5M2 from their definition: the value of a code.
double float8(unsigned code, int mantissa, int bias) {
  const int exponent = static_cast<int>(code & 0x7f) >> mantissa;
  const double digits = static_cast<double>(code & ((1U << mantissa) - 1)) / (1 << mantissa);
  const double size =
      exponent == 0 ? std::ldexp(digits, 1 - bias) : std::ldexp(1 + digits, exponent - bias);
  return (code & 0x80) != 0 ? -size : size;
}

/// Finite codes at random, and what they stand for.
struct codes {
  codes(unsigned seed, index_t count, dtype type) {
    std::mt19937 random(seed);
    for (index_t i = 0; i < count; ++i) {
      const auto code = static_cast<unsigned>(random() % 0x78) | (random() % 2 == 0 ? 0 : 0x80);
      bytes.push_back(static_cast<double>(code));
      values.push_back(type == dtype::f8_e4m3 ? float8(code, 3, 7) : float8(code, 2, 15));
    }
  }
  values_t bytes, values;
};

void add_codes(table& t, const std::string& name, dtype type, const io::shape_t& shape,
               const codes& c) {
  t.set(name, dtype::u8, shape, c.bytes);
  t.tensors[name].type = type;
}

/// As bfloat16 holds it.
values_t in_bfloat(values_t values) {
  for (double& x : values) x = rounded(x, dtype::bf16);
  return values;
}

const arguments average = {"--method", "average"};

}  // namespace

// ---------------------------------------------------------------- quantised

TEST_CASE("8-bit floats with scales are the floats that they stand for; the output is BF16") {
  struct scale_kind {
    std::string name;
    io::shape_t shape;
    index_t rows_per_scale, columns_per_scale;
  };
  const index_t rows = 130, columns = 260;
  const std::string w = "model.layers.0.mlp.down_proj.weight";
  for (const auto& kind :
       {scale_kind{"_scale", {}, rows, columns}, scale_kind{"_scale", {1}, rows, columns},
        scale_kind{"_scale", {rows}, 1, columns}, scale_kind{"_scale", {rows, 1}, 1, columns},
        scale_kind{"_scale_inv", {2, 3}, 128, 128}}) {
    for (const dtype type : {dtype::f8_e4m3, dtype::f8_e5m2}) {
      CAPTURE(kind.name);
      CAPTURE(kind.shape.size());
      files f;
      noise n(7);
      std::vector<fs::path> paths;
      std::vector<values_t> meant;
      for (unsigned i = 0; i < 3; ++i) {
        table t;
        const codes c(i, rows * columns, type);
        add_codes(t, w, type, {rows, columns}, c);
        index_t scales = 1;
        for (const index_t e : kind.shape) scales *= e;
        values_t scale = random_values(n, scales, 0.01);
        for (double& x : scale) x = static_cast<double>(static_cast<float>(std::fabs(x) + 0.001));
        t.set(w + kind.name, dtype::f32, kind.shape, scale);
        t.set("model.layers.0.mlp.down_proj.input_scale", dtype::f32, {}, {0.5 + i});
        t.set("model.norm.weight", dtype::bf16, {4}, random_values(n, 4));
        values_t values = c.values;
        const index_t across = kind.shape.size() == 2 ? kind.shape[1] : 1;
        for (index_t r = 0; r < rows; ++r)
          for (index_t k = 0; k < columns; ++k)
            values[static_cast<std::size_t>(r * columns + k)] *= scale[static_cast<std::size_t>(
                r / kind.rows_per_scale * across + k / kind.columns_per_scale)];
        meant.push_back(values);
        paths.push_back(
            f.folder(t, {{"model_type", "llama"},
                         {"torch_dtype", "float8_e4m3fn"},
                         {"quantization_config",
                          {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}}}}));
      }
      const fs::path output = f.fresh("");
      const outcome done = run(command(paths[0], {paths[1], paths[2]}, output) + average);
      CAPTURE(done.err);
      REQUIRE(done.status == 0);
      const table merged(output / "model.safetensors");
      CHECK(merged.tensors.size() == 2);
      CHECK(merged.at(w).type == dtype::bf16);
      // Roundings in float, and one to bfloat16, whose unit roundoff is 2^-8.
      const values_t expected = mean_of({meant[1], meant[2]});
      const values_t got = merged.values(w);
      double worst = 0;
      for (std::size_t i = 0; i < got.size(); ++i) {
        const double size = std::max(
            {std::fabs(meant[0][i]), std::fabs(meant[1][i]), std::fabs(meant[2][i]), 1e-30});
        worst = std::max(worst, std::fabs(got[i] - expected[i]) / size);
      }
      CHECK(worst < 0x1p-8 + 0x1p-20);
      const json config = json::parse(get(output / "config.json"));
      CHECK_FALSE(config.contains("quantization_config"));
      CHECK(config["torch_dtype"] == "bfloat16");
    }
  }
}

TEST_CASE("8-bit floats and wide ones meet in one merge") {
  files f;
  noise n(9);
  const std::string w = "model.layers.0.self_attn.o_proj.weight";
  table base, wide, narrow;
  base.set(w, dtype::bf16, {4, 6}, random_values(n, 24));
  wide.set(w, dtype::f32, {4, 6}, random_values(n, 24));
  const codes c(3, 24, dtype::f8_e4m3);
  add_codes(narrow, w, dtype::f8_e4m3, {4, 6}, c);
  narrow.set(w + "_scale", dtype::bf16, {4, 1}, {0.5, 2, 0.25, 1});
  values_t meant = c.values;
  for (std::size_t i = 0; i < meant.size(); ++i) meant[i] *= values_t{0.5, 2, 0.25, 1}[i / 6];
  const auto result = merge(f, base, {wide, narrow}, average);
  CHECK(result.merged.at(w).type == dtype::bf16);
  const values_t expected = in_bfloat(mean_of({wide.values(w), meant}));
  CHECK(largest_difference(result.merged.values(w), expected) <= 512 * 0x1p-8);
  CHECK(result.merged.tensors.size() == 1);
}

TEST_CASE("scales that do not fit are refused by name") {
  files f;
  table t;
  add_codes(t, "l.weight", dtype::f8_e4m3, {4, 6}, codes(1, 24, dtype::f8_e4m3));
  t.set("l.weight_scale", dtype::f32, {3}, {1, 1, 1});
  const std::string message = refused(f, t, {t});
  CHECK_CONTAINS(message, "'l.weight'");
  CHECK_CONTAINS(message, "'l.weight_scale', F32 [3]");
  t.set("l.weight_scale", dtype::i64, {4}, {1, 1, 1, 1});
  CHECK_CONTAINS(refused(f, t, {t}), "expected floating-point scales");
}

TEST_CASE("other codes are refused by name, whoever holds them") {
  files f;
  noise n(4);
  table plain;
  plain.set("model.layers.0.mlp.up_proj.weight", dtype::f32, {4, 4}, random_values(n, 16));
  const auto with = [&](const std::string& name, dtype type, io::shape_t shape) {
    table t = plain;
    index_t count = 1;
    for (const index_t e : shape) count *= e;
    t.set(name, type == dtype::i32 ? type : dtype::u8, std::move(shape),
          values_t(static_cast<std::size_t>(count), 3));
    t.tensors[name].type = type;
    return t;
  };
  for (const auto& [name, type, what] : std::vector<std::tuple<std::string, dtype, std::string>>{
           {"model.layers.0.mlp.up_proj.qweight", dtype::i32, "GPTQ"},
           {"model.layers.0.mlp.experts.gate_up_proj_blocks", dtype::u8, "MXFP4"},
           {"model.layers.0.mlp.up_proj.weight_packed", dtype::i32, "compressed-tensors"},
           {"model.layers.0.mlp.down_proj.weight.quant_state.bitsandbytes__nf4", dtype::u8,
            "bitsandbytes"},
           {"model.layers.0.mlp.down_proj.SCB", dtype::u8, "bitsandbytes"},
           {"model.layers.0.mlp.down_proj.weight", dtype::f8_e4m3fnuz, "F8_E4M3FNUZ"}}) {
    CAPTURE(name);
    const table t = with(name, type, {2, 4});
    for (const auto& message :
         {refused(f, t, {t, t}), refused(f, plain, {plain, t}), refused(f, t, {plain})}) {
      CHECK_CONTAINS(message, "'" + name + "'");
      CHECK_CONTAINS(message, what);
      CHECK_CONTAINS(message, "is quantised");
    }
    merge(f, t, {t, plain}, average + arguments{"--exclude", name});
  }
  // 8-bit integers are codes where a configuration or a scale says so.
  const table eight = with("model.layers.0.mlp.down_proj.weight", dtype::i8, {2, 4});
  const json config = {{"model_type", "llama"},
                       {"quantization_config", {{"quant_method", "special"}}}};
  CHECK_CONTAINS(refused(f, f.folder(eight, config), {f.folder(eight, config)}), "'special'");
  table scaled = eight;
  scaled.set("model.layers.0.mlp.down_proj.weight_scale", dtype::f32, {1}, {1});
  CHECK_CONTAINS(refused(f, scaled, {scaled}), "is quantised");
}

TEST_CASE("codes that are left alone keep their scales") {
  files f;
  noise n(22);
  table base, expert;
  const std::string module = "model.layers.0.mlp.up_proj";
  base.set("model.layers.0.mlp.down_proj.weight", dtype::f32, {4, 4}, random_values(n, 16));
  add_codes(base, module + ".weight", dtype::f8_e4m3, {4, 4}, codes(1, 16, dtype::f8_e4m3));
  base.set(module + ".weight_scale", dtype::f32, {4}, {1, 2, 3, 4});
  base.set(module + ".bias", dtype::f32, {4}, {1, 2, 3, 4});
  expert = base;
  for (const char* name : {".weight_scale", ".bias"})
    expert.set(module + name, dtype::f32, {4}, {5, 6, 7, 8});
  const auto done = merge(f, base, {expert}, average + arguments{"--exclude", "*up_proj.weight"});
  for (const char* name : {".weight", ".weight_scale"})
    CHECK(done.merged.at(module + name).bytes == base.at(module + name).bytes);
  CHECK(done.merged.at(module + ".bias").bytes == expert.at(module + ".bias").bytes);
  CHECK(done.report["copied_because"][module + ".weight_scale"] ==
        "the scale of codes that are copied");
}

TEST_CASE("what is copied is compared: integers and floats without a scale") {
  files f;
  noise n(5);
  table base;
  base.set("layer.dense.weight", dtype::f32, {3, 3}, random_values(n, 9));
  base.set("hash.table", dtype::i32, {4}, {1, 2, 3, 4});
  base.set("mask", dtype::boolean, {2}, {0, 1});
  add_codes(base, "raw.weight", dtype::f8_e5m2, {2, 2}, codes(1, 4, dtype::f8_e5m2));
  table same = base, other = base;
  same.set("layer.dense.weight", dtype::f32, {3, 3}, random_values(n, 9));
  const auto good = merge(f, base, {same, base}, average);
  for (const char* name : {"hash.table", "mask", "raw.weight"}) {
    CHECK(good.merged.at(name).bytes == base.at(name).bytes);
    CHECK_CONTAINS(good.report["copied_because"][name].get<std::string>(), "the same in every");
  }
  other.set("hash.table", dtype::i32, {4}, {1, 2, 3, 5});
  add_codes(other, "raw.weight", dtype::f8_e5m2, {2, 2}, codes(2, 4, dtype::f8_e5m2));
  const std::string message = refused(f, base, {same, other});
  CHECK_CONTAINS(message, "expert 'b'");
  CHECK_CONTAINS(message, "'hash.table', I32 [4]");
  CHECK_CONTAINS(message, "'raw.weight', F8_E5M2 [2, 2]");
  CHECK_CONTAINS(message, "--exclude");
  for (const auto& way :
       {arguments{"--exclude", "{hash,raw}*"}, arguments{"--rule", "{hash,raw}*=fixed"}}) {
    const auto taken = merge(f, base, {same, other}, average + way);
    CHECK(taken.merged.at("hash.table").bytes == base.at("hash.table").bytes);
    CHECK(taken.merged.at("raw.weight").bytes == base.at("raw.weight").bytes);
  }
  // Counters and position ids are told apart by their names.
  base.set("encoder.bn.num_batches_tracked", dtype::i64, {}, {1});
  base.set("model.embeddings.position_ids", dtype::i64, {1, 2}, {0, 1});
  same = base;
  same.set("layer.dense.weight", dtype::f32, {3, 3}, moved(base.values("layer.dense.weight"), n));
  same.set("encoder.bn.num_batches_tracked", dtype::i64, {}, {2});
  same.set("model.embeddings.position_ids", dtype::i64, {1, 2}, {2, 3});
  const auto counted = merge(f, base, {same}, average);
  CHECK(counted.run.err.empty());
  CHECK(counted.merged.at("encoder.bn.num_batches_tracked").bytes ==
        base.at("encoder.bn.num_batches_tracked").bytes);
}

// ---------------------------------------------------------------- what became of parameters

TEST_CASE("every method says what it did to every parameter, in words that are true for it") {
  files f;
  noise n(6);
  const std::string block = "gpt_neox.layers.0.";
  table base;
  base.set(block + "mlp.dense_h_to_4h.weight", dtype::f32, {8, 4}, random_values(n, 32));
  base.set(block + "mlp.dense_h_to_4h.bias", dtype::f32, {8}, random_values(n, 8));
  base.set(block + "input_layernorm.weight", dtype::f32, {4}, random_values(n, 4));
  base.set("gpt_neox.embed_in.weight", dtype::f32, {12, 4}, random_values(n, 48));
  std::vector<table> experts(2, base);
  for (auto& e : experts)
    for (auto& [name, t] : base.tensors) e.set(name, t.type, t.shape, moved(base.values(name), n));
  const auto rule_of = [&](const arguments& options, const std::string& name) {
    const auto done = merge(f, base, experts, options);
    CAPTURE(done.run.err);
    CHECK(done.run.err.empty());  // nothing here is unusual
    CHECK_CONTAINS(done.run.out, "4 parameters merged: ");
    for (const auto& p : done.report["parameters"])
      if (p["name"] == name) return p["merged_by"].get<std::string>();
    return std::string();
  };
  const std::string linear = block + "mlp.dense_h_to_4h.weight",
                    bias = block + "mlp.dense_h_to_4h.bias";
  CHECK(rule_of({"--method", "wudi"}, linear) == "the method's rule");
  CHECK(rule_of({"--method", "wudi"}, bias) == "the base's value");
  CHECK(rule_of({"--method", "tsv-m"}, bias) == "the mean of the task vectors");
  for (const char* method : {"ties", "task-arithmetic", "average", "pcb", "consensus"})
    for (const auto& name : {linear, bias, std::string("gpt_neox.embed_in.weight")})
      CHECK(rule_of({"--method", method}, name) == "the method's rule");

  // The features of one parameter, and of one that the method has no use for.
  arguments features;
  for (const char* task : {"a", "b"}) {
    table t;
    t.set(linear, dtype::f32, {3, 4}, random_values(n, 12));
    t.set(bias, dtype::f32, {3, 8}, random_values(n, 24));
    features = features + arguments{"--features", std::string(task) + "=" + f.write(t).string()};
  }
  const auto cat = merge(f, base, experts, features);
  CHECK_CONTAINS(cat.run.err, "features of 'a' are given and not used for 1 parameter: " + bias);
  CHECK_CONTAINS(cat.run.err, "have no features and were merged by the sum of the task vectors: " +
                                  block + "input_layernorm.weight");
  for (const auto& p : cat.report["parameters"]) {
    if (p["name"] == linear) CHECK(p["merged_by"] == "the method's rule, on trimmed task vectors");
    if (p["name"] == block + "input_layernorm.weight")
      CHECK(p["because"] == "there are no features of it");
  }
}

TEST_CASE("a merge that changes nothing is an error, and so is a rule for no tensor") {
  files f;
  noise n(8);
  table base;
  for (const char* name : {"a_thing", "other_thing"})
    base.set(name, dtype::f32, {4, 4}, random_values(n, 16));
  table expert = base;
  for (auto& [name, t] : base.tensors)
    expert.set(name, t.type, t.shape, moved(base.values(name), n));
  CHECK_CONTAINS(refused(f, base, {expert, base}, {"--method", "wudi"}),
                 "left every parameter as the base has it");
  merge(f, base, {expert, base}, {"--method", "wudi", "--rule", "*_thing=linear"});
  CHECK_CONTAINS(refused(f, base, {expert}, average + arguments{"--rule", "*_thin=linear"}),
                 "no tensor's name matches '*_thin'");
  // A method with a rule for every kind needs no warning.
  CHECK(merge(f, base, {expert}, {"--method", "ties"}).run.err.empty());
}

TEST_CASE("running statistics are the mean over the experts, whatever the method") {
  files f;
  noise n(10);
  const std::string bn = "backbone.stage1.bn2.";
  table base;
  base.set("backbone.stage1.conv.weight", dtype::f32, {4, 3, 3, 3}, random_values(n, 108));
  base.set(bn + "weight", dtype::f32, {4}, random_values(n, 4));
  base.set(bn + "running_mean", dtype::f32, {4}, random_values(n, 4));
  base.set(bn + "running_var", dtype::f32, {4}, {1, 1, 1, 1});
  base.set(bn + "num_batches_tracked", dtype::i64, {}, {100});
  std::vector<table> experts(5, base);
  std::vector<values_t> means, variances;
  for (auto& e : experts) {
    for (const char* name : {"backbone.stage1.conv.weight", "backbone.stage1.bn2.weight"})
      e.set(name, dtype::f32, base.at(name).shape, moved(base.values(name), n));
    means.push_back(random_values(n, 4));
    variances.push_back({0.1, 0.2, 0.05, 0.4});
    e.set(bn + "running_mean", dtype::f32, {4}, means.back());
    e.set(bn + "running_var", dtype::f32, {4}, variances.back());
    e.set(bn + "num_batches_tracked", dtype::i64, {}, {300});
  }
  for (const arguments& options :
       {arguments{"--method", "task-arithmetic", "--alpha", "1"}, arguments{"--method", "ties"},
        arguments{"--method", "tsv-m"}, arguments{"--method", "average"},
        arguments{"--method", "pcb"}, arguments{"--method", "iso-cts"},
        arguments{"--method", "task-arithmetic", "--before", "dare", "--weight", "b=3"}}) {
    const auto done = merge(f, base, experts, options);
    CHECK(largest_difference(done.merged.values(bn + "running_mean"), mean_of(means)) < 1e-6);
    CHECK(largest_difference(done.merged.values(bn + "running_var"), mean_of(variances)) < 1e-6);
    CHECK(done.merged.at(bn + "num_batches_tracked").bytes ==
          base.at(bn + "num_batches_tracked").bytes);
    CHECK_CONTAINS(done.run.err, "2 running statistics");
  }
}

TEST_CASE("tables of tokens are the mean of the experts where tables are merged as matrices") {
  files f;
  noise n(31);
  const std::string input = "model.embed_tokens.weight", head = "lm_head.weight",
                    positions = "model.embed_positions.weight",
                    types = "model.token_type_embeddings.weight",
                    linear = "model.layers.0.mlp.up_proj.weight";
  const std::map<std::string, io::shape_t> shapes = {
      {input, {12, 4}}, {head, {12, 4}}, {positions, {6, 4}}, {types, {1, 4}}, {linear, {8, 4}}};
  table base;
  for (const auto& [name, shape] : shapes)
    base.set(name, dtype::f32, shape, random_values(n, shape[0] * shape[1]));
  std::vector<table> experts(3, base);
  for (auto& e : experts)
    for (const auto& [name, shape] : shapes)
      e.set(name, dtype::f32, shape, moved(base.values(name), n));
  const auto values = [&](const std::string& name) {
    std::vector<values_t> all;
    for (const auto& e : experts) all.push_back(e.values(name));
    return all;
  };
  const auto mean_times = [&](const std::string& name, double alpha) {
    return task_arithmetic(base.values(name), values(name), alpha / 3);
  };
  const auto part_of = [](const json& report, const std::string& name) {
    for (const auto& p : report["parameters"])
      if (p["name"] == name) return p;
    return json();
  };
  for (const arguments& options :
       {arguments{"--method", "tsv-m", "--alpha", "1.5"},
        arguments{"--method", "iso-c", "--alpha", "1.5"},
        arguments{"--method", "iso-cts", "--alpha", "1.5"},
        arguments{"--method", "mean:of=tsv-m:alpha=1.5+ties:alpha=1.5"},
        arguments{"--method", "iso-c", "--set", "*:alpha=1.5"},
        arguments{"--method", "task-arithmetic", "--method-for", "*=tsv-m:alpha=1.5"}}) {
    const auto done = merge(f, base, experts, options);
    CHECK(done.run.err.empty());
    for (const auto& name : {input, head}) {
      CHECK(largest_difference(done.merged.values(name), mean_of(values(name))) < 1e-6);
      const json part = part_of(done.report, name);
      CHECK(part["merged_by"] == "the mean of the experts");
      CHECK(part["because"] == "token table: the mean, whatever alpha");
    }
    CHECK_CONTAINS(done.run.out,
                   "2 by the mean of the experts (2: token table: the mean, whatever alpha)");
    // A table of positions is a matrix; one row is a vector, alpha times the mean.
    CHECK(largest_difference(done.merged.values(positions), mean_times(positions, 1.5)) > 1e-3);
    if (options[1].starts_with("mean")) continue;
    CHECK(largest_difference(done.merged.values(types), mean_times(types, 1.5)) < 1e-6);
    CHECK(part_of(done.report, types)["merged_by"] == "the mean of the task vectors");
  }
  // Weights of tasks scale their vectors, and --rule takes a table for any other one.
  const arguments tsv_m = {"--method", "tsv-m", "--alpha", "1.5"};
  const auto weighted = merge(f, base, experts, tsv_m + arguments{"--weight", "b=0"});
  CHECK(largest_difference(
            weighted.merged.values(input),
            task_arithmetic(base.values(input),
                            {experts[0].values(input), experts[2].values(input)}, 1.0 / 3)) < 1e-6);
  const auto as_matrix =
      merge(f, base, experts, tsv_m + arguments{"--rule", "lm_head.weight=untrimmed"});
  CHECK(largest_difference(as_matrix.merged.values(head), mean_of(values(head))) > 1e-3);
  CHECK(part_of(as_matrix.report, head)["merged_by"] == "the method's rule");
  // Other methods treat them as all else.
  const auto sum = merge(f, base, experts, {"--method", "task-arithmetic", "--alpha", "0.4"});
  CHECK(largest_difference(sum.merged.values(input), mean_times(input, 1.2)) < 1e-6);
  const auto crumbs = merge(f, base, experts, {"--method", "breadcrumbs"});
  CHECK(part_of(crumbs.report, input)["merged_by"] == "the method's rule");
}

TEST_CASE("a table of tokens larger than a piece, under a method of matrices") {
  files f;
  noise n(32);
  const index_t rows = 3001, width = 1000;  // 12 MB
  const std::string tokens = "wte.weight", positions = "wpe.weight";
  table base, expert;
  for (const auto& [name, height] : {std::pair{tokens, rows}, {positions, index_t{5}}}) {
    base.set(name, dtype::f32, {height, width}, random_values(n, height * width));
    expert.set(name, dtype::f32, {height, width}, random_values(n, height * width));
  }
  const auto done = merge(f, base, {expert, base}, {"--method", "tsv-m", "--alpha", "1.5"});
  CHECK(largest_difference(done.merged.values(tokens),
                           mean_of({expert.values(tokens), base.values(tokens)})) < 1e-6);
  CHECK(done.report["parameters"].size() == 2);
}

TEST_CASE("the architectures of today merge at the first try, without a word of warning") {
  files f;
  noise n(30);
  const json all = json::parse(get(fs::path(CATMERGE_FIXTURES) / "architectures.json"));
  std::size_t networks = 0;
  for (const auto& [name, network] : all.items()) {
    if (name == "versions") continue;
    CAPTURE(name);
    ++networks;
    table base;
    std::map<std::string, std::string> what;  // as a reviewer calls it
    for (const auto& row : network["tensors"]) {
      const auto shape = row[2].get<io::shape_t>();
      const auto type = io::parse_dtype(row[1].get<std::string>()).value();
      const auto count = static_cast<index_t>(*io::element_count(shape));
      base.set(row[0], type, shape,
               io::scalar_of(type) ? random_values(n, count)
                                   : values_t(static_cast<std::size_t>(count), 1));
      what[row[0]] = row[3];
    }
    std::vector<table> experts(2, base);
    for (auto& e : experts)
      for (const auto& [tensor, t] : base.tensors)
        if (io::scalar_of(t.type) && !what[tensor].starts_with("fixed"))
          e.set(tensor, t.type, t.shape, moved(base.values(tensor), n));
    const json config = {{"model_type", network["model_type"]}};
    std::vector<fs::path> paths;
    for (const auto& e : experts) paths.push_back(f.folder(e, config));
    const fs::path base_path = f.folder(base, config), output = f.fresh("");
    const outcome done = run(command(base_path, paths, output) +
                             arguments{"--method", "task-arithmetic", "--alpha", "0.3"});
    CAPTURE(done.err);
    REQUIRE(done.status == 0);
    const table merged(output / "model.safetensors");
    CHECK(merged.tensors.size() == base.tensors.size());
    bool running = false;
    for (const auto& [tensor, t] : base.tensors) {
      CAPTURE(tensor);
      const std::string& kind = what[tensor];
      if (!io::scalar_of(t.type) || kind.starts_with("fixed")) {
        CHECK(merged.at(tensor).bytes == t.bytes);
        continue;
      }
      const std::vector<values_t> both = {experts[0].values(tensor), experts[1].values(tensor)};
      const bool is_running = kind.starts_with("running");
      running = running || is_running;
      const values_t expected =
          is_running ? mean_of(both) : task_arithmetic(base.values(tensor), both, 0.3);
      CHECK(largest_difference(merged.values(tensor), expected) < 1e-6);
    }
    // (That running statistics want to be measured anew is said of every network that has some.)
    CHECK(done.err.empty() == !running);
    if (running) CHECK(std::count(done.err.begin(), done.err.end(), '\n') == 1);
  }
  CHECK(networks >= 24);
}

// ---------------------------------------------------------------- layouts and stacks

TEST_CASE("weights stored d_in x d_out are trimmed as their transposes are") {
  files f;
  noise n(11);
  const index_t in = 10, out = 30;
  const std::string stored = "transformer.h.3.attn.c_attn.weight",
                    plain = "layer.3.attn.fused.weight";
  table base, base_t;
  const values_t w = random_values(n, in * out);
  base.set(stored, dtype::f32, {in, out}, w);
  base_t.set(plain, dtype::f32, {out, in}, transposed(w, in, out));
  std::vector<table> experts, experts_t;
  arguments features, features_t;
  for (int k = 0; k < 3; ++k) {
    table e, et, x, xt;
    const values_t v = moved(w, n);
    e.set(stored, dtype::f32, {in, out}, v);
    et.set(plain, dtype::f32, {out, in}, transposed(v, in, out));
    experts.push_back(e), experts_t.push_back(et);
    const values_t rows = random_values(n, 4 * in);
    x.set(stored, dtype::f32, {4, in}, rows);
    xt.set(plain, dtype::f32, {4, in}, rows);
    const std::string task(1, static_cast<char>('a' + k));
    features = features + arguments{"--features", task + "=" + f.write(x).string()};
    features_t = features_t + arguments{"--features", task + "=" + f.write(xt).string()};
  }
  for (const arguments& options :
       {arguments{"--method", "cat", "--lambda", "1"}, arguments{"--method", "lot"},
        arguments{"--method", "regmean"}}) {
    const auto one = merge(f, base, experts, options + features);
    CHECK(one.run.err.empty());
    // The same matrices in the usual layout: c_attn is three linears, which its transpose's rule
    // has to say, too. CAT's parts are three blocks of d_out.
    const auto whole = merge(f, base, experts,
                             options + features + arguments{"--rule", stored + "=linear,in-out"});
    const auto other =
        merge(f, base_t, experts_t, options + features_t + arguments{"--rule", plain + "=linear"});
    CHECK(largest_difference(transposed(whole.merged.values(stored), in, out),
                             other.merged.values(plain)) < 1e-5);
    CHECK(whole.report["parameters"][0]["trimmed"] == other.report["parameters"][0]["trimmed"]);
  }
  const std::string message =
      refused(f, base, experts,
              arguments{"--method", "cat"} + features + arguments{"--rule", stored + "=linear"});
  CHECK_CONTAINS(message, "expected rows of 30 entries");
}

TEST_CASE("a stack is a list of matrices: each is merged as if it stood alone") {
  files f;
  noise n(12);
  const index_t count = 3, rows = 12, columns = 16;
  const std::string stack = "model.layers.0.mlp.experts.down_proj";
  const auto name_of = [](index_t e) {
    return "model.layers.0.mlp.experts." + std::to_string(e) + ".down_proj.weight";
  };
  table base, apart;
  std::vector<table> experts(4), experts_apart(4);
  const auto split = [&](table& to, const values_t& v) {
    for (index_t e = 0; e < count; ++e)
      to.set(name_of(e), dtype::f32, {rows, columns},
             values_t(v.begin() + e * rows * columns, v.begin() + (e + 1) * rows * columns));
  };
  const values_t w = random_values(n, count * rows * columns);
  base.set(stack, dtype::f32, {count, rows, columns}, w);
  split(apart, w);
  for (std::size_t k = 0; k < experts.size(); ++k) {
    const values_t v = moved(w, n);
    experts[k].set(stack, dtype::f32, {count, rows, columns}, v);
    split(experts_apart[k], v);
  }
  for (const char* method : {"tsv-m", "iso-c", "iso-cts", "wudi", "task-arithmetic"}) {
    CAPTURE(method);
    const arguments options = {"--method", method};
    const auto one =
        merge(f, base, experts, options + arguments{"--rule", stack + "=linear,stacked"});
    const auto many =
        merge(f, apart, experts_apart, options + arguments{"--rule", "*.down_proj.weight=linear"});
    const values_t merged = one.merged.values(stack);
    for (index_t e = 0; e < count; ++e)
      CHECK(values_t(merged.begin() + e * rows * columns,
                     merged.begin() + (e + 1) * rows * columns) == many.merged.values(name_of(e)));
    CHECK(one.report["parameters"].size() == 3);
    CHECK(one.report["parameters"][2]["name"] == stack + "[2]");
  }
  // CAT, by features of each.
  arguments features, features_apart;
  for (std::size_t k = 0; k < experts.size(); ++k) {
    table x, xa;
    for (index_t e = 0; e < count; ++e) {
      const values_t v = random_values(n, 3 * columns);
      x.set(stack + "[" + std::to_string(e) + "]", dtype::f32, {3, columns}, v);
      xa.set(name_of(e), dtype::f32, {3, columns}, v);
    }
    const std::string task(1, static_cast<char>('a' + k));
    features = features + arguments{"--features", task + "=" + f.write(x).string()};
    features_apart = features_apart + arguments{"--features", task + "=" + f.write(xa).string()};
  }
  const auto one =
      merge(f, base, experts, features + arguments{"--rule", stack + "=linear,stacked"});
  const auto many = merge(f, apart, experts_apart,
                          features_apart + arguments{"--rule", "*.down_proj.weight=linear"});
  CHECK(one.run.err.empty());
  const values_t merged = one.merged.values(stack);
  for (index_t e = 0; e < count; ++e)
    CHECK(values_t(merged.begin() + e * rows * columns,
                   merged.begin() + (e + 1) * rows * columns) == many.merged.values(name_of(e)));
}

TEST_CASE("a stack whose layout nobody knows is no matrix, and config.json tells the layout") {
  files f;
  noise n(31);
  const std::string name = "model.layers.0.mlp.experts.down_proj";
  table base;
  base.set(name, dtype::f32, {3, 8, 12}, random_values(n, 288));
  std::vector<table> experts(2, base);
  for (auto& e : experts) e.set(name, dtype::f32, {3, 8, 12}, moved(base.values(name), n));
  const std::vector<values_t> both = {experts[0].values(name), experts[1].values(name)};
  for (const char* method : {"tsv-m", "iso-c"}) {
    const auto done = merge(f, base, experts, {"--method", method});
    CHECK_CONTAINS(done.run.err, "1 stacks of matrices have a layout that is not known");
    CHECK(largest_difference(done.merged.values(name),
                             task_arithmetic(base.values(name), both, 0.5)) < 1e-6);
    // Each of the two layouts, by config.json and by a rule.
    for (const auto& [type, rule] : {std::pair("qwen3_moe", "linear,stacked"),
                                     std::pair("gpt_oss", "linear,in-out,stacked")}) {
      const json config = {{"model_type", type}};
      std::vector<fs::path> paths;
      for (const auto& e : experts) paths.push_back(f.folder(e, config));
      const fs::path output = f.fresh("");
      const outcome known =
          run(command(f.folder(base, config), paths, output) + arguments{"--method", method});
      REQUIRE(known.status == 0);
      CHECK(known.err.empty());
      const auto told = merge(f, base, experts, {"--method", method, "--rule", name + "=" + rule});
      CHECK(table(output / "model.safetensors").at(name).bytes == told.merged.at(name).bytes);
    }
  }
}

TEST_CASE("tensors of three extents that no rule knows are no matrices") {
  files f;
  noise n(13);
  table base;
  base.set("strange", dtype::f32, {4, 6, 8}, random_values(n, 192));
  base.set("vit.pos_embed", dtype::f32, {1, 5, 8}, random_values(n, 40));
  base.set("vit.cls_token", dtype::f32, {1, 1, 8}, random_values(n, 8));
  std::vector<table> experts(2, base);
  std::map<std::string, std::vector<values_t>> all;
  for (auto& e : experts)
    for (auto& [name, t] : base.tensors) {
      e.set(name, t.type, t.shape, moved(base.values(name), n));
      all[name].push_back(e.values(name));
    }
  for (const char* method : {"tsv-m", "iso-c"}) {
    const auto done = merge(f, base, experts, {"--method", method});
    for (const char* name : {"strange", "vit.cls_token"})
      CHECK(largest_difference(done.merged.values(name),
                               task_arithmetic(base.values(name), all[name], 0.5)) < 1e-6);
    for (const auto& p : done.report["parameters"])
      CHECK((p["merged_by"] == "the mean of the task vectors") == (p["name"] != "vit.pos_embed"));
  }
}

// ---------------------------------------------------------------- ties

TEST_CASE("ties are declared: equal values under other names are no tie") {
  files f;
  noise n(14);
  const values_t v = random_values(n, 8);
  table base;
  base.set("left.weight", dtype::f32, {2, 4}, v);
  base.set("right.weight", dtype::f32, {2, 4}, v);
  table expert = base;
  for (auto& [name, t] : base.tensors) expert.set(name, t.type, t.shape, moved(v, n));
  CHECK_FALSE(merge(f, base, {expert}, average).report.contains("tied"));
  // Excluding one of them does not part what is not tied.
  merge(f, base, {base, expert}, average + arguments{"--exclude", "left.weight"});
}

TEST_CASE("a file of a tied network may hold either name") {
  files f;
  noise n(15);
  const std::string e = "transformer.wte.weight", h = "lm_head.weight",
                    other = "transformer.ln_f.bias";
  const values_t v = random_values(n, 24), w = moved(v, n);
  const auto make = [&](const values_t& values, bool table_name, bool head_name) {
    table t;
    if (table_name) t.set(e, dtype::f32, {6, 4}, values);
    if (head_name) t.set(h, dtype::f32, {6, 4}, values);
    t.set(other, dtype::f32, {4}, {1, 2, 3, 4});
    return t;
  };
  for (const auto& [be, bh] : {std::pair(true, true), {true, false}, {false, true}})
    for (const auto& [xe, xh] : {std::pair(true, true), {true, false}, {false, true}}) {
      const auto done = merge(f, make(v, be, bh), {make(w, xe, xh)}, average);
      CHECK(done.merged.has(e) == be);
      CHECK(done.merged.has(h) == bh);
      if (be) CHECK(largest_difference(done.merged.values(e), w) == 0);
      if (bh) CHECK(largest_difference(done.merged.values(h), w) == 0);
    }
  // config.json decides: not tied, although the values are equal in the base.
  table apart = make(v, true, true);
  apart.set(h, dtype::f32, {6, 4}, w);
  const json untied = {{"model_type", "gpt2"}, {"tie_word_embeddings", false}};
  const auto two = merge(f, f.folder(make(v, true, true), untied), {f.folder(apart, untied)},
                         arguments{"--method", "average", "--report", f.fresh(".json")});
  CHECK(largest_difference(two.merged.values(e), v) == 0);
  CHECK(largest_difference(two.merged.values(h), w) == 0);
  // A tie that the values of an expert deny is told.
  const json tied = {{"model_type", "gpt2"}, {"tie_word_embeddings", true}};
  const auto denied =
      merge(f, f.folder(make(v, true, true), tied), {f.folder(apart, tied)}, average);
  CHECK_CONTAINS(denied.run.err, "config.json ties");
  CHECK(largest_difference(denied.merged.values(h), w) == 0);
}

TEST_CASE("BLIP is untied by both keys of config.json alone, as in transformers") {
  files f;
  noise n(33);
  const std::string answers = "text_decoder.bert.embeddings.word_embeddings.weight",
                    head = "text_decoder.cls.predictions.decoder.weight";
  const values_t v = random_values(n, 24), w = moved(v, n);
  const auto make = [&](const values_t& of_head, const json& config) {
    table t;
    t.set(answers, dtype::f32, {6, 4}, v);
    t.set(head, dtype::f32, {6, 4}, of_head);
    return f.folder(t, config);
  };
  const auto is_told = [&](const json& top, const json& text) {
    json config = {{"model_type", "blip"}, {"text_config", json::object()}};
    if (!top.is_null()) config["tie_word_embeddings"] = top;
    if (!text.is_null()) config["text_config"]["tie_word_embeddings"] = text;
    // Both differ in the expert: against what config.json says, if that ties them.
    const auto done = merge(f, make(v, config), {make(w, config)}, average);
    return done.run.err.find("config.json ties") != std::string::npos;
  };
  CHECK_FALSE(is_told(false, false));
  CHECK(is_told(false, true));
  CHECK(is_told(true, false));
  CHECK(is_told(true, true));
  CHECK(is_told(false, nullptr));
  CHECK(is_told(nullptr, false));
  // Their biases, which transformers ties alike.
  const std::string bias = "text_decoder.cls.predictions.bias",
                    own = "text_decoder.cls.predictions.decoder.bias";
  const auto biases = [&](const values_t& of_output, const json& config) {
    table t;
    t.set(bias, dtype::f32, {24}, v);
    t.set(own, dtype::f32, {24}, of_output);
    return f.folder(t, config);
  };
  for (const bool ties : {true, false}) {
    const json config = {{"model_type", "blip"},
                         {"tie_word_embeddings", ties},
                         {"text_config", {{"tie_word_embeddings", ties}}}};
    const auto done = merge(f, biases(v, config), {biases(w, config)}, average);
    CHECK((done.run.err.find("config.json ties '" + own) != std::string::npos) == ties);
    CHECK(largest_difference(done.merged.values(own), w) == 0);
    CHECK(largest_difference(done.merged.values(bias), v) == 0);
  }
}

TEST_CASE("the table of BLIP's questions is tied to nothing, whatever names a file holds") {
  files f;
  noise n(31);
  // The questions and the answers of BLIP have a table each; the output's is that of the answers.
  const std::string questions = "text_encoder.embeddings.word_embeddings.weight",
                    answers = "text_decoder.bert.embeddings.word_embeddings.weight",
                    head = "text_decoder.cls.predictions.decoder.weight",
                    bias = "text_decoder.cls.predictions.bias",
                    second_bias = "text_decoder.cls.predictions.decoder.bias";
  const json tied = {{"model_type", "blip"}, {"tie_word_embeddings", true}};
  const values_t q = random_values(n, 24), a = random_values(n, 24), b = random_values(n, 6);
  const values_t q2 = moved(q, n), a2 = moved(a, n), b2 = moved(b, n);
  const auto make = [&](const values_t& of_questions, const values_t& of_answers,
                        const values_t& of_bias, bool table_name, bool head_name) {
    table t;
    t.set(questions, dtype::f32, {6, 4}, of_questions);
    if (table_name) t.set(answers, dtype::f32, {6, 4}, of_answers);
    if (head_name) t.set(head, dtype::f32, {6, 4}, of_answers);
    t.set(bias, dtype::f32, {6}, of_bias);
    if (head_name) t.set(second_bias, dtype::f32, {6}, of_bias);
    return f.folder(t, tied);
  };
  for (const auto& [be, bh] : {std::pair(true, true), {true, false}, {false, true}})
    for (const auto& [xe, xh] : {std::pair(true, true), {true, false}, {false, true}}) {
      const auto done = merge(f, make(q, a, b, be, bh), {make(q2, a2, b2, xe, xh)}, average);
      CHECK(done.run.err.empty());
      CHECK(done.merged.has(answers) == be);
      CHECK(done.merged.has(head) == bh);
      CHECK(largest_difference(done.merged.values(questions), q2) == 0);
      if (be) CHECK(largest_difference(done.merged.values(answers), a2) == 0);
      if (bh) CHECK(largest_difference(done.merged.values(head), a2) == 0);
      CHECK(largest_difference(done.merged.values(bias), b2) == 0);
      if (bh) CHECK(largest_difference(done.merged.values(second_bias), b2) == 0);
    }
}

// ---------------------------------------------------------------- experts of another base

TEST_CASE("configurations and vocabularies that contradict the base stop the merge") {
  files f;
  noise n(16);
  const std::string w = "model.layers.0.mlp.up_proj.weight";
  table base, expert;
  base.set(w, dtype::f32, {4, 4}, random_values(n, 16));
  expert.set(w, dtype::f32, {4, 4}, moved(base.values(w), n));
  const json good = {{"model_type", "qwen2"},
                     {"num_attention_heads", 4},
                     {"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
                     {"text_config", {{"hidden_act", "silu"}, {"dropout", 0.1}}},
                     {"architectures", {"A"}},
                     {"vocab_size", 3}};
  const auto with = [&](const json::json_pointer& key, const json& value) {
    json other = good;
    other[key] = value;
    return other;
  };
  const auto at = [](const std::string& text) { return json::json_pointer(text); };
  for (const auto& [key, value, in_words] : std::vector<std::tuple<std::string, json, std::string>>{
           {"/model_type", "llama", "'model_type' is \"qwen2\" in the base and \"llama\""},
           {"/num_attention_heads", 8, "'num_attention_heads' is 4 in the base and 8"},
           {"/rope_scaling/factor", 4.0, "'factor' is 2.0 in the base and 4.0"},
           {"/text_config/hidden_act", "gelu", "'text_config.hidden_act' is \"silu\""}}) {
    const auto b = f.folder(base, good), e = f.folder(expert, with(at(key), value));
    const std::string message = refused(f, b, {e});
    CHECK_CONTAINS(message, in_words);
    CHECK_CONTAINS(message, "expert 'a'");
    CHECK_CONTAINS(message, "--contradictions");
    const auto passed = merge(f, b, {e}, average + arguments{"--contradictions", "warn"});
    CHECK_CONTAINS(passed.run.err, in_words);
  }
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, json>>{{"/architectures", {"B"}},
                                                 {"/vocab_size", 5},
                                                 {"/text_config/dropout", 0.0},
                                                 {"/new_key", 1}})
    CHECK(merge(f, f.folder(base, good), {f.folder(expert, with(at(key), value))}, average)
              .run.err.empty());

  const auto tokens = [&](const std::string& name, const json& content, const table& t) {
    const fs::path folder = f.folder(t, good);
    put(folder / name, content.dump());
    return folder;
  };
  for (const auto& [name, one, other] : std::vector<std::tuple<std::string, json, json>>{
           {"vocab.json", {{"x", 0}, {"y", 1}}, {{"x", 1}, {"y", 0}}},
           {"tokenizer.json",
            {{"model", {{"vocab", json::array({json::array({"x", 0.5}), json::array({"y", 1})})}}}},
            {{"model",
              {{"vocab", json::array({json::array({"y", 0.5}), json::array({"x", 1})})}}}}}}) {
    const std::string message = refused(f, tokens(name, one, base), {tokens(name, other, expert)});
    CHECK_CONTAINS(message, name + ": token 0 is \"x\" in the base and \"y\" in the expert");
    CHECK_CONTAINS(message, "2 tokens differ");
  }
  // BERT's list of tokens, one a line.
  const auto listed = [&](const std::string& text, const table& t) {
    const fs::path folder = f.folder(t, good);
    put(folder / "vocab.txt", text);
    return folder;
  };
  CHECK_CONTAINS(refused(f, listed("[PAD]\nx\ny\n", base), {listed("[PAD]\ny\nx\n", expert)}),
                 "vocab.txt: token 1 is \"x\" in the base and \"y\" in the expert");
  // More tokens are no contradiction.
  merge(f, listed("[PAD]\nx", base), {listed("[PAD]\nx\ny\n", expert)}, average);
  merge(f, tokens("vocab.json", {{"x", 0}}, base),
        {tokens("vocab.json", {{"x", 0}, {"y", 1}}, expert)}, average);
}

TEST_CASE("rotary positions are compared in one form, and windows where they are in use") {
  files f;
  noise n(18);
  const std::string w = "model.layers.0.mlp.up_proj.weight";
  table base, expert;
  base.set(w, dtype::f32, {4, 4}, random_values(n, 16));
  expert.set(w, dtype::f32, {4, 4}, moved(base.values(w), n));
  struct pair {
    std::string base, expert, message;  ///< no message: no contradiction
  };
  const std::string llama3 = R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})";
  const std::vector<pair> all = {
      // Version 4 and version 5 of transformers.
      {R"({"rope_theta": 100, "rope_scaling": null})",
       R"({"rope_parameters": {"rope_theta": 100.0, "rope_type": "default"}})", ""},
      {R"({"rope_theta": 100})",
       R"({"rope_parameters": {"rope_theta": 777.0, "rope_type": "default"}})",
       "'rope_theta' is 100 in the base and 777.0"},
      {R"({"rope_theta": 100, "rope_scaling": {"type": "linear", "factor": 2.0}})",
       R"({"rope_parameters": {"rope_theta": 100, "rope_type": "linear", "factor": 2}})", ""},
      {R"({"rope_theta": 100, "rope_scaling": {"type": "linear", "factor": 2.0}})",
       R"({"rope_parameters": {"rope_theta": 100, "rope_type": "linear", "factor": 4.0}})",
       "'factor' is 2.0 in the base and 4.0"},
      {R"({"rope_theta": 100, "partial_rotary_factor": 0.5})",
       R"({"rope_parameters": {"rope_theta": 100, "partial_rotary_factor": 0.75}})",
       "'partial_rotary_factor' is 0.5"},
      // No scaling, said by null or by nothing, is none.
      {R"({"rope_theta": 5e5, "rope_scaling": null})",
       R"({"rope_theta": 5e5, "rope_scaling": )" + llama3 + "}",
       "'rope_type' is \"default\" in the base and \"llama3\""},
      {R"({"rope_theta": 5e5, "rope_scaling": )" + llama3 + "}", R"({"rope_theta": 5e5})",
       "'rope_type' is \"llama3\""},
      {R"({"rope_scaling": )" + llama3 + "}", R"({"rope_parameters": )" + llama3 + "}", ""},
      // Gemma 3: two kinds of layers.
      {R"({"rope_theta": 1e6, "rope_local_base_freq": 1e4,
           "rope_scaling": {"rope_type": "linear", "factor": 8}})",
       R"({"rope_parameters": {"full_attention":
             {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
           "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}})",
       ""},
      {R"({"rope_theta": 1e6, "rope_local_base_freq": 1e4})",
       R"({"rope_parameters": {"full_attention": {"rope_theta": 1e6},
                               "sliding_attention": {"rope_theta": 2e4}}})",
       "'rope_local_base_freq' is 10000.0 in the base and 20000.0"},
      {R"({"text_config": {"rope_scaling": {"rope_type": "linear", "factor": 8}}})",
       R"({"text_config": {"rope_parameters": {"full_attention": {"rope_type": "default"}}}})",
       "'text_config.rope_type'"},
      // Phi-3 has the known length beside the settings.
      {R"({"original_max_position_embeddings": 4096,
           "rope_scaling": {"type": "longrope", "short_factor": [1, 2]}})",
       R"({"original_max_position_embeddings": 4096, "rope_parameters": {"rope_type": "longrope",
           "short_factor": [1.0, 2.0], "original_max_position_embeddings": 4096}})",
       ""},
      {R"({"rope_scaling": {"type": "longrope", "short_factor": [1, 2]}})",
       R"({"rope_scaling": {"type": "longrope", "short_factor": [1, 3]}})", "'short_factor'"},
      {R"({"rope_scaling": {"type": "su", "short_factor": [1, 2]}})",
       R"({"rope_scaling": {"type": "longrope", "short_factor": [1, 2]}})", ""},
      // Windows.
      {R"({"use_sliding_window": false, "sliding_window": 131072, "max_window_layers": 28})",
       R"({"use_sliding_window": false, "sliding_window": 32768, "max_window_layers": 21})", ""},
      {R"({"use_sliding_window": false, "sliding_window": 131072})",
       R"({"use_sliding_window": false, "sliding_window": null})", ""},
      {R"({"model_type": "qwen2", "sliding_window": 131072})",
       R"({"model_type": "qwen2", "sliding_window": 32768})", ""},
      {R"({"use_sliding_window": false})", R"({"use_sliding_window": true})",
       "'use_sliding_window' is false in the base and true"},
      {R"({"use_sliding_window": true, "max_window_layers": 28})",
       R"({"use_sliding_window": true, "max_window_layers": 21})", "'max_window_layers'"},
      {R"({"model_type": "mistral", "sliding_window": 4096})",
       R"({"model_type": "mistral", "sliding_window": null})",
       "'sliding_window' is 4096 in the base and null"},
      {R"({"layer_types": ["full_attention"]})", R"({"layer_types": ["sliding_attention"]})",
       "'layer_types'"},
      // No cap is another network; null elsewhere is a default.
      {R"({"attn_logit_softcapping": 50.0})", R"({"attn_logit_softcapping": null})",
       "'attn_logit_softcapping' is 50.0 in the base and null"},
      {R"({"head_dim": 64})", R"({"head_dim": null})", ""},
      // How BLIP's texts begin and end; language models' tokens may change.
      {R"({"model_type": "blip", "text_config": {"bos_token_id": 30522, "sep_token_id": 102}})",
       R"({"model_type": "blip", "text_config": {"bos_token_id": 101, "sep_token_id": 102}})",
       "'text_config.bos_token_id' is 30522 in the base and 101"},
      {R"({"model_type": "blip", "text_config": {"bos_token_id": 30522, "sep_token_id": 102}})",
       R"({"model_type": "blip", "text_config": {"sep_token_id": 102}})", ""},
      {R"({"model_type": "llama", "pad_token_id": 0})",
       R"({"model_type": "llama", "pad_token_id": 2})", ""}};
  for (const pair& each : all) {
    CAPTURE(each.base);
    CAPTURE(each.expert);
    const auto b = f.folder(base, json::parse(each.base)),
               e = f.folder(expert, json::parse(each.expert));
    if (each.message.empty())
      CHECK(merge(f, b, {e}, average).run.err.empty());
    else
      CHECK_CONTAINS(refused(f, b, {e}), each.message);
    // Whichever of the two is the base.
    if (each.message.empty())
      CHECK(merge(f, e, {f.folder(expert, json::parse(each.base))}, average)
                .run.err.find("config.json") == std::string::npos);
  }
}

TEST_CASE("the size of every task vector is told, and one that is unusual is warned of") {
  files f;
  noise n(17);
  const std::string w = "model.layers.0.mlp.up_proj.weight";
  table base;
  base.set(w, dtype::f32, {16, 16}, random_values(n, 256));
  base.set("model.norm.weight", dtype::f32, {16}, random_values(n, 16));
  const auto make = [&](double size) {
    table t;
    for (const auto& [name, b] : base.tensors)
      t.set(name, b.type, b.shape, moved(base.values(name), n, size));
    return t;
  };
  const auto square = [](const values_t& v) {
    double sum = 0;
    for (const double x : v) sum += x * x;
    return sum;
  };
  const std::vector<table> usual = {make(0.02), make(0.04), make(0.03)};
  const auto quiet = merge(f, base, usual, {"--method", "ties"});
  CHECK(quiet.run.err.empty());
  const json sizes = quiet.report["totals"]["task_vectors"];
  for (std::size_t k = 0; k < usual.size(); ++k) {
    double own = 0, all = 0;
    for (const auto& [name, b] : base.tensors) {
      values_t t = usual[k].values(name), zero = base.values(name);
      all += square(zero);
      for (std::size_t i = 0; i < t.size(); ++i) t[i] -= zero[i];
      own += square(t);
    }
    CHECK(sizes["norm"][k].get<double>() == doctest::Approx(std::sqrt(own)).epsilon(1e-5));
    CHECK(sizes["relative"][k].get<double>() ==
          doctest::Approx(std::sqrt(own / all)).epsilon(1e-5));
  }
  table alien = base;
  for (const auto& [name, b] : base.tensors)
    alien.set(name, b.type, b.shape, random_values(n, static_cast<index_t>(b.bytes.size() / 4)));
  CHECK_CONTAINS(merge(f, base, {usual[0], alien}, average).run.err,
                 "the size of the base: was it fine-tuned from this base?");
  CHECK_CONTAINS(merge(f, base, {usual[0], make(0.4), usual[1]}, average).run.err,
                 "the task vector of 'b' is");
  CHECK_CONTAINS(merge(f, base, {usual[0], base}, average).run.err,
                 "the task vector of 'b' is zero");
}

// ---------------------------------------------------------------- names

TEST_CASE("--exclude and --include end every comparison of what they leave alone") {
  files f;
  noise n(18);
  table base;
  base.set("encoder.dense.weight", dtype::f32, {4, 4}, random_values(n, 16));
  base.set("score.weight", dtype::f32, {2, 4}, random_values(n, 8));
  base.set("cache.codes", dtype::i64, {2}, {1, 2});
  table expert;
  expert.set("encoder.dense.weight", dtype::f32, {4, 4}, random_values(n, 16));
  expert.set("score.weight", dtype::f64, {7, 4}, random_values(n, 28));
  expert.set("score.bias", dtype::f32, {7}, random_values(n, 7));
  expert.set("cache.codes", dtype::f16, {3}, {1, 2, 3});
  CHECK_CONTAINS(refused(f, base, {expert}), "'score.weight': expected [2, 4], found [7, 4]");
  for (const auto& options : {arguments{"--exclude", "score.*", "--exclude", "cache.*"},
                              arguments{"--include", "encoder.*"}}) {
    const auto done = merge(f, base, {expert}, average + options);
    CHECK(done.merged.at("score.weight").bytes == base.at("score.weight").bytes);
    CHECK(done.merged.at("cache.codes").bytes == base.at("cache.codes").bytes);
    CHECK_FALSE(done.merged.has("score.bias"));
    CHECK(done.merged.at("encoder.dense.weight").bytes == expert.at("encoder.dense.weight").bytes);
  }
  // Integers on one side only are the base's.
  table lacks, has = base;
  lacks.set("encoder.dense.weight", dtype::f32, {4, 4}, random_values(n, 16));
  lacks.set("score.weight", dtype::f32, {2, 4}, random_values(n, 8));
  has.set("more.codes", dtype::i32, {2}, {1, 2});
  const auto done = merge(f, base, {lacks, has}, average);
  CHECK(done.merged.at("cache.codes").bytes == base.at("cache.codes").bytes);
  CHECK(done.report["not_in_base"] == json{"more.codes of 'b'"});
}

TEST_CASE("names that differ by a rule: the message has the option, and the option works") {
  files f;
  noise n(19);
  const std::vector<std::string> names = {"layers.0.attention.weight", "layers.0.LayerNorm.weight",
                                          "layers.0.LayerNorm.bias",   "layers.1.attention.weight",
                                          "layers.1.LayerNorm.weight", "layers.1.LayerNorm.bias"};
  const auto old_spelling = [](std::string name) {
    for (const auto& [from, to] : {std::pair<std::string, std::string>{"Norm.weight", "Norm.gamma"},
                                   {"Norm.bias", "Norm.beta"}})
      if (name.ends_with(from)) name = name.substr(0, name.size() - from.size()) + to;
    return name;
  };
  struct change {
    std::string base, expert;
    bool old_in_base = false, old_in_expert = false;
  };
  for (const auto& c :
       {change{"", "model."}, change{"backbone.", ""}, change{"model.", "model.language_model."},
        change{"", "", true, false}, change{"", "", false, true},
        change{"", "roberta.", false, true}, change{"net.", "other.net.", true, false}}) {
    CAPTURE(c.base);
    CAPTURE(c.expert);
    table base, expert;
    for (const auto& name : names) {
      const values_t v = random_values(n, 4);
      base.set(c.base + (c.old_in_base ? old_spelling(name) : name), dtype::f32, {4}, v);
      expert.set(c.expert + (c.old_in_expert ? old_spelling(name) : name), dtype::f32, {4},
                 moved(v, n));
    }
    const std::string message = refused(f, base, {expert});
    CHECK_CONTAINS(message, "missing names are there under names that differ by a rule:");
    // Both sides' names are shown.
    CHECK_CONTAINS(message, "' is missing");
    CHECK_CONTAINS(message, "' is not in the base");
    // The options to paste.
    arguments renames;
    std::istringstream words(message.substr(message.find("by a rule:") + 10));
    for (std::string option, value; words >> option >> value && option == "--rename";)
      renames = renames + arguments{option, value.substr(1, value.size() - 2)};
    REQUIRE(renames.size() >= 2);
    const auto done = merge(f, base, {expert}, average + renames);
    CHECK(done.run.err.empty());
    for (const auto& name : names)
      CHECK(done.merged.values(c.base + (c.old_in_base ? old_spelling(name) : name)) ==
            expert.values(c.expert + (c.old_in_expert ? old_spelling(name) : name)));
  }
}

TEST_CASE("--rename: for one expert or all, what it must not do, and experts with no part") {
  files f;
  table base, wrapped, swapped;
  base.set("w", dtype::f32, {2}, {1, 2});
  base.set("v", dtype::f32, {2}, {3, 4});
  wrapped.set("module.w", dtype::f32, {2}, {5, 6});
  wrapped.set("module.v", dtype::f32, {2}, {7, 8});
  CHECK_CONTAINS(refused(f, base, {wrapped}), "--rename 'a:module.*=*'");
  CHECK(merge(f, base, {wrapped, base}, average + arguments{"--rename", "a:module.*=*"})
            .merged.values("w") == values_t{3, 4});
  CHECK(merge(f, base, {wrapped, base}, average + arguments{"--rename", "module.*=*"})
            .merged.values("w") == values_t{3, 4});  // b's names are right and stay
  for (const auto& [rule, why] : std::vector<std::pair<std::string, std::string>>{
           {"c:module.*=*", "there is no --expert 'c'"},
           {"b:module.*=*", "it changes no name"},
           {"module.*=w", "expected one * on each side"},
           {"module.w", "expected EXPERT:FROM=TO"},
           {"=x", "neither side may be empty"},
           {"module.*=module.w*", "it changes no name"}}) {
    CAPTURE(rule);
    if (rule == "module.*=module.w*") continue;
    CHECK_CONTAINS(refused(f, base, {wrapped, base}, average + arguments{"--rename", rule}), why);
  }
  CHECK_CONTAINS(refused(f, base, {wrapped},
                         average + arguments{"--rename", "module.v=w", "--rename", "module.w=w"}),
                 "would get the name of another tensor");
  CHECK_CONTAINS(
      refused(f, base, {wrapped}, average + arguments{"--missing", "base", "--drop", "module.*"}),
      "takes part with no tensor");
  swapped.set("unrelated", dtype::f32, {2}, {1, 2});
  const std::string message = refused(f, base, {swapped});
  CHECK_CONTAINS(message, "'unrelated' is not in the base");
  CHECK_CONTAINS(message, "'v' is missing");
  CHECK_FALSE(contains(message, "differ by a rule"));
}

// ---------------------------------------------------------------- the rest

TEST_CASE("--weight scales one expert's task vector in every method") {
  files f;
  noise n(20);
  const std::string w = "model.layers.0.mlp.up_proj.weight";
  table base;
  base.set(w, dtype::f64, {12, 12}, random_values(n, 144));
  std::vector<table> experts(3), scaled(3);
  for (int k = 0; k < 3; ++k) {
    const values_t v = moved(base.values(w), n);
    values_t s = v;
    const double weight = k == 0 ? 0.5 : k == 2 ? -2 : 1;  // exact: powers of two
    for (std::size_t i = 0; i < s.size(); ++i)
      s[i] = base.values(w)[i] + weight * (v[i] - base.values(w)[i]);
    experts[static_cast<std::size_t>(k)].set(w, dtype::f64, {12, 12}, v);
    scaled[static_cast<std::size_t>(k)].set(w, dtype::f64, {12, 12}, s);
  }
  arguments features;
  for (const char* task : {"a", "b", "c"}) {
    table x;
    x.set(w, dtype::f64, {4, 12}, random_values(n, 48));
    features = features + arguments{"--features", std::string(task) + "=" + f.write(x).string()};
  }
  for (const arguments& options :
       {arguments{"--method", "average"}, arguments{"--method", "task-arithmetic"},
        arguments{"--method", "ties"}, arguments{"--method", "tsv-m"},
        arguments{"--method", "iso-c"}, arguments{"--method", "wudi"}, arguments{"--method", "pcb"},
        arguments{"--method", "consensus"},
        arguments{"--method", "cat", "--basis-tolerance", "1e-12"} + features,
        arguments{"--method", "lot"} + features, arguments{"--method", "regmean"} + features}) {
    CAPTURE(options[1]);
    const auto one =
        merge(f, base, experts, options + arguments{"--weight", "a=0.5", "--weight", "c=-2"});
    const auto other = merge(f, base, scaled, options);
    CHECK(largest_difference(one.merged.values(w), other.merged.values(w)) < 1e-9);
    CHECK(largest_difference(one.merged.values(w),
                             merge(f, base, experts, options).merged.values(w)) > 1e-4);
  }
  const outcome wrong = run(command(f.write(base), {f.write(experts[0])}, f.fresh(".safetensors")) +
                            average + arguments{"--weight", "z=1"});
  CHECK(wrong.status == 2);
  CHECK_CONTAINS(wrong.err, "there is no --expert 'z'");
}

TEST_CASE("the average of one expert is that expert, bit for bit") {
  files f;
  noise n(21);
  for (const dtype type : {dtype::f32, dtype::bf16, dtype::f16, dtype::f64}) {
    table base, expert;
    base.set("l.weight", type, {40, 5}, random_values(n, 200));
    expert.set("l.weight", type, {40, 5}, random_values(n, 200, 1e-4));
    CHECK(merge(f, base, {expert}, average).merged.at("l.weight").bytes ==
          expert.at("l.weight").bytes);
  }
}

TEST_CASE("values that are not finite: the remedy is named, and works") {
  files f;
  const double inf = std::numeric_limits<double>::infinity();
  table base;
  base.set("causal", dtype::f32, {2, 2}, {0, -inf, 0, 0});
  base.set("w", dtype::f32, {2}, {1, 2});
  const std::string message = refused(f, base, {base});
  CHECK_CONTAINS(message, "causal: base holds a value that is not finite");
  CHECK_CONTAINS(message, "--exclude");
  for (const auto& way : {arguments{"--exclude", "causal"}, arguments{"--rule", "causal=fixed"}})
    CHECK(merge(f, base, {base}, average + way).merged.at("causal").bytes ==
          base.at("causal").bytes);
}
