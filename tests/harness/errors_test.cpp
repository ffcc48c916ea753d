// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

/// Errors of the program: their messages, and the files that are left.

#include <catmerge/io/npy.hpp>
#include <limits>

#include "support/harness/program.hpp"

using namespace harness_test;

namespace {

const std::string q1 = layer1 + "self_attn.q_proj.weight";
const std::string fc2 = layer0 + "mlp.fc2.weight";

/// The program ends with status 1, one message that has all these parts, an empty standard output,
/// and every file as it was before, none more.
std::string check_error(const arguments& command, const std::vector<std::string>& parts,
                        const surroundings& how = {}) {
  const auto in = contents(clips().in()), out = contents(clips().out());
  const outcome r = run(command, how);
  CAPTURE(r.err);
  CHECK(r.status == 1);
  CHECK(r.out.empty());
  CHECK(r.err.starts_with("catmerge: "));
  CHECK(r.err.ends_with("\n"));
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(contains(r.err, part));
  }
  CHECK(contents(clips().in()) == in);
  CHECK(contents(clips().out()) == out);
  return r.err;
}

/// merge with another base, expert or features instead of task b's.
struct parts {
  fs::path base = clips().base_path(), expert = clips().model("b"),
           features = clips().features("b");
};

arguments command(const parts& p, const fs::path& output = clips().fresh()) {
  return arguments{"merge",
                   "--base",
                   p.base,
                   "--expert",
                   "a=" + clips().model("a").string(),
                   "--expert",
                   "b=" + p.expert.string(),
                   "--output",
                   output,
                   "--features",
                   "a=" + clips().features("a").string(),
                   "--features",
                   "b=" + p.features.string()};
}

fs::path write(const table& t, const std::string& name = "changed.safetensors") {
  return t.write(clips().fresh(name));
}

const double infinity = std::numeric_limits<double>::infinity();
const double not_a_number = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_CASE("files that are cut off or lie about themselves") {
  clips().features("a"), clips().features("b");
  const std::string good = get(clips().model("b"));
  const auto bad = [](const std::string& bytes) {
    return put(clips().fresh("bad.safetensors"), bytes);
  };
  const auto check = [&](const std::string& bytes, const std::vector<std::string>& words) {
    const fs::path path = bad(bytes);
    std::vector<std::string> all = words;
    all.push_back(path.string());
    check_error(command({.expert = path}), all);
    check_error(command({.base = path}), all);
  };
  // The last in the file: the booleans.
  check(good.substr(0, good.size() - 2), {"'flags'"});
  check(good.substr(0, good.size() / 2), {"tensor '"});
  check(good.substr(0, 5), {"is not a safetensors file"});
  check("", {});
  check(io_test::little_endian(1ULL << 40, 8) + good.substr(8), {"header"});
  check(io_test::little_endian(good.size(), 8) + good.substr(8), {"header"});
  check(io_test::safetensors_bytes(
            "{\"w\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}", "1234"),
        {"'w'", "F31"});
  check(io_test::safetensors_bytes("not json", ""), {});
  check(good + "more", {});
  const std::string features = get(clips().features("b"));
  const fs::path cut = bad(features.substr(0, features.size() - 1));
  check_error(command({.features = cut}), {cut.string(), "tensor '"});
  const std::string samples = get(clips().samples("b"));
  const fs::path pictures = bad(samples.substr(0, samples.size() - 1));
  check_error(clips().merge(clips().fresh(), {"b"}) +
                  arguments{"--config", clips().config(), "--samples", "b=" + pictures.string()},
              {pictures.string(), "'pixel_values'"});
}

TEST_CASE("inputs that are not there") {
  clips().features("a"), clips().features("b");
  const fs::path nowhere = clips().in() / "nowhere.safetensors";
  const std::vector<std::string> words = {nowhere.string(), "No such file"};
  check_error(command({.base = nowhere}), words);
  check_error(command({.expert = nowhere}), words);
  check_error(command({.features = nowhere}), words);
  check_error(clips().merge(clips().fresh(), {"b"}) +
                  arguments{"--config", clips().config(), "--samples", "b=" + nowhere.string()},
              words);
  check_error(clips().merge(clips().fresh(), {"b"}) +
                  arguments{"--config", nowhere, "--samples", "b=" + clips().samples("b").string()},
              words);
  check_error({"inspect", nowhere}, words);
  const fs::path empty = clips().fresh("empty");
  fs::create_directory(empty);
  check_error(command({.base = empty}), {empty.string(), "no checkpoint in this folder"});
}

TEST_CASE("an expert that does not fit the base: what differs, ten of it, and how much") {
  clips().features("a"), clips().features("b");
  SUBCASE("one shape") {
    table t = clips().expert("b");
    t.set(q0, dtype::f32, {48, 12}, t.values(q0));
    const fs::path path = write(t);
    check_error(command({.expert = path}),
                {path.string(), clips().base_path().string(), "expert 'b'",
                 "1 difference:", "'" + q0 + "': expected [24, 24], found [48, 12]"});
  }
  SUBCASE("a type") {
    table t = clips().expert("b");
    t.set(gamma0, dtype::i64, {24}, t.values(gamma0));
    check_error(command({.expert = write(t)}), {"expected F32 [24], found I64 [24]", gamma0});
  }
  SUBCASE("names") {
    table t = clips().expert("b");
    t.tensors.erase(q0);
    t.set("extra", dtype::f32, {1}, {0});
    check_error(command({.expert = write(t)}),
                {"2 differences:", "'" + q0 + "' is missing", "'extra' is not in the base"});
  }
  SUBCASE("many") {
    table t = clips().expert("b");
    std::erase_if(t.tensors, [](const auto& e) { return contains(e.first, "layers.1"); });
    const std::string message =
        check_error(command({.expert = write(t)}), {"16 differences:", "..."});
    std::size_t listed = 0;
    for (std::size_t at = 0; (at = message.find("is missing", at)) != std::string::npos; ++at)
      ++listed;
    CHECK(listed == 10);
  }
  SUBCASE("nothing in common") {
    table t;
    t.set("w", dtype::f32, {2}, {1, 2});
    check_error(command({.expert = write(t)}), {"41 differences:"});
  }
}

TEST_CASE("values that are not finite name the tensor and the file's part in it") {
  clips().features("a"), clips().features("b");
  for (const double value : {not_a_number, infinity, -infinity}) {
    CAPTURE(value);
    for (const std::string& name :
         {q1, gamma0, layer0 + "mlp.fc1.bias", std::string("visual_projection.weight")}) {
      CAPTURE(name);
      table base = clips().base(), expert = clips().expert("b");
      base.poke(name, 3, value);
      expert.poke(name, 3, value);
      const parts wrong_base = {.base = write(base)}, wrong_expert = {.expert = write(expert)};
      check_error(command(wrong_base), {name, "base", "not finite"});
      check_error(command(wrong_expert), {name, "expert 'b'", "not finite"});
      for (const std::string method : {"average", "task-arithmetic"}) {
        const arguments end = {"--method", method, "--output", clips().fresh()};
        check_error(arguments{"merge", "--base", wrong_base.base, "--expert",
                              "a=" + clips().model("a").string()} +
                        end,
                    {name, "base", "not finite"});
        check_error(arguments{"merge", "--base", clips().base_path(), "--expert",
                              "b=" + wrong_expert.expert.string()} +
                        end,
                    {name, "expert 'b'", "not finite"});
      }
    }
    // Also in a network that runs.
    table expert = clips().expert("b");
    expert.poke(q1, 5, value);
    const fs::path path = write(expert);
    check_error(arguments{"merge", "--base", clips().base_path(), "--expert", "b=" + path.string(),
                          "--output", clips().fresh()} +
                    clips().with_samples({"b"}),
                {path.string(), q1, "not finite"});
    check_error({"features", "--model", path, "--samples", clips().samples("b"), "--config",
                 clips().config(), "--output", clips().fresh()},
                {path.string(), q1, "not finite"});
    // Features of each kind: rows, Gram matrix, second moment.
    for (const auto& [task, name] : std::vector<std::pair<std::string, std::string>>{
             {"b", q0 + "::gram"}, {"c", q0}, {"c", fc2}, {"b", gamma0 + "::second_moment"}}) {
      const std::string& shown = name;
      CAPTURE(shown);
      table t(clips().features(task));
      t.poke(name, 7, value);
      check_error(command({.expert = clips().model(task), .features = write(t)}),
                  {name, "features of 'b'", "not finite"});
    }
    table pictures(clips().samples("b"));
    pictures.poke("pixel_values", 9, value);
    const fs::path p = write(pictures);
    check_error(arguments{"merge", "--base", clips().base_path(), "--expert",
                          "b=" + clips().model("b").string(), "--output", clips().fresh(),
                          "--config", clips().config(), "--samples", "b=" + p.string()},
                {p.string(), "'pixel_values'", "not finite"});
  }
}

TEST_CASE("features that do not fit") {
  clips().features("a"), clips().features("b");
  const auto check = [](const table& t, std::vector<std::string> words) {
    const fs::path path = write(t, "features.safetensors");
    words.push_back(path.string());
    check_error(command({.features = path}), words);
  };
  table t(clips().features("b"));
  SUBCASE("a name of no parameter") {
    t.set("vision_model.encoder.layers.7.mlp.fc1.weight", dtype::f32, {2, 24}, values_t(48, 1));
    check(t, {"vision_model.encoder.layers.7.mlp.fc1.weight", "no parameter of the base"});
  }
  SUBCASE("an alias of no parameter") {
    t.metadata["alias:typo.weight"] = q0;
    check(t, {"typo.weight", "no parameter of the base"});
  }
  SUBCASE("an alias of nothing") {
    t.metadata["alias:" + layer0 + "self_attn.k_proj.weight"] = "gone";
    check(t, {"k_proj", "'gone'"});
  }
  SUBCASE("the wrong width") {
    t.tensors.erase(q0 + "::gram");
    t.metadata.erase("rows:" + q0);
    t.set(q0, dtype::f32, {4, 25}, values_t(100, 1));
    check(t, {"'" + q0 + "'", "rows of 24 entries", "[4, 25]"});
  }
  SUBCASE("a Gram matrix of the wrong width") {
    t.set(q0 + "::gram", dtype::f64, {25, 25}, values_t(625, 1));
    check(t, {"'" + q0 + "::gram'", "rows of 24 entries", "[25, 25]"});
  }
  SUBCASE("a Gram matrix that is not square") {
    t.set(q0 + "::gram", dtype::f64, {12, 24}, values_t(288, 1));
    check(t, {q0, "a square", "[12, 24]"});
  }
  SUBCASE("a second moment of the wrong width") {
    t.set(gamma0 + "::second_moment", dtype::f64, {23}, values_t(23, 1));
    check(t, {"'" + gamma0 + "::second_moment'", "rows of 24 entries", "[23]"});
  }
  SUBCASE("a second moment for a linear") {
    t.tensors.erase(q0 + "::gram");
    t.set(q0 + "::second_moment", dtype::f64, {24}, values_t(24, 1));
    check(t, {"'" + q0 + "::second_moment'", "a factor or a Gram matrix"});
  }
  SUBCASE("an unknown form") {
    t.set(q0 + "::mean", dtype::f64, {24}, values_t(24, 1));
    check(t, {q0, "::gram"});
  }
  SUBCASE("two forms") {
    t.set(q0, dtype::f32, {50, 24}, values_t(50 * 24, 1));
    check(t, {q0, "more than one form"});
  }
  SUBCASE("no row count") {
    t.metadata.erase("rows:" + q0);
    check(t, {q0, "row count"});
  }
  SUBCASE("a row count that is none") {
    t.metadata["rows:" + q0] = "-3";
    check(t, {q0, "'-3'"});
  }
  SUBCASE("no rows") {
    t.tensors.erase(q0 + "::gram");
    t.metadata.erase("rows:" + q0);
    t.set(q0, dtype::f32, {0, 24}, {});
    check(t, {q0, "no rows"});
  }
  SUBCASE("integers") {
    t.set(q0 + "::gram", dtype::i64, {24, 24}, values_t(576, 1));
    check(t, {q0, "I64"});
  }
}

TEST_CASE("outputs that cannot be written") {
  clips().features("a"), clips().features("b");
  const fs::path file = put(clips().fresh("file"), "text");
  check_error(command({}, file / "merged.safetensors"), {file.string(), "Not a directory"});
  // Missing folders are made, but not in a file.
  const fs::path nowhere = file / "nowhere" / "merged.safetensors";
  const std::vector<std::string> no_folder = {"cannot create its folder " +
                                              (file / "nowhere").string() + ": Not a directory"};
  check_error(command({}, nowhere), no_folder);
  const fs::path folder = clips().fresh("folder.safetensors");
  fs::create_directory(folder);
  check_error(command({}, folder), {folder.string(), "folder"});
  check_error(command({}, ""), {"folder"});
  check_error(command({}) + arguments{"--report", file / "nowhere" / "report.json"}, no_folder);
  const fs::path report_folder = clips().fresh("folder.html");
  fs::create_directory(report_folder);
  check_error(command({}) + arguments{"--report", report_folder},
              {report_folder.string(), "folder"});
  check_error({"features", "--model", clips().model("b"), "--samples", clips().samples("b"),
               "--config", clips().config(), "--output", nowhere},
              no_folder);
  if (::geteuid() != 0) {
    const fs::path locked = clips().fresh("locked");
    fs::create_directory(locked);
    fs::permissions(locked, fs::perms::owner_read | fs::perms::owner_exec);
    check_error(command({}, locked / "merged.safetensors"), {locked.string(), "Permission denied"});
  }
  // A base that is a folder makes a folder, and never over an existing one.
  const fs::path base = clips().fresh("base");
  fs::create_directory(base);
  clips().base().write(base / "model.safetensors");
  put(base / "config.json", get(clips().config()));
  const fs::path taken = clips().fresh("taken");
  fs::create_directory(taken);
  check_error(command({.base = base}, taken), {taken.string(), "exists already"});
  put(taken / "precious", "text");
  check_error(command({.base = base}, taken), {taken.string(), "exists already"});
  const fs::path array_folder = clips().fresh("arrays");
  std::vector<io::tensor_info> infos;
  for (const auto& [name, e] : clips().base().tensors) infos.push_back({name, e.type, e.shape});
  io::npy_folder_writer writer(array_folder, infos);
  for (const auto& [name, e] : clips().base().tensors)
    writer.write(name, io_test::bytes_of(e.bytes));
  writer.commit();
  check_error(command({.base = array_folder}, taken), {taken.string(), "exists already"});
  check_error(command({.base = array_folder}, file / "nowhere" / "x"), no_folder);
}

TEST_CASE("missing folders around outputs are made, and none is left by what fails") {
  clips().features("a"), clips().features("b");
  const fs::path made = clips().fresh("made");
  run_well(command({}, made / "a" / "b" / "merged.safetensors") +
           arguments{"--report", made / "reports" / "r.json"});
  CHECK(fs::is_regular_file(made / "a" / "b" / "merged.safetensors"));
  CHECK(fs::is_regular_file(made / "reports" / "r.json"));
  run_well({"features", "--model", clips().model("b"), "--samples", clips().samples("b"),
            "--config", clips().config(), "--output", made / "features" / "b.safetensors"});
  CHECK(fs::is_regular_file(made / "features" / "b.safetensors"));
  const fs::path left = clips().fresh("left");
  const fs::path bad = put(clips().fresh("empty.safetensors"), "");
  check_error(command({.expert = bad}, left / "a" / "merged.safetensors") +
                  arguments{"--report", left / "b" / "r.json"},
              {bad.string(), "is empty"});
  CHECK_FALSE(fs::exists(left));
}

TEST_CASE("outputs that are inputs") {
  clips().features("a"), clips().features("b");
  const std::vector<std::string> words = {"one of the inputs"};
  check_error(command({}, clips().base_path()), words);
  check_error(command({}, clips().model("b")), words);
  check_error(command({}, clips().features("a")), words);
  check_error(command({}, clips().in() / "." / "expert_a.safetensors"), words);
  const fs::path link = clips().fresh("link.safetensors");
  fs::create_symlink(clips().model("a"), link);
  check_error(command({}, link), words);
  const arguments by_samples = arguments{"merge", "--base", clips().base_path(), "--expert",
                                         "a=" + clips().model("a").string()} +
                               clips().with_samples({"a"});
  check_error(by_samples + arguments{"--output", clips().samples("a")}, words);
  check_error(by_samples + arguments{"--output", clips().config()}, words);
  for (const fs::path& input : {clips().base_path(), clips().model("a"), clips().features("b")})
    check_error(command({}) + arguments{"--report", input}, words);
  const fs::path output = clips().fresh();
  check_error(command({}, output) + arguments{"--report", output}, {output.string(), "same name"});

  const fs::path base = clips().fresh("base");
  fs::create_directory(base);
  clips().base().write(base / "model.safetensors");
  put(base / "config.json", get(clips().config()));
  for (const std::string name : {"model.safetensors", "config.json", "new.safetensors", "new"})
    check_error(command({.base = base}, base / name), words);
  check_error(command({.base = base}) + arguments{"--report", base / "config.json"}, words);
  check_error(command({.base = base}, base), words);

  const arguments features = {"features",           "--model",  clips().model("b"), "--samples",
                              clips().samples("b"), "--config", clips().config()};
  for (const fs::path& input : {clips().model("b"), clips().samples("b"), clips().config()})
    check_error(features + arguments{"--output", input}, words);
  check_error({"features", "--model", base, "--samples", clips().samples("b"), "--output",
               base / "model.safetensors"},
              words);
}

TEST_CASE("a disk that fills up") {
  clips().features("a"), clips().features("b");
  for (const rlim_t limit : {rlim_t{1000}, rlim_t{8000}, rlim_t{30000}}) {
    CAPTURE(limit);
    surroundings full;
    full.file_size_limit = limit;
    const fs::path output = clips().fresh();
    const std::vector<std::string> words = {output.string(), "cannot write", "File too large"};
    const std::string message = check_error(command({}, output), words, full);
    if (limit > 8000) CHECK(contains(message, "tensor '"));
    // An existing output stays.
    put(output, "the old one");
    check_error(command({}, output) + arguments{"--overwrite"}, words, full);
    CHECK(get(output) == "the old one");
  }
  // One byte too many, whether tensors are written at once or behind the merge.
  const fs::path whole = clips().fresh();
  run_well(command({}, whole));
  for (const std::string threads : {"1", "3"}) {
    CAPTURE(threads);
    surroundings almost;
    almost.file_size_limit = fs::file_size(whole) - 1;
    const fs::path cut = clips().fresh();
    check_error(command({}, cut) + arguments{"--threads", threads},
                {cut.string(), "tensor '", "cannot write", "File too large"}, almost);
    CHECK(!fs::exists(cut));
  }
  surroundings full;
  full.file_size_limit = 5000;
  const fs::path output = clips().fresh();
  check_error({"features", "--model", clips().model("b"), "--samples", clips().samples("b"),
               "--config", clips().config(), "--output", output},
              {output.string(), "cannot write", "File too large"}, full);
  // A report that does not fit takes the merged network with it: neither is there.
  const fs::path report = clips().fresh("report.json"), half = clips().fresh();
  const arguments reported = clips().merge(half) + clips().with_features() +
                             arguments{"--out-dtype", "f16", "--report", report};
  run_well(reported);
  full.file_size_limit = fs::file_size(report) / 2;
  REQUIRE(fs::file_size(half) < full.file_size_limit);
  fs::remove(report);
  fs::remove(half);
  check_error(reported, {report.string(), "File too large"}, full);
  // A folder that is an output goes as a whole.
  const fs::path base = clips().fresh("base");
  fs::create_directory(base);
  clips().base().write(base / "model.safetensors");
  put(base / "config.json", get(clips().config()));
  full.file_size_limit = 30000;
  const fs::path folder = clips().fresh("merged");
  check_error(command({.base = base}, folder), {folder.string(), "tensor '", "File too large"},
              full);
}

TEST_CASE("what the network needs") {
  const auto by_samples = [](const arguments& more) {
    return arguments{"merge",
                     "--base",
                     clips().base_path(),
                     "--expert",
                     "b=" + clips().model("b").string(),
                     "--output",
                     clips().fresh()} +
           more;
  };
  const std::string b = "b=" + clips().samples("b").string();
  SUBCASE("a configuration") {
    check_error(by_samples({"--samples", b}),
                {clips().base_path().string(), "config.json", "--config"});
    check_error({"features", "--model", clips().model("b"), "--samples", clips().samples("b"),
                 "--output", clips().fresh()},
                {clips().model("b").string(), "config.json", "--config"});
    check_error({"evaluate", "--model", clips().model("b"), "--data", clips().samples("b"),
                 "--head", clips().samples("b")},
                {clips().model("b").string(), "config.json", "--config"});
    const fs::path base = clips().fresh("base");
    fs::create_directory(base);
    clips().base().write(base / "model.safetensors");
    check_error({"features", "--model", base, "--samples", clips().samples("b"), "--output",
                 clips().fresh()},
                {base.string(), "config.json", "--config"});
  }
  SUBCASE("a configuration that fits") {
    json config = json::parse(get(clips().config()));
    config["hidden_size"] = 28;
    fs::path path = put(clips().fresh("config.json"), config.dump());
    check_error(by_samples({"--config", path, "--samples", b}), {"expected shape [28", "found"});
    config["hidden_act"] = "relu";
    path = put(clips().fresh("config.json"), config.dump());
    check_error(by_samples({"--config", path, "--samples", b}),
                {path.string(), "hidden_act", "'relu'"});
    path = put(clips().fresh("config.json"), "{");
    check_error(by_samples({"--config", path, "--samples", b}), {path.string()});
  }
  SUBCASE("parameters") {
    table base = clips().base(), expert = clips().expert("b");
    base.tensors.erase(q1), expert.tensors.erase(q1);
    const fs::path base_path = write(base), expert_path = write(expert);
    check_error(
        arguments{"merge", "--base", base_path, "--expert", "b=" + expert_path.string(), "--output",
                  clips().fresh(), "--config", clips().config(), "--samples", b},
        {q1, "expected shape [24, 24], found no such tensor"});
  }
  SUBCASE("samples") {
    const auto check = [&](const table& t, const std::vector<std::string>& words) {
      const fs::path path = write(t, "samples.safetensors");
      std::vector<std::string> all = words;
      all.push_back(path.string());
      check_error(by_samples({"--config", clips().config(), "--samples", "b=" + path.string()}),
                  all);
      check_error({"features", "--model", clips().model("b"), "--samples", path, "--config",
                   clips().config(), "--output", clips().fresh()},
                  all);
    };
    table t(clips().samples("b"));
    const values_t pixels = t.values("pixel_values");
    t.set("pixel_values", dtype::f32, {5, 12, 12, 3}, pixels);
    check(t, {"'pixel_values'", "expected shape [n, 3, 12, 12]", "found F32 [5, 12, 12, 3]"});
    t.set("pixel_values", dtype::f32, {15, 144}, values_t(15 * 144, 0));
    check(t, {"'pixel_values'", "[n, 3, 12, 12]"});
    t.set("pixel_values", dtype::f32, {0, 3, 12, 12}, {});
    check(t, {"'pixel_values'", "no images"});
    t.set("pixel_values", dtype::u8, {5, 3, 12, 12}, values_t(pixels.size(), 3));
    check(t, {"'mean'"});
    t.set("pixel_values", dtype::i64, {5, 3, 12, 12}, values_t(pixels.size(), 3));
    check(t, {"'pixel_values'", "I64"});
    t.tensors.clear();
    t.set("images", dtype::f32, {5, 3, 12, 12}, pixels);
    check(t, {"'pixel_values'"});
  }
  SUBCASE("as many samples as asked for") {
    check_error(by_samples({"--config", clips().config(), "--samples", b, "--sample-count", "6"}),
                {clips().samples("b").string(), "expected at least 6 samples, found 5"});
    check_error({"features", "--model", clips().model("b"), "--samples", clips().samples("b"),
                 "--config", clips().config(), "--sample-count", "6", "--output", clips().fresh()},
                {clips().samples("b").string(), "expected at least 6 samples, found 5"});
  }
}

TEST_CASE("results that a type cannot hold") {
  clips().features("a"), clips().features("b");
  table base = clips().base(), expert = clips().expert("b");
  for (const std::string& name : {q0, std::string("visual_projection.weight")}) {
    CAPTURE(name);
    table t = base;
    t.poke(name, 0, 70000);
    table e = expert;
    e.poke(name, 0, 70000);
    table e2 = clips().expert("a");
    e2.poke(name, 0, 70000);
    const fs::path base_path = write(t), b = write(e), a = write(e2), output = clips().fresh();
    const arguments merge = {
        "merge",    "--base",          base_path,  "--expert", "a=" + a.string(),
        "--expert", "b=" + b.string(), "--method", "average",  "--output",
        output,     "--overwrite"};
    for (const std::string threads : {"1", "3"})
      check_error(merge + arguments{"--out-dtype", "f16", "--threads", threads},
                  {output.string(), name, "float16", "--out-dtype"});
    run_well(merge);
    run_well(merge + arguments{"--out-dtype", "bf16"});
    fs::remove(output);
  }
  // Overflow of the merge itself.
  table e = expert;
  e.poke(q0, 0, 3e38);
  check_error(
      arguments{"merge", "--base", clips().base_path(), "--expert", "b=" + write(e).string(),
                "--method", "task-arithmetic", "--alpha", "100", "--output", clips().fresh()},
      {q0, "overflows"});
}

TEST_CASE("rules that do not fit the tensors they match") {
  clips().features("a"), clips().features("b");
  check_error(command({}) + arguments{"--rule", "*fc1.bias=linear"},
              {"fc1.bias", "'*fc1.bias'", "two extents", "F32 [40]"});
  check_error(command({}) + arguments{"--rule", "*fc1.weight=scale"}, {"fc1.weight", "one extent"});
}
