// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <catmerge/io/checkpoint.hpp>
#include <catmerge/io/checkpoint_writer.hpp>
#include <random>
#include <string>
#include <vector>

#include "support/files.hpp"

using namespace io_test;
using format = io::checkpoint_format;

namespace {
std::string dictionary(const std::string& descr, const std::string& order,
                       const std::string& shape) {
  return "{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }\n";
}

void write_safetensors(const fs::path& path, const std::vector<std::string>& names,
                       const io::metadata_t& metadata = {}) {
  std::vector<io::tensor_info> infos;
  for (const auto& name : names) {
    infos.push_back({name, io::dtype::u8, {static_cast<catmerge::index_t>(name.size())}});
  }
  io::safetensors_writer writer(path, infos, metadata);
  for (const auto& name : names) writer.write(name, bytes_of(name));
  writer.commit();
}
}  // namespace

TEST_CASE("npy: hand-made headers of all versions are read") {
  const temporary_folder folder;
  const auto open = [&](const std::string& header, const std::string& values, int major = 1) {
    return io::npy_file(put(folder / "x.npy", npy_bytes(header, values, major)), "x");
  };
  const auto usual = open(dictionary("'<f4'", "False", "(2, 1)"), "12345678");
  CHECK(io::describe(usual.entry()) == "F32 [2, 1]");
  CHECK(text_of(usual.entry().bytes) == "12345678");
  CHECK(usual.entry().name == "x");
  CHECK_FALSE(usual.is_copy());
  CHECK(io::describe(open(dictionary("'<f2'", "False", "()"), "12", 2).entry()) == "F16 []");
  CHECK(io::describe(open(dictionary("'|u1'", "False", "(3,)"), "123", 3).entry()) == "U8 [3]");
  CHECK(io::describe(
            open("{\"shape\":(1L,1),\"fortran_order\":True,\"descr\":\"<i8\"}", std::string(8, 'x'))
                .entry()) == "I64 [1, 1]");
  CHECK(io::describe(open(dictionary("'|b1'", "False", "(0, 5)"), "").entry()) == "BOOL [0, 5]");
}

TEST_CASE("npy: column-major arrays are turned, of any rank and element size") {
  const temporary_folder folder;
  const auto path =
      put(folder / "x.npy", npy_bytes(dictionary("'|u1'", "True", "(2, 3)"), "abcdef"));
  CHECK(text_of(io::npy_file(path, "x").entry().bytes) == "acebdf");
  put(path, npy_bytes(dictionary("'|u1'", "True", "(4,)"), "abcd"));
  CHECK(text_of(io::npy_file(path, "x").entry().bytes) == "abcd");
  CHECK_FALSE(io::npy_file(path, "x").is_copy());
  put(path, npy_bytes(dictionary("'<i2'", "True", "(2, 2, 2)"), "a0b0c0d0e0f0g0h0"));
  io::npy_file file(path, "x");
  const io::npy_file moved = std::move(file);
  CHECK(text_of(moved.entry().bytes) == "a0e0c0g0b0f0d0h0");
  put(path, npy_bytes(dictionary("'<i2'", "True", "(2, 0, 2)"), ""));
  CHECK(io::npy_file(path, "x").entry().bytes.empty());
}

TEST_CASE("npy: big-endian values are turned, of every type and in both orders") {
  const temporary_folder folder;
  const auto path = folder / "x.npy";
  const auto open = [&](const std::string& descr, const std::string& order,
                        const std::string& shape, const std::string& values) {
    put(path, npy_bytes(dictionary(descr, order, shape), values));
    return io::npy_file(path, "x");
  };
  const auto f4 = open("'>f4'", "False", "(2,)", std::string("\x3f\x80\0\0\xc0\0\0\0", 8));
  CHECK(f4.is_copy());
  CHECK(io::describe(f4.entry()) == "F32 [2]");
  const auto floats = io::values_of<float>(f4.entry());
  CHECK(floats[0] == 1.0F);
  CHECK(floats[1] == -2.0F);
  struct row {
    std::string descr, values, turned;
  };
  const std::vector<row> rows = {{"'>i2'", "abcd", "badc"},
                                 {"'>u2'", "abcd", "badc"},
                                 {"'>f2'", "abcd", "badc"},
                                 {"'>i4'", "abcdefgh", "dcbahgfe"},
                                 {"'>u4'", "abcdefgh", "dcbahgfe"},
                                 {"'>f8'", "abcdefgh12345678", "hgfedcba87654321"},
                                 {"'>i8'", "abcdefgh12345678", "hgfedcba87654321"},
                                 {"'>u8'", "abcdefgh12345678", "hgfedcba87654321"},
                                 {"'>c8'", "abcdefgh12345678", "dcbahgfe43218765"}};
  for (const row& each : rows) {
    const auto read = open(each.descr, "False", "(2, 1)", each.values);
    CHECK(text_of(read.entry().bytes) == each.turned);
    // The same type as of little-endian values.
    std::string little = each.descr;
    little[1] = '<';
    CHECK(io::describe(read.entry()) ==
          io::describe(open(little, "False", "(2, 1)", each.values).entry()));
  }
  CHECK(text_of(open("'>i2'", "True", "(2, 2)", "a0b0c0d0").entry().bytes) == "0a0c0b0d");
  CHECK(open("'>f4'", "False", "(0, 3)", "").entry().bytes.empty());
  // In a folder, as a checkpoint; its copy outlives the move.
  put(folder / "x.npy", npy_bytes(dictionary("'>i2'", "False", "(2,)"), "abcd"));
  io::checkpoint opened(folder.path());
  const io::checkpoint moved = std::move(opened);
  CHECK(text_of(moved.at("x").bytes) == "badc");
  moved.release("x");
  CHECK(text_of(moved.at("x").bytes) == "badc");
}

TEST_CASE("npy: every way in which a file can lie is an error that names it") {
  const temporary_folder folder;
  struct bad_file {
    std::string bytes;
    std::string expected;
  };
  const auto with = [](const std::string& header, const std::string& values = "1234") {
    return npy_bytes(header, values);
  };
  const auto shape = [&](const std::string& text) {
    return with(dictionary("'<f4'", "False", text));
  };
  const auto type = [&](const std::string& text) {
    return with(dictionary(text, "False", "(1,)"));
  };
  const std::vector<bad_file> files = {
      {"", "is empty"},
      {"\x93NUMPX", "is not a .npy file"},
      {"\x93NUMPY\x01", "is not a .npy file"},
      {"\x93NUMPX\x01" + std::string(20, '\0'), "is not a .npy file"},
      {npy_bytes("", "", 4), "unknown version"},
      {npy_bytes("", "", 0), "unknown version"},
      {"\x93NUMPY" + std::string("\2\0\0\0", 4), "header is truncated"},
      {"\x93NUMPY" + std::string("\1\0\xff\xff{}", 6), "length, 65535, lies beyond the file's 12"},
      {with(""), "expected '{'"},
      {with("{}"), "expected descr, fortran_order and shape"},
      {with("{'descr': '<f4', 'shape': (1,)}"), "expected descr, fortran_order and shape"},
      {with("{'descr': '<f4', 'descr': '<f4'}"), "the key 'descr' stands twice"},
      {with("{'color': '<f4'}"), "unknown key 'color'"},
      {with("{'descr' '<f4'}"), "expected ':'"},
      {with("{'descr': '<f4' 'shape'}"), "expected '}'"},
      {with("{'descr"), "expected a key in quotes"},
      {with(dictionary("'<f4'", "False", "(1,)") + "x"), "found 'x' after the dictionary"},
      {with(dictionary("'<f4'", "false", "(1,)")), "expected True or False, found 'false"},
      {type("'>x4'"), "unsupported type '>x4'"},
      {type("'>u1'"), "unsupported type '>u1'"},
      {type("'>'"), "unsupported type '>'"},
      {type("'|O'"), "unsupported type '|O'"},
      {type("'<f16'"), "unsupported type '<f16'"},
      {type("[('a', '<f4')]"), "structured arrays are not supported"},
      {type("4"), "expected a type in quotes"},
      {shape("1"), "expected '('"},
      {shape("(1)"), "expected a tuple"},
      {shape("(1 1)"), "expected a tuple"},
      {shape("(1, 1 1)"), "expected ',' or ')'"},
      {shape("(,)"), "expected an extent"},
      {shape("(-1,)"), "expected an extent"},
      {shape("(1.0,)"), "expected a tuple"},
      {shape("(1,"), "expected an extent"},
      {shape("(99999999999999999999,)"), "absurdly large"},
      {shape("(999999999999999999, 999999999999999999)"), "absurdly large"},
      {shape("(2,)"), "F32 [2] takes 8 bytes of values, found 4"},
      {shape("(0,)"), "takes 0 bytes of values, found 4"},
  };
  for (const bad_file& bad : files) {
    const auto path = put(folder / "bad.npy", bad.bytes);
    const std::string message = message_of([&] { io::npy_file(path, "bad"); });
    CHECK_CONTAINS(message, path.string() + ": ");
    CHECK_CONTAINS(message, bad.expected);
  }
}

TEST_CASE("npy: whatever is done to a good file, it is read within its bounds or refused") {
  std::mt19937 random(29);
  const std::string good = npy_bytes(dictionary("'<f4'", "False", "(2, 1)"), "12345678");
  int accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    const std::string bytes = mutated(random, good, "0123456789()', :{}TF<>|fi");
    try {
      const io::npy_header header = io::parse_npy_header(bytes_of(bytes), "mutant");
      ++accepted;
      REQUIRE(header.data_offset + io::byte_count({"", header.type, header.shape}).value() ==
              bytes.size());
    } catch (const catmerge::error&) {
    }
  }
  CHECK(accepted > 100);
  CHECK(accepted < 10'000);
}

TEST_CASE("npy: the header is NumPy's own") {
  const std::string header = io::make_npy_header({"x", io::dtype::f32, {3, 4}}, "x.npy");
  CHECK(header.size() == 128);
  CHECK(header.substr(0, 10) == std::string("\x93NUMPY\x01\0\x76\0", 10));
  CHECK_CONTAINS(header, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }  ");
  CHECK(header.back() == '\n');
  CHECK_CONTAINS(io::make_npy_header({"x", io::dtype::i8, {3}}, ""), "'|i1'");
  CHECK_CONTAINS(io::make_npy_header({"x", io::dtype::i8, {3}}, ""), "'shape': (3,), }");
  CHECK_CONTAINS(io::make_npy_header({"x", io::dtype::i8, {}}, ""), "'shape': (), }");
}

TEST_CASE("checkpoints of every format come back, dtype by dtype") {
  std::mt19937 random(11);
  for (const format how :
       {format::safetensors_file, format::npy_folder, format::hugging_face_folder}) {
    for (int round = 0; round < 20; ++round) {
      const temporary_folder folder;
      const auto config = put(folder / "config.json", "{\"x\": 1}\n");
      const auto path = folder / "out";
      std::vector<io::tensor_info> infos;
      std::vector<std::string> contents;
      for (unsigned i = 0; i < 2 * io::dtype_count; ++i) {
        io::tensor_info info{
            "layer." + std::to_string(i) + "::w", static_cast<io::dtype>(i % io::dtype_count), {}};
        if (how == format::npy_folder && io::npy_descr(info.type).empty()) continue;
        info.shape = random_shape(random, info.type);
        contents.push_back(random_bytes(random, io::byte_count(info).value()));
        infos.push_back(info);
      }
      io::checkpoint_writer writer(path, infos,
                                   {how, {{"format", "pt"}}, {{"config.json", config}}});
      for (std::size_t i = 0; i < infos.size(); ++i) {
        const auto bytes = bytes_of(contents[i]);
        writer.append(infos[i].name, bytes.first(bytes.size() / 2));
        writer.append(infos[i].name, bytes.subspan(bytes.size() / 2));
      }
      CHECK_FALSE(fs::exists(path));
      writer.commit();
      CHECK(folder.names() == std::vector<std::string>{"config.json", "out"});

      io::checkpoint opened(path);
      const io::checkpoint read = std::move(opened);
      CHECK(read.format() == how);
      CHECK(read.size() == infos.size());
      CHECK(read.metadata().size() == (how == format::npy_folder ? 0 : 1));
      CHECK(read.config().has_value() == (how != format::safetensors_file));
      if (read.config()) CHECK(get(*read.config()) == "{\"x\": 1}\n");
      for (std::size_t i = 0; i < infos.size(); ++i) {
        const io::tensor_entry& entry = read.at(infos[i].name);
        CHECK(io::describe(entry) == io::describe(infos[i]));
        read.prefetch(entry.name);
        read.release(entry.name);
        CHECK(text_of(entry.bytes) == contents[i]);
      }
    }
  }
}

TEST_CASE("a folder of .npy files is ordered by name and may hold other files") {
  const temporary_folder folder;
  const auto array = npy_bytes(dictionary("'|u1'", "False", "(1,)"), "x");
  for (const std::string name : {"b.weight.npy", "a.npy", "c.10.npy", ".hidden.npy", "notes.txt"}) {
    put(folder / name, array);
  }
  const io::checkpoint read(folder.path());
  CHECK(read.names() == std::vector<std::string>{"a", "b.weight", "c.10"});
  CHECK_FALSE(read.config());
  put(folder / "d.npy", "x");
  CHECK_CONTAINS(message_of([&] { io::checkpoint{folder.path()}; }), "d.npy: is not a .npy file");
}

TEST_CASE("a Hugging Face folder in shards reads as one checkpoint") {
  const temporary_folder folder;
  put(folder / "config.json", "{}");
  write_safetensors(folder / "model-2.safetensors", {"b"}, {{"format", "pt"}});
  write_safetensors(folder / "model-1.safetensors", {"a", "c"}, {{"format", "pt"}});
  const auto index = folder / "model.safetensors.index.json";
  const auto map = [&](const std::string& weight_map) {
    put(index, "{\"metadata\":{\"total_size\":3},\"weight_map\":" + weight_map + "}");
    return message_of([&] { io::checkpoint{folder.path()}; });
  };
  const std::string first = R"("a":"model-1.safetensors","c":"model-1.safetensors")";
  const std::string second = R"("b":"model-2.safetensors")";
  CHECK(map("{" + first + "," + second + "}") == "");
  const io::checkpoint read(folder.path());
  CHECK(read.names() == std::vector<std::string>{"a", "c", "b"});
  CHECK(text_of(read.at("b").bytes) == "b");
  CHECK(read.format() == format::hugging_face_folder);
  CHECK(read.config() == folder / "config.json");
  CHECK(read.metadata() == io::metadata_t{{"format", "pt"}});
  read.release("c");
  read.release("none");

  CHECK_CONTAINS(map(R"({"a":"model-3.safetensors","z":"model-3.safetensors"})"),
                 "model-3.safetensors: cannot open: there is no such file, but "
                 "model.safetensors.index.json lists it for tensor 'a' and 1 more");
  for (const std::string name : {"../x", "/x", "..", "", "a\\\\b", "x\\u0000y"}) {
    CHECK_CONTAINS(map("{\"a\":\"" + name + "\"}"), "expected the name of a file beside the index");
  }
  CHECK_CONTAINS(map("{\"a\":1}"), "tensor 'a': expected the name of a file");
  CHECK_CONTAINS(map("[]"), "expected an object \"weight_map\"");
  CHECK_CONTAINS(map("{\"a\":1e999}"), "a number is beyond the range of a double");
  CHECK_CONTAINS(map("{" + first + "," + first + "}"), "has the key 'a' twice");
}

TEST_CASE("where an index and its shards disagree, what the shards hold is there") {
  const temporary_folder folder;
  const std::string one = "model-00001-of-00002.safetensors",
                    two = "model-00002-of-00002.safetensors";
  using names = std::vector<std::string>;
  using listed = std::map<std::string, std::string>;
  const auto open = [&](const names& in_one, const names& in_two, const listed& map) {
    // A tensor's value is its name and its shard.
    for (const auto& [shard, tensors] : {std::pair(one, in_one), {two, in_two}}) {
      std::vector<io::tensor_info> infos;
      for (const auto& name : tensors) infos.push_back({name, io::dtype::u8, {3}});
      io::safetensors_writer writer(folder / shard, infos);
      for (const auto& name : tensors)
        writer.write(name, bytes_of(name + (shard == one ? "/1" : "/2")));
      writer.commit();
    }
    put(folder / "model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
    return io::checkpoint(folder.path());
  };
  const auto value = [](const io::checkpoint& read, const std::string& name) {
    return text_of(read.at(name).bytes);
  };

  const auto agreed = open({"a"}, {"b"}, {{"a", one}, {"b", two}});
  CHECK(agreed.warnings().empty());
  CHECK(agreed.absent().empty());

  // In a shard, but not in the index.
  const auto unlisted = open({"a"}, {"b", "x"}, {{"a", one}, {"b", two}});
  CHECK(unlisted.names() == names{"a", "b", "x"});
  CHECK(value(unlisted, "x") == "x/2");
  CHECK(unlisted.absent().empty());
  REQUIRE(unlisted.warnings().size() == 1);
  CHECK(unlisted.warnings()[0] == (folder / two).string() +
                                      ": tensor 'x': the index does not list it; it is used all "
                                      "the same");

  // Many of them are one sentence for each file.
  const auto many = open({"a", "p", "q", "r", "s", "t", "u"}, {"b"}, {{"b", two}, {"a", one}});
  CHECK(many.names() == names{"a", "p", "q", "r", "s", "t", "u", "b"});
  REQUIRE(many.warnings().size() == 1);
  CHECK_CONTAINS(many.warnings()[0],
                 one + ": tensors 'p', 'q', 'r', 's', 't' and 1 more: the index does");

  // In the index, but in no shard.
  const auto absent = open({"a"}, {"b"}, {{"a", one}, {"b", two}, {"y", two}, {"c", one}});
  CHECK(absent.names() == names{"a", "b"});
  CHECK(absent.absent() == names{"c", "y"});
  CHECK(absent.find("y") == nullptr);
  CHECK(absent.warnings().empty());

  // In another shard than the index says.
  const auto moved = open({"a"}, {"b"}, {{"a", two}, {"b", one}});
  CHECK(moved.names() == names{"a", "b"});
  CHECK(value(moved, "a") == "a/1");
  CHECK(moved.absent().empty());
  REQUIRE(moved.warnings().size() == 2);
  CHECK_CONTAINS(moved.warnings()[0], one + ": tensor 'a': the index lists it for another file");

  // In two shards: the index decides, whichever is read first.
  for (const std::string& chosen : {one, two}) {
    const auto twice = open({"a", "z"}, {"b", "z"}, {{"a", one}, {"b", two}, {"z", chosen}});
    CHECK(twice.size() == 3);
    CHECK(value(twice, "z") == (chosen == one ? "z/1" : "z/2"));
    REQUIRE(twice.warnings().size() == 1);
    CHECK_CONTAINS(twice.warnings()[0], (chosen == one ? two : one) + ": tensor 'z': the index");
    io::checkpoint other = open({"a"}, {"b"}, {{"a", one}, {"b", two}});
    other.release("z");
  }
  CHECK_CONTAINS(message_of([&] {
                   open({"a", "z"}, {"b", "z"}, {{"a", one}, {"b", two}});
                 }),
                 "index.json: tensor 'z': stands in " + one + " and in " + two);
  // In three, of which the last one read is the index's.
  write_safetensors(folder / "model-00003-of-00003.safetensors", {"z", "c"});
  const auto thrice = open({"a", "z"}, {"b", "z"},
                           {{"a", one}, {"b", two}, {"z", "model-00003-of-00003.safetensors"}});
  CHECK(thrice.names() == names{"a", "b", "c", "z"});
  CHECK(value(thrice, "z") == "z");
  CHECK(thrice.warnings().size() == 3);
}

TEST_CASE("what is prefetched is read by the system, and what is released leaves the memory") {
  const temporary_folder folder;
  const auto path = folder / "model.safetensors";
  constexpr std::size_t size = std::size_t{1} << 22;
  {
    io::safetensors_writer writer(path,
                                  {{"a", io::dtype::u8, {size}}, {"b", io::dtype::u8, {size}}});
    for (const char* name : {"a", "b"}) writer.write(name, bytes_of(std::string(size, 'x')));
    writer.commit();
  }
  evict(path);
  const io::checkpoint read(path);
  const auto b = read.at("b").bytes;
  if (share_cached(b) > 0.9) {
    MESSAGE("this file system keeps its files in memory: nothing to see");
    return;
  }
  const auto half = b.first(size / 2);
  read.prefetch("b", half);
  for (int i = 0; i < 200 && share_cached(half) < 1; ++i) ::usleep(10000);
  CHECK(share_cached(half) == 1);
  read.prefetch("b");
  for (int i = 0; i < 200 && share_cached(b) < 1; ++i) ::usleep(10000);
  CHECK(share_cached(b) == 1);

  // In this program's memory are only the pages that it touched.
  const std::size_t before = resident_bytes();
  unsigned sum = 0;
  for (std::size_t i = 0; i < size; i += page_size()) sum += std::to_integer<unsigned>(b[i]);
  CHECK(sum == 'x' * (size / page_size()));
  const std::size_t touched = resident_bytes();
  CHECK(touched >= before + size / 2);
  read.release("b", half);
  CHECK(resident_bytes() + size / 4 <= touched);
  read.release("b");
  CHECK(resident_bytes() <= before + size / 4);
  CHECK(text_of(b.first(3)) == "xxx");  // and comes back
}

TEST_CASE("what is no checkpoint says what was expected") {
  const temporary_folder folder;
  CHECK_CONTAINS(message_of([&] { io::checkpoint{folder.path()}; }), "expected model.safetensors");
  put(folder / "pytorch_model.bin", "");
  CHECK_CONTAINS(message_of([&] { io::checkpoint{folder.path()}; }), "examples/export");
  CHECK_CONTAINS(message_of([&] { io::checkpoint{folder / "none"}; }), "cannot open");
  CHECK_CONTAINS(message_of([&] { io::checkpoint{folder / "pytorch_model.bin"}; }), "is empty");
}

TEST_CASE("the format of the output follows its name, then the base") {
  for (const format base :
       {format::safetensors_file, format::npy_folder, format::hugging_face_folder}) {
    CHECK(io::output_format("a/b.safetensors", base) == format::safetensors_file);
    CHECK(io::output_format("a/b", base) == base);
  }
}

TEST_CASE("a folder that cannot be written leaves nothing behind") {
  const temporary_folder folder;
  const std::vector<io::tensor_info> infos = {{"a", io::dtype::u8, {2}}};
  put(folder / "file", "");
  fs::create_directory(folder / "existing");
  for (const format how : {format::npy_folder, format::hugging_face_folder}) {
    const auto attempt = [&](const std::string& name, std::vector<io::tensor_info> declared) {
      return message_of([&] {
        io::checkpoint_writer writer(folder / name, declared, {how});
        for (const auto& info : declared) {
          writer.write(info.name, bytes_of(std::string(io::byte_count(info).value(), 'x')));
        }
        if (name == "late") fs::create_directory(folder / "late");
        writer.commit();
      });
    };
    CHECK_CONTAINS(attempt("existing", infos), "existing: exists already");
    CHECK_CONTAINS(attempt("existing/", infos), "existing: exists already");
    CHECK_CONTAINS(attempt("late", infos), "late: exists already");
    fs::remove(folder / "late");
    CHECK_CONTAINS(attempt("file/x", infos), "cannot create: Not a directory");
    CHECK_CONTAINS(message_of([&] { io::checkpoint_writer(folder / "x", infos, {how}).commit(); }),
                   "1 of 1 tensors were not written");
    CHECK_CONTAINS(
        message_of([&] {
          io::checkpoint_writer(folder / "x", infos, {how, {}, {{"config.json", folder / "none"}}});
        }),
        "none: cannot open");
    if (how == format::npy_folder) {
      CHECK_CONTAINS(attempt("x", {{"w", io::dtype::bf16, {1}}}),
                     "tensor 'w': .npy files cannot hold BF16: choose another output type "
                     "(--out-dtype f32)");
      for (const std::string bad : {"a/b", "", ".a"}) {
        CHECK_CONTAINS(attempt("x", {{bad, io::dtype::u8, {1}}}), "cannot be that of a .npy file");
      }
      CHECK_CONTAINS(attempt("x", {{std::string(300, 'n'), io::dtype::u8, {1}}}), "too long");
    }
  }
  CHECK(folder.names() == std::vector<std::string>{"existing", "file"});
}

TEST_CASE("a full disk in a folder names the tensor and leaves nothing behind") {
  const temporary_folder folder;
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  rlimit limited = before;
  limited.rlim_cur = 4096;
  for (const format how : {format::npy_folder, format::hugging_face_folder}) {
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limited) == 0);
    const std::string message = message_of([&] {
      io::checkpoint_writer writer(folder / "x", {{"big", io::dtype::u8, {8192}}}, {how});
      writer.write("big", bytes_of(std::string(8192, 'b')));
      writer.commit();
    });
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK_CONTAINS(message, "tensor 'big': cannot write");
    CHECK_CONTAINS(message, (folder / "x").string());
  }
  CHECK(folder.names().empty());
}
