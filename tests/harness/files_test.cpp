// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

/// `catmerge merge` on every format and type of file.

#include <catmerge/io/npy.hpp>

#include "support/harness/program.hpp"

using namespace harness_test;

namespace {

/// A Hugging Face folder with a config.json of its own, odd spaces included.
fs::path hugging_face_folder(const table& t, const std::string& config) {
  const fs::path folder = clips().fresh("folder");
  fs::create_directory(folder);
  t.write(folder / "model.safetensors");
  put(folder / "config.json", config);
  return folder;
}

fs::path npy_folder(const table& t) {
  const fs::path folder = clips().fresh("arrays");
  std::vector<io::tensor_info> infos;
  for (const auto& [name, e] : t.tensors) infos.push_back({name, e.type, e.shape});
  io::npy_folder_writer writer(folder, infos);
  for (const auto& [name, e] : t.tensors) writer.write(name, io_test::bytes_of(e.bytes));
  writer.commit();
  return folder;
}

table read_npy_folder(const fs::path& folder) {
  table t;
  for (const auto& file : fs::directory_iterator(folder)) {
    if (file.path().extension() != ".npy") continue;
    const std::string name = file.path().stem().string();
    const io::npy_file array(file.path(), name);
    t.tensors[name] = {array.entry().type, array.entry().shape,
                       io_test::text_of(array.entry().bytes)};
  }
  return t;
}

void check_same_tensors(const table& a, const table& b) {
  REQUIRE(a.tensors.size() == b.tensors.size());
  for (const auto& [name, t] : a.tensors) {
    const std::string& shown = name;
    CAPTURE(shown);
    CHECK(t.type == b.at(name).type);
    CHECK(t.shape == b.at(name).shape);
    CHECK(t.bytes == b.at(name).bytes);
  }
}

arguments experts() {
  arguments list;
  for (const auto& task : task_names)
    list = list + arguments{"--expert", task + "=" + clips().model(task).string()};
  return list;
}

}  // namespace

TEST_CASE("a Hugging Face folder gives its configuration and its format") {
  const std::string config = "\n" + get(clips().config()) + "  \n\n";
  const fs::path base = hugging_face_folder(clips().base(), config);
  const table right = merged(clips().with_samples());
  arguments samples;
  for (const auto& task : task_names)
    samples = samples + arguments{"--samples", task + "=" + clips().samples(task).string()};

  const fs::path folder = clips().fresh("merged");
  run_well(arguments{"merge", "--base", base, "--output", folder} + experts() + samples);
  CHECK(contents(folder).size() == 2);
  CHECK(get(folder / "config.json") == config);
  check_same_tensors(table(folder / "model.safetensors"), right);
  CHECK(table(folder / "model.safetensors").metadata == io::metadata_t{{"format", "pt"}});

  // The folder is a base, and its slash does no harm.
  run_well({"inspect", folder.string() + "/"});
  const fs::path slash = clips().fresh("slash");
  run_well(arguments{"merge", "--base", base.string() + "/", "--output", slash.string() + "/"} +
           experts() + samples);
  CHECK(contents(slash) == contents(folder));

  const fs::path file = clips().fresh();
  run_well(arguments{"merge", "--base", base, "--output", file} + experts() + samples);
  check_same_tensors(table(file), right);

  // A name given on the command line comes before the one beside the weights.
  const fs::path other = put(clips().fresh("config.json"), "{}");
  const fs::path path = clips().fresh();
  const outcome r = run(arguments{"merge", "--base", base, "--config", other, "--output", path} +
                        experts() + samples);
  CHECK(r.status == 1);
  CHECK_CONTAINS(r.err, other.string());
}

TEST_CASE("experts may be folders, too") {
  arguments command = {"merge", "--base", clips().base_path()};
  const fs::path b = hugging_face_folder(clips().expert("b"), "{}"),
                 c = npy_folder(clips().expert("c"));
  const fs::path path = clips().fresh();
  run_well(arguments{"merge", "--base", clips().base_path(), "--expert",
                     "a=" + clips().model("a").string(), "--expert", "b=" + b.string(), "--expert",
                     "c=" + c.string(), "--output", path} +
           clips().with_features());
  check_same_tensors(table(path), merged(clips().with_features()));
}

TEST_CASE("a sharded Hugging Face folder") {
  const fs::path folder = clips().fresh("shards");
  fs::create_directory(folder);
  table parts[2];
  json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", json::object()}};
  for (const auto& [name, t] : clips().base().tensors) {
    const int part = contains(name, "layers.1") ? 1 : 0;
    parts[part].tensors[name] = t;
    index["weight_map"][name] = part == 0 ? "one.safetensors" : "two.safetensors";
  }
  for (auto& part : parts) part.metadata = {{"format", "pt"}};
  parts[0].write(folder / "one.safetensors");
  parts[1].write(folder / "two.safetensors");
  put(folder / "model.safetensors.index.json", index.dump());
  put(folder / "config.json", get(clips().config()));
  const fs::path output = clips().fresh("merged");
  run_well(arguments{"merge", "--base", folder, "--output", output} + experts() +
           clips().with_features());
  check_same_tensors(table(output / "model.safetensors"), merged(clips().with_features()));
  CHECK(get(output / "config.json") == get(clips().config()));
  CHECK(table(output / "model.safetensors").metadata == io::metadata_t{{"format", "pt"}});
}

TEST_CASE("folders of .npy files, in and out") {
  const fs::path base = npy_folder(clips().base());
  const fs::path folder = clips().fresh("merged");
  run_well(arguments{"merge", "--base", base, "--output", folder} + experts() +
           clips().with_features());
  check_same_tensors(read_npy_folder(folder), merged(clips().with_features()));
  CHECK(contents(folder).size() == clips().base().tensors.size());

  // With a configuration among them it can run, and hands the configuration on.
  put(base / "config.json", get(clips().config()));
  arguments samples;
  for (const auto& task : task_names)
    samples = samples + arguments{"--samples", task + "=" + clips().samples(task).string()};
  const fs::path second = clips().fresh("merged");
  run_well(arguments{"merge", "--base", base, "--output", second} + experts() + samples);
  check_same_tensors(read_npy_folder(second), merged(clips().with_features()));
  CHECK(get(second / "config.json") == get(clips().config()));

  // Features as plain arrays.
  table rows;
  noise n(7);
  for (const std::string& name : {q0, gamma0}) {
    values_t v(11 * 24);
    for (double& x : v) x = n();
    rows.set(name, dtype::f32, {11, 24}, v);
  }
  const fs::path as_file = clips().fresh("features.safetensors"), as_folder = npy_folder(rows);
  rows.write(as_file);
  const auto by = [&](const fs::path& features) {
    const fs::path path = clips().fresh();
    const outcome r = run(clips().merge(path) +
                          arguments{"--features", "b=" + features.string(), "--lambda", "0.5"} +
                          clips().with_features({"a", "c"}));
    CAPTURE(r.err);
    REQUIRE(r.status == 0);
    CHECK_CONTAINS(r.err, "no features");
    return get(path);
  };
  CHECK(by(as_file) == by(as_folder));

  // An array has no place for BF16.
  const fs::path third = clips().fresh("merged");
  const outcome r =
      run(arguments{"merge", "--base", base, "--output", third, "--out-dtype", "bf16"} + experts() +
          clips().with_features());
  CHECK(r.status == 1);
  CHECK_CONTAINS(r.err, "BF16");
  CHECK_FALSE(fs::exists(third));
}

TEST_CASE("metadata is kept, whatever it says") {
  table base = clips().base();
  base.metadata = {{"format", "pt"}, {"licence", "M\u00efT \"quoted\"\n"}, {"empty", ""}};
  const fs::path file = clips().fresh("base.safetensors"), output = clips().fresh();
  base.write(file);
  run_well(arguments{"merge", "--base", file, "--output", output, "--method", "average"} +
           experts());
  CHECK(table(output).metadata == base.metadata);
  base.metadata.clear();
  base.write(file);
  run_well(
      arguments{"merge", "--base", file, "--output", output, "--overwrite", "--method", "average"} +
      experts());
  CHECK(table(output).metadata.empty());
}

TEST_CASE("types of the base: the result is rounded to them") {
  for (const dtype type : {dtype::f16, dtype::bf16, dtype::f64}) {
    CAPTURE(std::string(io::name_of(type)));
    // Values that every type holds: the merges of all of them see the same numbers.
    table base = clips().base(), whole = clips().base();
    base.retype_all(type);
    for (const auto& [name, t] : base.tensors)
      if (is_float(t)) whole.set(name, dtype::f32, t.shape, base.values(name));
    const fs::path narrow = clips().fresh("base.safetensors"),
                   wide = clips().fresh("base.safetensors"), a = clips().fresh(),
                   b = clips().fresh(), c = clips().fresh();
    base.write(narrow);
    whole.write(wide);
    const arguments options = experts() + clips().with_features() + arguments{"--lambda", "0.5"};
    run_well(arguments{"merge", "--base", narrow, "--output", a} + options);
    run_well(arguments{"merge", "--base", wide, "--output", b} + options);
    run_well(arguments{"merge", "--base", narrow, "--output", c, "--out-dtype", "f32"} + options);
    const table rounded_result(a), result(b), widened(c);
    for (const auto& [name, t] : base.tensors) {
      const std::string& shown = name;
      CAPTURE(shown);
      CHECK(rounded_result.at(name).type == t.type);
      CHECK(rounded_result.at(name).shape == t.shape);
      if (!is_float(t)) {
        CHECK(rounded_result.at(name).bytes == t.bytes);
        continue;
      }
      CHECK(widened.at(name).type == dtype::f32);
      if (type == dtype::f64) {  // computed in double: more exact than the float result
        CHECK(largest_difference(rounded_result.values(name), result.values(name)) < 2e-6);
        continue;
      }
      values_t expected = result.values(name);
      CHECK(widened.values(name) == expected);
      for (double& x : expected) x = rounded(x, type);
      CHECK(rounded_result.values(name) == expected);
    }
  }
}

TEST_CASE("a base in F64 is merged in double") {
  table base = clips().base();
  noise n(3);
  base.retype_all(dtype::f64);
  values_t v = base.values(q0);
  for (double& x : v) x += n(1e-9);  // lost in float
  base.set(q0, dtype::f64, {24, 24}, v);
  const fs::path file = clips().fresh("base.safetensors"), output = clips().fresh();
  base.write(file);
  run_well(arguments{"merge", "--base", file, "--output", output, "--method", "task-arithmetic"} +
           experts());
  values_t expected = v;
  for (const auto& task : task_names) {
    const values_t e = clips().expert(task).values(q0);
    for (std::size_t j = 0; j < v.size(); ++j) expected[j] += 0.3 * (e[j] - v[j]);
  }
  CHECK(largest_difference(table(output).values(q0), expected) < 1e-15);
}

TEST_CASE("experts of several types, and tensors of several types in one file") {
  table b = clips().expert("b"), c = clips().expert("c"), a = clips().expert("a");
  b.retype_all(dtype::bf16);
  c.retype_all(dtype::f16);
  a.retype(q0, dtype::f64);
  a.retype(gamma0, dtype::f16);
  std::map<std::string, fs::path> files;
  std::map<std::string, table> used = {{"a", a}, {"b", b}, {"c", c}};
  arguments command = {"merge", "--base", clips().base_path()};
  for (const auto& [task, t] : used) {
    files[task] = clips().fresh("expert.safetensors");
    t.write(files[task]);
    command = command + arguments{"--expert", task + "=" + files[task].string()};
  }
  const fs::path output = clips().fresh();
  run_well(command + arguments{"--method", "task-arithmetic", "--output", output});
  const table out(output);
  for (const auto& [name, t] : clips().base().tensors) {
    const std::string& shown = name;
    CAPTURE(shown);
    CHECK(out.at(name).type == t.type);
    if (!is_float(t)) {
      CHECK(out.at(name).bytes == t.bytes);
      continue;
    }
    const values_t base = clips().base().values(name);
    values_t expected = base;
    for (const auto& [task, expert] : used) {
      const values_t e = expert.values(name);
      for (std::size_t j = 0; j < e.size(); ++j) expected[j] += 0.3 * (e[j] - base[j]);
    }
    CHECK(largest_difference(out.values(name), expected) < 2e-6);
  }
  // CAT and the forward pass read them as well: their values in F32 give the same bytes.
  arguments same = {"merge", "--base", clips().base_path()};
  for (auto& [task, t] : used) {
    t.retype_all(dtype::f32);
    const fs::path path = clips().fresh("expert.safetensors");
    t.write(path);
    same = same + arguments{"--expert", task + "=" + path.string()};
  }
  const fs::path one = clips().fresh(), two = clips().fresh();
  run_well(command + clips().with_samples() + arguments{"--output", one});
  run_well(same + clips().with_samples() + arguments{"--output", two});
  const table first(one), second(two);
  for (const auto& [name, t] : first.tensors) {
    const std::string& shown = name;
    CAPTURE(shown);
    if (is_float(t))
      CHECK(largest_difference(
                t.bytes == second.at(name).bytes ? values_t{} : first.values(name),
                t.bytes == second.at(name).bytes ? values_t{} : second.values(name)) < 1e-6);
  }
}

TEST_CASE("tensors of odd shapes: scalars, none at all, three and five extents") {
  const auto write = [](double shift, const fs::path& path) {
    table t;
    t.set("logit_scale", dtype::f32, {}, {4.5 + shift});
    t.set("nothing", dtype::f32, {0, 7}, {});
    t.set("empty", dtype::f16, {0}, {});
    t.set("video", dtype::f32, {2, 1, 3, 1, 2}, values_t(12, shift));
    t.set("num_batches_tracked", dtype::i64, {}, {77 + 10 * shift});
    t.set("none", dtype::i64, {0}, {});
    return t.write(path);
  };
  const fs::path base = write(0, clips().fresh("base.safetensors")),
                 a = write(1, clips().fresh("a.safetensors")),
                 b = write(0.5, clips().fresh("b.safetensors")), output = clips().fresh(),
                 report = clips().fresh("r.json");
  const outcome r = run({"merge", "--base", base, "--expert", "a=" + a.string(), "--expert",
                         "b=" + b.string(), "--method", "task-arithmetic", "--alpha", "0.5",
                         "--output", output, "--report", report});
  CAPTURE(r.err);
  REQUIRE(r.status == 0);
  const table out(output);
  CHECK(out.values("logit_scale") == values_t{5.25});
  CHECK(out.at("logit_scale").shape.empty());
  CHECK(out.at("nothing").shape == io::shape_t{0, 7});
  CHECK(out.values("video") == values_t(12, 0.75));
  CHECK(out.at("num_batches_tracked").bytes == table(base).at("num_batches_tracked").bytes);
  CHECK(out.at("none").shape == io::shape_t{0});
  CHECK(json::parse(get(report)).at("copied").size() == 2);
}

TEST_CASE("features files: aliases, factors, halves") {
  const arguments few = {"--lambda", "0.5"};
  const table right = merged(few + clips().with_features());
  const std::string k0 = layer0 + "self_attn.k_proj.weight",
                    v0 = layer0 + "self_attn.v_proj.weight";
  // The features that the program wrote with aliases, spelt out.
  table t(clips().features("c"));
  for (const std::string& name : {k0, v0}) {
    REQUIRE(t.metadata.erase("alias:" + name) == 1);
    t.tensors[name] = t.at(q0);
    t.metadata["rows:" + name] = t.metadata.at("rows:" + q0);
  }
  const auto by = [&](const table& features) {
    const fs::path path = clips().fresh("features.safetensors");
    features.write(path);
    return merged(few + clips().with_features({"a", "b"}) +
                  arguments{"--features", "c=" + path.string()});
  };
  check_same_tensors(by(t), right);
  SUBCASE("rows as a factor with its count") {
    t.tensors[q0 + "::factor"] = t.at(q0);
    t.tensors.erase(q0);
    const table out = by(t);
    CHECK(largest_difference(out.values(q0), right.values(q0)) < 2e-6);
  }
  SUBCASE("rows as a Gram matrix in double") {
    const values_t x = t.values(q0);
    values_t gram(24 * 24, 0);
    for (std::size_t r = 0; r < x.size() / 24; ++r)
      for (std::size_t i = 0; i < 24; ++i)
        for (std::size_t j = 0; j < 24; ++j) gram[i * 24 + j] += x[r * 24 + i] * x[r * 24 + j];
    t.set(q0 + "::gram", dtype::f64, {24, 24}, gram);
    t.tensors.erase(q0);
    CHECK(largest_difference(by(t).values(q0), right.values(q0)) < 2e-6);
  }
  SUBCASE("rows in half precision and in double") {
    table wide = t;
    wide.retype(q0, dtype::f64);
    CHECK(largest_difference(by(wide).values(q0), right.values(q0)) < 2e-6);
    t.retype(q0, dtype::f16);
    table same = t;
    same.retype(q0, dtype::f32);
    CHECK(largest_difference(by(t).values(q0), by(same).values(q0)) < 2e-6);
  }
  SUBCASE("a scale by its normalised rows") {
    noise n(5);
    values_t rows(9 * 24), moment(24, 0);
    for (double& x : rows) x = static_cast<double>(static_cast<float>(n(2)));
    for (std::size_t i = 0; i < rows.size(); ++i) moment[i % 24] += rows[i] * rows[i] / 9;
    table one = t, two = t;
    one.tensors.erase(gamma0 + "::second_moment");
    one.metadata.erase("rows:" + gamma0);
    one.set(gamma0, dtype::f32, {9, 24}, rows);
    two.set(gamma0 + "::second_moment", dtype::f64, {24}, moment);
    two.metadata["rows:" + gamma0] = "9";
    CHECK(largest_difference(by(one).values(gamma0), by(two).values(gamma0)) < 2e-6);
    CHECK(by(one).values(q0) == right.values(q0));
  }
}
