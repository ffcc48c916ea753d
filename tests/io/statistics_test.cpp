// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/io/npy.hpp>
#include <catmerge/io/statistics.hpp>
#include <string>
#include <vector>

#include "support/files.hpp"

using namespace io_test;
using form = io::statistics_form;

namespace {
/// Writes tensors of zeros and opens them as statistics.
struct scratch {
  temporary_folder folder;
  fs::path path = folder / "features.safetensors";

  std::string open(const std::vector<io::tensor_info>& infos, const io::metadata_t& metadata = {}) {
    io::safetensors_writer writer(path, infos, metadata);
    for (const auto& info : infos) {
      writer.write(info.name, bytes_of(std::string(io::byte_count(info).value(), '\0')));
    }
    writer.commit();
    const std::string message = message_of([&] { io::statistics_file{path}; });
    if (!message.empty()) CHECK_CONTAINS(message, path.string() + ": ");
    return message;
  }
};
}  // namespace

TEST_CASE("statistics: every form is read, and aliases share it") {
  scratch files;
  const io::metadata_t metadata = {{"rows:f", "100"}, {"rows:g", "7"},   {"rows:s", "1"},
                                   {"rows:x", "5"},   {"alias:x2", "x"}, {"alias:g2", "g"},
                                   {"format", "pt"}};
  CHECK(files.open({{"x", io::dtype::f16, {5, 3}},
                    {"f::factor", io::dtype::f64, {3, 4}},
                    {"g::gram", io::dtype::f32, {4, 4}},
                    {"s::second_moment", io::dtype::bf16, {6}}},
                   metadata) == "");
  const io::statistics_file read(files.path);
  CHECK(read.path() == files.path);
  CHECK(read.names() == std::vector<std::string>{"f", "g", "s", "x", "g2", "x2"});
  CHECK(read.at("x").form == form::rows);
  CHECK(read.at("x").row_count == 5);
  CHECK(read.at("f").form == form::factor);
  CHECK(read.at("f").row_count == 100);
  CHECK(io::describe(*read.at("f").data) == "F64 [3, 4]");
  CHECK(read.at("g").form == form::gram);
  CHECK(read.at("s").form == form::second_moment);
  CHECK(read.at("s").row_count == 1);
  CHECK(read.at("x2").data == read.at("x").data);
  CHECK(read.at("x2").owner == "x");
  CHECK(read.at("g2").row_count == 7);
  CHECK(read.find("y") == nullptr);
  CHECK_CONTAINS(message_of([&] { read.at("y"); }), "tensor 'y': has no statistics in the file");
  read.prefetch("g2");
  read.release("g2");
  read.release("y");
}

TEST_CASE("statistics: plain rows may lie in a folder of .npy files") {
  const temporary_folder folder;
  put(folder / "a.weight.npy",
      npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }", "12345678"));
  CHECK(io::statistics_file(folder.path()).at("a.weight").row_count == 2);
  put(folder / "a.bias::second_moment.npy",
      npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "1234"));
  CHECK_CONTAINS(message_of([&] { io::statistics_file{folder.path()}; }),
                 "expected its row count in the metadata, under 'rows:a.bias'");
}

TEST_CASE("statistics: what does not fit is an error that names file and tensor") {
  scratch files;
  const io::tensor_info rows{"x", io::dtype::f32, {5, 3}};
  const io::tensor_info gram{"x::gram", io::dtype::f32, {3, 3}};
  using infos = std::vector<io::tensor_info>;
  struct bad_case {
    infos tensors;
    io::metadata_t metadata;
    std::string expected;
  };
  const std::vector<bad_case> cases = {
      {{{"x", io::dtype::f32, {5}}}, {}, "tensor 'x': expected two extents, found F32 [5]"},
      {{{"x", io::dtype::i64, {5, 3}}},
       {},
       "tensor 'x': expected F64, F32, F16 or BF16, found I64"},
      {{{"x", io::dtype::f32, {0, 3}}}, {}, "tensor 'x': has no rows: F32 [0, 3]"},
      {{{"x::gram", io::dtype::f32, {3, 4}}}, {}, "'x::gram': expected a square, found F32 [3, 4]"},
      {{{"x::gram", io::dtype::f32, {3}}}, {}, "expected a square"},
      {{{"x::factor", io::dtype::f32, {3}}}, {}, "'x::factor': expected two extents"},
      {{{"x::second_moment", io::dtype::f32, {3, 1}}}, {}, "expected one extent"},
      {{{"x::mean", io::dtype::f32, {3}}}, {}, "tensor 'x::mean': unknown statistics"},
      {{rows, gram}, {{"rows:x", "5"}}, "tensor 'x': has statistics of more than one form"},
      {{gram}, {}, "tensor 'x::gram': expected its row count in the metadata, under 'rows:x'"},
      {{gram}, {{"rows:x", ""}}, "tensor 'x::gram': the row count in the metadata"},
      {{gram}, {{"rows:x", "-1"}}, "expected a positive number, found '-1'"},
      {{gram}, {{"rows:x", "0"}}, "expected a positive number, found '0'"},
      {{gram}, {{"rows:x", "1.5"}}, "expected a positive number, found '1.5'"},
      {{gram}, {{"rows:x", "9999999999999999999"}}, "expected a positive number"},
      {{rows}, {{"rows:x", "6"}}, "tensor 'x': has 5 rows, the metadata says 6"},
      {{rows}, {{"rows:y", "6"}}, "tensor 'y': has a row count in the metadata, but no statistics"},
      {{rows}, {{"alias:y", "z"}}, "tensor 'y': is an alias of 'z', which has no statistics"},
      {{rows}, {{"alias:x", "x"}}, "tensor 'x': has statistics of its own and is an alias"},
      {{rows}, {{"alias:y", "z"}, {"alias:z", "x"}}, "(an alias of an alias is not allowed)"},
      {{rows}, {{"alias:y", "y"}}, "(an alias of an alias is not allowed)"},
      {{rows}, {{"alias:y", "z"}, {"alias:z", "y"}}, "(an alias of an alias is not allowed)"},
  };
  for (const bad_case& bad : cases) {
    CHECK_CONTAINS(files.open(bad.tensors, bad.metadata), bad.expected);
  }
  CHECK(files.open({rows}, {{"alias:y", "x"}}) == "");
}

TEST_CASE("statistics: the writer's files read back, and it refuses what the reader would") {
  const temporary_folder folder;
  const auto path = folder / "f";
  const std::vector<io::statistics_writer::declaration> declared = {
      {"x", form::rows, io::dtype::f32, {2, 1}, 2},
      {"g", form::gram, io::dtype::f16, {2, 2}, 9},
      {"s", form::second_moment, io::dtype::f64, {1}, 9}};
  io::statistics_writer writer(path, declared, {{"y", "g"}}, {{"model", "m"}});
  writer.write("g", bytes_of("12345678"));
  writer.append("x", bytes_of("abcd"));
  writer.append("x", bytes_of("efgh"));
  CHECK_CONTAINS(message_of([&] { writer.write("y", {}); }), "tensor 'y': was not declared");
  CHECK_CONTAINS(message_of([&] { writer.commit(); }),
                 "not written completely: 's::second_moment'");
  writer.write("s", bytes_of("12345678"));
  writer.commit();
  const io::statistics_file read(path);
  CHECK(read.names() == std::vector<std::string>{"s", "x", "g", "y"});
  CHECK(text_of(read.at("x").data->bytes) == "abcdefgh");
  CHECK(text_of(read.at("y").data->bytes) == "12345678");
  CHECK(read.at("y").row_count == 9);
  CHECK(io::safetensors_file(path).metadata().at("model") == "m");

  using declarations = std::vector<io::statistics_writer::declaration>;
  const auto refused = [&](const declarations& what,
                           const std::map<std::string, std::string>& aliases = {}) {
    return message_of([&] { io::statistics_writer(folder / "bad", what, aliases); });
  };
  CHECK_CONTAINS(refused({{"x", form::rows, io::dtype::f32, {2, 1}, 3}}), "the row count 3");
  CHECK_CONTAINS(refused({{"x", form::gram, io::dtype::f32, {2, 1}, 3}}), "expected a square");
  CHECK_CONTAINS(refused({{"x", form::gram, io::dtype::f32, {1, 1}, 0}}), "the row count 0");
  CHECK_CONTAINS(refused({{"x::gram", form::rows, io::dtype::f32, {1, 1}, 1}}), "contain '::'");
  CHECK_CONTAINS(refused({declared[0], {"x", form::gram, io::dtype::f32, {1, 1}, 1}}), "twice");
  CHECK_CONTAINS(refused({declared[0]}, {{"x", "x"}}), "tensor 'x': cannot be an alias");
  CHECK_CONTAINS(refused({declared[0]}, {{"y", "z"}}), "tensor 'y': cannot be an alias of 'z'");
  CHECK(folder.names() == std::vector<std::string>{"f"});
}
