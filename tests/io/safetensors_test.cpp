// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catmerge/io/safetensors.hpp>
#include <catmerge/io/safetensors_writer.hpp>
#include <chrono>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support/files.hpp"

using namespace io_test;

namespace {
/// A tensor's entry in a header.
std::string tensor(const std::string& name, const std::string& type, const std::string& shape,
                   const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + type + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}
std::string values(std::size_t count) {
  return std::string(count, 'v');
}
}  // namespace

TEST_CASE("a hand-made file is read as it stands") {
  const temporary_folder folder;
  const std::string header = "{\"__metadata__\":{\"format\":\"pt\",\"\\u00e9\":\"\"}," +
                             tensor("b", "F32", "[2,1]", "[4,12]") + "," +
                             tensor("a", "U8", "[4]", "[0,4]") + "," +
                             tensor("empty", "I64", "[3,0]", "[4,4]") + "," +
                             tensor("scalar", "F16", "[]", "[12,14]") + "}  ";
  const auto path =
      put(folder / "x.safetensors", safetensors_bytes(header, "abcd" + std::string(10, '\x3c')));
  const io::safetensors_file file(path);

  CHECK(file.path() == path);
  CHECK(file.metadata() == io::metadata_t{{"format", "pt"}, {"\u00e9", ""}});
  REQUIRE(file.entries().size() == 4);
  CHECK(file.entries()[0].name == "a");
  CHECK(file.entries()[1].name == "empty");
  CHECK(file.entries()[2].name == "b");
  CHECK(file.entries()[3].name == "scalar");
  CHECK(text_of(file.at("a").bytes) == "abcd");
  CHECK(file.at("b").shape == io::shape_t{2, 1});
  CHECK(file.at("b").bytes.size() == 8);
  CHECK(file.at("empty").bytes.empty());
  CHECK(io::describe(file.at("scalar")) == "F16 []");
  CHECK(file.find("c") == nullptr);
  CHECK_CONTAINS(message_of([&] { file.at("c"); }), "x.safetensors: tensor 'c': is not in");

  file.prefetch(file.at("b"));
  file.release(file.at("b"));
  file.release(file.at("empty"));
  CHECK(text_of(file.at("b").bytes) == std::string(8, '\x3c'));
}

TEST_CASE("typed values are handed out only if type and alignment are right") {
  const temporary_folder folder;
  for (const std::string padding : {"", " "}) {
    std::string header = "{" + tensor("x", "F32", "[1]", "[0,4]") + "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    header += padding;
    const io::safetensors_file file(
        put(folder / "x", safetensors_bytes(header, std::string("\0\0\x80\x3f", 4))));
    CHECK(io::is_aligned(file.at("x")) == padding.empty());
    CHECK_THROWS_AS(io::values_of<double>(file.at("x")), catmerge::error);
    if (padding.empty()) {
      CHECK(io::values_of<float>(file.at("x"))[0] == 1.0f);
    } else {
      CHECK_CONTAINS(message_of([&] { io::values_of<float>(file.at("x")); }), "not aligned");
    }
  }
}

TEST_CASE("what the reference implementation accepts is accepted") {
  const temporary_folder folder;
  const auto entries = [&](const std::string& header, const std::string& data) {
    return io::safetensors_file(put(folder / "x", safetensors_bytes(header, data)))
        .entries()
        .size();
  };
  CHECK(entries("{}", "") == 0);
  CHECK(entries("{\"__metadata__\":null}", "") == 0);
  CHECK(entries("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"more\":[]}}",
                "v") == 1);
  CHECK(entries("{" + tensor("", "U8", "[1]", "[0,1]") + "}", "v") == 1);
  CHECK(entries("{" + tensor("z", "F64", "[0,4611686018427387904,4]", "[0,0]") + "}", "") == 1);
}

TEST_CASE("every way in which a file can lie is an error that names file and tensor") {
  const temporary_folder folder;
  struct bad_file {
    std::string bytes;
    std::string expected;  // in the message
  };
  const auto with = [](const std::string& entry, std::size_t count = 4) {
    return safetensors_bytes("{" + entry + "}", values(count));
  };
  const std::string good = tensor("a", "F32", "[1]", "[0,4]");
  const std::vector<bad_file> files = {
      {"", "is empty"},
      {"1234567", "it has 7 bytes"},
      {little_endian(100, 8) + "{}", "header's length, 100, lies beyond the file's 10 bytes"},
      {little_endian(100'000'001, 8) + "{}", "exceeds the limit of 100000000"},
      {little_endian(~std::uint64_t{0}, 8) + "{}", "exceeds the limit"},
      {safetensors_bytes("", ""), "does not start with '{'"},
      {safetensors_bytes(" {}", ""), "does not start with '{'"},
      {safetensors_bytes("[]", ""), "does not start with '{'"},
      {safetensors_bytes("\xef\xbb\xbf{}", ""), "does not start with '{'"},
      {safetensors_bytes("{", ""), "not valid JSON"},
      {safetensors_bytes("{}x", ""), "not valid JSON"},
      {safetensors_bytes("{}{}", ""), "not valid JSON"},
      {safetensors_bytes("{\"\xff\":1}", ""), "not valid JSON"},
      {safetensors_bytes(std::string("{}\0{", 4), ""), "contains a zero byte"},
      {safetensors_bytes("{" + good + "," + good + "}", values(4)), "has the key 'a' twice"},
      {with("\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}"),
       "has the key 'dtype' twice"},
      {safetensors_bytes("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", ""), "key 'k' twice"},
      {safetensors_bytes("{\"a\":" + std::string(100, '[') + std::string(100, ']') + "}", ""),
       "nested too deeply"},
      {with("\"a\":1"), "tensor 'a': expected an object, found '1'"},
      {with("\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}"), "tensor 'a': has no dtype"},
      {with("\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}"), "tensor 'a': has no shape"},
      {with("\"a\":{\"dtype\":\"F32\",\"shape\":[1]}"), "tensor 'a': has no data_offsets"},
      {with(tensor("a", "F33", "[1]", "[0,4]")), "tensor 'a': unknown dtype '\"F33\"'"},
      {with("\"a\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,4]}"), "unknown dtype '3'"},
      {with(tensor("a", "F32", "1", "[0,4]")), "tensor 'a': shape: expected a list"},
      {with(tensor("a", "F32", "[-1]", "[0,4]")), "tensor 'a': shape: expected a list"},
      {with(tensor("a", "F32", "[1.0]", "[0,4]")), "tensor 'a': shape: expected a list"},
      {with(tensor("a", "F32", "[\"1\"]", "[0,4]")), "tensor 'a': shape: expected a list"},
      {with(tensor("a", "F32", "[18446744073709551616]", "[0,4]")), "shape: expected a list"},
      {with(tensor("a", "F32", "[9223372036854775808]", "[0,4]")), "shape: expected a list"},
      {with(tensor("a", "F32", "[4294967296,4294967296]", "[0,4]")), "absurdly large"},
      {with(tensor("a", "F32", "[4611686018427387905]", "[0,4]")), "absurdly large"},
      {with(tensor("a", "F32", "[1]", "[0]")), "data_offsets: expected [begin, end]"},
      {with(tensor("a", "F32", "[1]", "[0,4,8]")), "data_offsets: expected [begin, end]"},
      {with(tensor("a", "F32", "[1]", "[-4,0]")), "data_offsets: expected [begin, end]"},
      {with(tensor("a", "F32", "[1]", "{}")), "data_offsets: expected [begin, end]"},
      {with(tensor("a", "F32", "[1]", "[4,0]")), "[4, 0]: the end lies before the begin"},
      {with(tensor("a", "F32", "[2]", "[0,4]")),
       "tensor 'a': F32 [2] takes 8 bytes, data_offsets [0, 4] hold 4"},
      {with(tensor("a", "F32", "[1]", "[0,8]")), "takes 4 bytes"},
      {with(good, 3),
       "is cut short: its tensors take 4 bytes of values, found 3; the first without "
       "its bytes is tensor 'a'"},
      {with(good + "," + tensor("b", "F32", "[1]", "[4,8]") + "," +
                tensor("c", "F32", "[1]", "[8,12]"),
            5),
       "its tensors take 12 bytes of values, found 5; the first without its bytes is tensor 'b'"},
      {with(tensor("a", "F32", "[1]", "[4,8]")), "begins at byte 4, expected 0"},
      {with(good, 5), "the tensors end after 4 bytes of values, found 5"},
      {with(tensor("a", "F32", "[1]", "[1,5]"), 5), "begins at byte 1, expected 0"},
      {with(good + "," + tensor("b", "F32", "[1]", "[2,6]"), 6), "tensor 'b': overlaps tensor 'a'"},
      {with(good + "," + tensor("b", "F32", "[1]", "[0,4]")), "overlaps tensor"},
      {with(good + "," + tensor("b", "F32", "[1]", "[8,12]"), 12), "begins at byte 8, expected 4"},
      {with(good + "," + tensor("b", "F32", "[0]", "[2,2]")), "overlaps tensor"},
      {safetensors_bytes("{\"__metadata__\":[]}", ""), "__metadata__: expected an object"},
      {safetensors_bytes("{\"__metadata__\":{\"k\":1}}", ""),
       "__metadata__: 'k': expected a string, found '1'"},
      {with(tensor("n\\u0000\\n", "F32", "[2]", "[0,4]")), "tensor 'n\\x00\\x0a'"},
  };
  for (const bad_file& bad : files) {
    const auto path = put(folder / "bad.safetensors", bad.bytes);
    const std::string message = message_of([&] { io::safetensors_file{path}; });
    CHECK_CONTAINS(message, path.string() + ": ");
    CHECK_CONTAINS(message, bad.expected);
    CHECK(message.size() < 2000);
  }
}

TEST_CASE("a hostile header of many tensors is refused at once, and a good one read at once") {
  // Well-formed headers, each of 16 MB or of 100,000 tensors. Whatever looks at all tensors for
  // each takes minutes; the limit is far above what a loaded machine needs, and far below that.
  const auto seconds = [](const std::function<void()>& action) {
    const auto began = std::chrono::steady_clock::now();
    action();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  };
  constexpr int count = 100'000;
  constexpr double most = 20;
  const std::string padding(300, 'n');
  struct attack {
    std::function<std::string(int)> entry;
    const char* expected;
    int count;
  };
  const auto offsets = [](int begin) {
    return "[" + std::to_string(begin) + "," + std::to_string(begin + 4) + "]";
  };
  const std::vector<attack> attacks = {
      // All tensors in the same bytes, under long names, as in the reference's collection.
      {[&](int i) { return tensor(padding + std::to_string(i), "F32", "[1]", "[0,4]"); },
       "overlaps tensor", 37'000},
      // Each over half of the one before.
      {[&](int i) { return tensor(std::to_string(i), "F32", "[1]", offsets(2 * i)); },
       "overlaps tensor", count},
      // A gap at the end only.
      {[&](int i) {
         return tensor(std::to_string(i), "F32", "[1]", offsets(4 * i + (i == count - 1)));
       },
       "the bytes between belong to no tensor", count},
      // In the opposite order, and the file too short.
      {[&](int i) { return tensor(std::to_string(i), "F32", "[1]", offsets(4 * (count - 1 - i))); },
       "is cut short", count},
      // One tensor with a long list of objects.
      {[&](int i) {
         return i == 0          ? "\"a\":{\"dtype\":\"U8\",\"shape\":[1,{}"
                : i < count - 1 ? "{}"
                                : "2],\"data_offsets\":[0,1]}";
       },
       "tensor 'a': shape: expected a list of non-negative integers", count},
      // The last name is the first again.
      {[&](int i) {
         return "\"" + std::to_string(i % (count - 1)) +
                "\":" + tensor("", "F32", "[1]", offsets(4 * i)).substr(3);
       },
       "has the key '0' twice", count},
  };
  for (const attack& each : attacks) {
    std::string header = "{";
    for (int i = 0; i < each.count; ++i) header += (i > 0 ? "," : "") + each.entry(i);
    const std::string bytes = safetensors_bytes(header + "}", "four");
    std::string message;
    CHECK(seconds([&] {
            message = message_of([&] { io::parse_safetensors(bytes_of(bytes), "attack"); });
          }) < most);
    CHECK_CONTAINS(message, each.expected);
  }
  std::string header = "{";
  for (int i = 0; i < count; ++i)
    header +=
        (i > 0 ? "," : "") + tensor("layers." + std::to_string(i) + ".w", "U8", "[1]",
                                    "[" + std::to_string(i) + "," + std::to_string(i + 1) + "]");
  const temporary_folder folder;
  const auto path = put(folder / "x", safetensors_bytes(header + "}", values(count)));
  CHECK(seconds([&] {
          const io::safetensors_file file(path);
          REQUIRE(file.entries().size() == count);
          for (int i = 0; i < count; ++i)
            REQUIRE(file.find("layers." + std::to_string(i) + ".w") ==
                    &file.entries()[static_cast<std::size_t>(i)]);
          CHECK(file.find("layers.-1.w") == nullptr);
          CHECK(file.find("") == nullptr);
          CHECK(file.find("z") == nullptr);
        }) < most);
}

TEST_CASE("JSON texts: values come back as the parser's own, members one by one") {
  const std::string text =
      R"({"a":[1,-2,2.5,[],{}],"b":{"c":{"d":null,"e":[true,"x"]}},"f":"\u00e9"})";
  CHECK(io::parse_json(text, "f", "text") == nlohmann::json::parse(text));
  for (const std::string scalar : {"1", "null", "\"x\"", "[]", "{}", "[[1],[2,[3]]]"})
    CHECK(io::parse_json(scalar, "f", "text") == nlohmann::json::parse(scalar));
  nlohmann::json members = nlohmann::json::object();
  std::string order;
  io::for_each_member(text, "f", "text", [&](const std::string& name, nlohmann::json& value) {
    order += name;
    members[name] = std::move(value);
  });
  CHECK(order == "abf");
  CHECK(members == nlohmann::json::parse(text));
  const auto none = [](const std::string&, nlohmann::json&) { FAIL("there is no member"); };
  io::for_each_member("{}", "f", "text", none);
  for (const std::string other : {"[{\"a\":1}]", "1", "null"})
    CHECK_CONTAINS(message_of([&] { io::for_each_member(other, "f", "text", none); }),
                   "f: the text is not a JSON object");
  // Objects in a list are read in linear time, too: vocabularies are such lists.
  std::string list = "[{}";
  for (int i = 0; i < 200'000; ++i) list += ",{}";
  CHECK(io::parse_json(list + "]", "f", "text").size() == 200'001);
  CHECK_CONTAINS(message_of([&] { io::parse_json(R"({"a":{"b":1,"c":{},"b":2}})", "f", "text"); }),
                 "f: the text has the key 'b' twice");
  CHECK(io::parse_json(R"({"a":{"b":1},"c":{"b":2}})", "f", "text").size() == 2);
}

TEST_CASE("every truncation of a good file is an error") {
  const temporary_folder folder;
  const std::string whole =
      safetensors_bytes("{" + tensor("a", "F32", "[2,2]", "[0,16]") + "}", values(16));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const auto path = put(folder / "x", whole.substr(0, size));
    CHECK_THROWS_AS(io::safetensors_file{path}, catmerge::error);
  }
}

TEST_CASE("whatever is done to a good file, it is read within its bounds or refused") {
  std::mt19937 random(23);
  const std::string good =
      safetensors_bytes("{\"__metadata__\":{\"k\":\"v\"}," + tensor("a", "F32", "[1,2]", "[0,8]") +
                            "," + tensor("b", "F16", "[2]", "[8,12]") + "}",
                        values(12));
  int accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    const std::string bytes = mutated(random, good, "0123456789[]{}\":,-.eFU \\");
    try {
      const auto contents = io::parse_safetensors(bytes_of(bytes), "mutant");
      ++accepted;
      std::size_t sum = 0;
      for (const io::tensor_entry& entry : contents.entries) {
        REQUIRE(entry.bytes.size() == io::byte_count(entry));
        REQUIRE(entry.bytes.data() + entry.bytes.size() <= bytes_of(bytes).data() + bytes.size());
        sum += entry.bytes.size();
      }
      REQUIRE(sum < bytes.size());
    } catch (const catmerge::error&) {
    }
  }
  CHECK(accepted > 100);  // a change of the name, say
  CHECK(accepted < 10'000);
}

TEST_CASE("what is not a regular file is refused") {
  const temporary_folder folder;
  CHECK_CONTAINS(message_of([&] { io::mapped_file{folder / "none"}; }), "No such file");
  CHECK_CONTAINS(message_of([&] { io::mapped_file{folder.path()}; }), "not a regular file");
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK_CONTAINS(message_of([&] { io::mapped_file{folder / "pipe"}; }), "not a regular file");
  CHECK(io::mapped_file(put(folder / "empty", "")).bytes().empty());
}

TEST_CASE("mapped pages are given back and read again") {
  const temporary_folder folder;
  std::mt19937 random(1);
  const std::string contents = random_bytes(random, 1 << 16);
  io::mapped_file file(put(folder / "x", contents));
  for (const auto& [offset, size] : std::vector<std::pair<std::size_t, std::size_t>>{
           {0, 1 << 16}, {1, 100}, {4095, 4098}, {60000, 5536}, {4096, 0}}) {
    const auto part = file.bytes().subspan(offset, size);
    file.prefetch(part);
    file.release(part);
    CHECK(text_of(part) == contents.substr(offset, size));
  }
  const auto before = file.bytes().data();
  const io::mapped_file moved = std::move(file);
  CHECK(moved.bytes().data() == before);
}

TEST_CASE("released pages leave the process's memory") {
  const auto resident = [] {
    std::size_t total = 0, pages = 0;
    std::ifstream("/proc/self/statm") >> total >> pages;
    return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  };
  const temporary_folder folder;
  constexpr std::size_t size = 32 << 20, slack = 8 << 20;
  {
    std::ofstream out(folder / "x", std::ios::binary);
    const std::string block(1 << 20, 'x');
    for (std::size_t i = 0; i < size; i += block.size()) out << block;
  }
  const io::mapped_file file(folder / "x");
  const std::size_t before = resident();
  std::size_t sum = 0;
  for (const std::byte b : file.bytes()) sum += std::to_integer<std::size_t>(b);
  CHECK(sum == size * 'x');
  CHECK(resident() > before + size - slack);
  file.release(file.bytes());
  CHECK(resident() < before + slack);
}

TEST_CASE("random tables of every dtype come back, and the layout is the reference's") {
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    const temporary_folder folder;
    const auto path = folder / "x.safetensors";
    std::vector<io::tensor_info> infos;
    std::map<std::string, std::string> contents;
    for (auto count = random() % 30; count-- > 0;) {
      io::tensor_info info{
          "t." + std::to_string(random() % 1000) + (random() % 2 ? "\u00fc" : "\"\n"),
          static_cast<io::dtype>(random() % io::dtype_count),
          {}};
      info.shape = random_shape(random, info.type);
      const std::string bytes = random_bytes(random, io::byte_count(info).value());
      if (contents.emplace(info.name, bytes).second) infos.push_back(info);
    }
    const io::metadata_t metadata = {{"format", "pt"}, {"round", std::to_string(round)}};
    {
      io::safetensors_writer writer(path, infos, metadata);
      auto order = infos;
      std::shuffle(order.begin(), order.end(), random);
      for (const auto& info : order) {
        const std::string& bytes = contents.at(info.name);
        if (random() % 2) {
          writer.write(info.name, bytes_of(bytes));
        } else {  // in blocks
          const std::size_t middle = bytes.size() / 3;
          writer.append(info.name, bytes_of(bytes.substr(0, middle)));
          writer.append(info.name, bytes_of(bytes.substr(middle)));
        }
      }
      CHECK(folder.names().size() == 1);
      CHECK_FALSE(fs::exists(path));
      writer.commit();
    }
    CHECK(folder.names() == std::vector<std::string>{"x.safetensors"});
    const io::safetensors_file file(path);
    CHECK(file.metadata() == metadata);
    REQUIRE(file.entries().size() == infos.size());
    for (const auto& info : infos) {
      const io::tensor_entry& entry = file.at(info.name);
      CHECK(entry.type == info.type);
      CHECK(entry.shape == info.shape);
      CHECK(text_of(entry.bytes) == contents.at(info.name));
      CHECK(io::is_aligned(entry));
    }
    std::size_t previous = 8, sum = 0;  // larger types first (empty tensors lie anywhere)
    for (const io::tensor_entry& entry : file.entries()) {
      if (entry.bytes.empty()) continue;
      CHECK(io::alignment_of(entry.type) <= previous);
      previous = io::alignment_of(entry.type);
      sum += entry.bytes.size();
    }
    CHECK((fs::file_size(path) - sum) % 8 == 0);
  }
}

TEST_CASE("the written bytes are exactly those of the reference implementation") {
  // From safetensors 0.8.0 for Python: save({"b": zeros(2, f2), "a": ones((1, 2), f4)}).
  const temporary_folder folder;
  io::safetensors_writer writer(
      folder / "x", {{"b", io::dtype::f16, {2}}, {"a", io::dtype::f32, {1, 2}}}, {{"k", "v"}});
  const std::string ones("\0\0\x80\x3f\0\0\x80\x3f", 8);
  writer.write("a", bytes_of(ones));
  writer.write("b", bytes_of(std::string(4, '\0')));
  writer.commit();
  std::string header =
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"F16","shape":[2],"data_offsets":[8,12]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  CHECK(get(folder / "x") == safetensors_bytes(header, ones + std::string(4, '\0')));
}

TEST_CASE("a writer refuses what does not fit its declarations and leaves the target alone") {
  const temporary_folder folder;
  const auto path = put(folder / "x", "old");
  const auto with_writer = [&](auto&& action) {
    return message_of([&] {
      io::safetensors_writer writer(path, {{"a", io::dtype::f32, {2}}, {"b", io::dtype::u8, {0}}});
      action(writer);
      writer.commit();
    });
  };
  const std::string eight(8, 'x');
  const auto write_a = [&](auto& w) { w.write("a", bytes_of(eight)); };
  CHECK_CONTAINS(with_writer([](auto&) {}), "2 of 2 tensors were not written completely: 'a', 'b'");
  CHECK_CONTAINS(with_writer(write_a), "1 of 2 tensors were not written completely: 'b'");
  CHECK_CONTAINS(with_writer([&](auto& w) { w.append("a", bytes_of("1234")); }), "'a', 'b'");
  CHECK_CONTAINS(with_writer([&](auto& w) { w.write("c", {}); }), "tensor 'c': was not declared");
  CHECK_CONTAINS(with_writer([&](auto& w) { w.write("a", bytes_of("1234")); }),
                 "tensor 'a': expected 8 bytes, F32 [2], found 4");
  CHECK_CONTAINS(with_writer([&](auto& w) { write_a(w), write_a(w); }), "'a': is written twice");
  CHECK_CONTAINS(with_writer([&](auto& w) { write_a(w), w.append("a", bytes_of("1")); }),
                 "tensor 'a': expected 8 bytes");
  CHECK_CONTAINS(with_writer([&](auto& w) { w.append("a", bytes_of("1")), write_a(w); }), "twice");

  const auto declared = [&](std::vector<io::tensor_info> infos, io::metadata_t metadata = {}) {
    return message_of([&] { io::safetensors_writer(path, infos, metadata); });
  };
  const io::tensor_info a{"a", io::dtype::f32, {2}};
  CHECK_CONTAINS(declared({a, a}), "tensor 'a': is declared twice");
  CHECK_CONTAINS(declared({{"a", io::dtype::f32, {-1}}}),
                 "tensor 'a': the shape [-1] has a negative");
  CHECK_CONTAINS(declared({{"a", io::dtype::f32, {catmerge::index_t{1} << 62, 4}}}), "absurdly");
  CHECK_CONTAINS(declared({{"__metadata__", io::dtype::f32, {}}}), "the name is reserved");
  CHECK_CONTAINS(declared({{"\xff", io::dtype::f32, {}}}), "not valid UTF-8");
  CHECK_CONTAINS(declared({a}, {{"k", "\xff"}}), "not valid UTF-8");

  CHECK(folder.names() == std::vector<std::string>{"x"});
  CHECK(get(path) == "old");
  CHECK(with_writer([&](auto& w) { write_a(w), w.write("b", {}); }) == "");
  CHECK(io::safetensors_file(path).entries().size() == 2);
}

TEST_CASE("an output that cannot be written is an error that names it") {
  const temporary_folder folder;
  const std::vector<io::tensor_info> infos = {{"a", io::dtype::u8, {1}}};
  put(folder / "file", "");
  const auto attempt = [&](const fs::path& path) {
    return message_of([&] { io::safetensors_writer(path, infos); });
  };
  CHECK_CONTAINS(attempt(folder / "file/x"), (folder / "file/x").string() + ": cannot create: Not");
  CHECK_CONTAINS(attempt(folder / "file/none/x"),
                 "cannot create its folder " + (folder / "file/none").string() + ": Not");
  CHECK_CONTAINS(attempt(folder.path()), "expected the name of a file");
  CHECK_CONTAINS(attempt(folder / "x/"), "expected the name of a file");
  CHECK(folder.names() == std::vector<std::string>{"file"});
}

TEST_CASE("a full disk names file and tensor, and leaves nothing behind") {
  const temporary_folder folder;
  const auto path = put(folder / "x.safetensors", "old");
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  rlimit limited = before;
  limited.rlim_cur = 4096;
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &limited) == 0);
  const std::string message = message_of([&] {
    io::safetensors_writer writer(path,
                                  {{"small", io::dtype::f64, {2}}, {"big", io::dtype::u8, {8192}}});
    writer.write("small", bytes_of(std::string(16, 's')));
    writer.write("big", bytes_of(std::string(8192, 'b')));
    writer.commit();
  });
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  CHECK_CONTAINS(message, path.string() + ": tensor 'big': cannot write");
  CHECK_CONTAINS(message, "File too large");
  CHECK(folder.names() == std::vector<std::string>{"x.safetensors"});
  CHECK(get(path) == "old");
}

TEST_CASE("threads may write different tensors at the same time") {
  const temporary_folder folder;
  std::vector<io::tensor_info> infos;
  for (int i = 0; i < 8; ++i) infos.push_back({std::to_string(i), io::dtype::u8, {100'000}});
  io::safetensors_writer writer(folder / "x", infos);
  std::vector<std::thread> threads;
  for (const auto& info : infos) {
    threads.emplace_back([&] {
      for (int block = 0; block < 10; ++block) {
        writer.append(info.name, bytes_of(std::string(10'000, info.name[0])));
      }
    });
  }
  for (auto& thread : threads) thread.join();
  writer.commit();
  const io::safetensors_file file(folder / "x");
  for (const auto& info : infos) {
    CHECK(text_of(file.at(info.name).bytes) == std::string(100'000, info.name[0]));
  }
}

TEST_CASE("a file that is read may be replaced by a writer") {
  const temporary_folder folder;
  const auto path =
      put(folder / "x", safetensors_bytes("{" + tensor("a", "U8", "[3]", "[0,3]") + "}", "old"));
  const io::safetensors_file before(path);
  io::safetensors_writer writer(path, {before.at("a")});
  writer.write("a", bytes_of("new"));
  writer.commit();
  CHECK(text_of(before.at("a").bytes) == "old");
  CHECK(text_of(io::safetensors_file(path).at("a").bytes) == "new");
}
