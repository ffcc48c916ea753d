// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// The cost of files: writing and reading checkpoints, converting values, parsing headers, beside
// memcpy of as many bytes in the same run. Files lie in a folder of their own under TMPDIR. They
// are read right after writing and so come from the system's cache. See README.md in this folder.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <bit>
#include <catmerge/io/checkpoint.hpp>
#include <catmerge/io/checkpoint_writer.hpp>
#include <catmerge/io/convert.hpp>
#include <catmerge/io/npy.hpp>
#include <catmerge/io/output_file.hpp>
#include <catmerge/io/safetensors_header.hpp>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "measure.hpp"
#include "temporary_folder.hpp"

namespace {

using namespace catmerge_benchmark;
using catmerge::index_t;
using catmerge::scalar_type;
namespace fs = std::filesystem;
namespace io = catmerge::io;

// ---- the folder and its files ----

/// The folder, made at its first use and removed however the program exits.
const fs::path& folder() {
  static const temporary_folder temporary(fs::temp_directory_path());
  return temporary.path();
}

constexpr std::size_t megabytes_64 = std::size_t{1} << 26;
constexpr index_t side = 1024;  // of every tensor
constexpr std::size_t tensor_size = std::size_t{side} * side;

/// A million numbers in [-1, 1).
const std::vector<float>& numbers() {
  static const std::vector<float> values = [] {
    std::vector<float> all(tensor_size);
    std::uint32_t state = 1;
    for (float& x : all) {
      state = state * 1664525U + 1013904223U;  // Numerical Recipes' generator
      x = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31F;
    }
    return all;
  }();
  return values;
}

/// Memory for so many values, in large pages like those of memcpy.
class buffer {
 public:
  buffer(scalar_type type, std::size_t count)
      : memory_(type, 1, static_cast<index_t>(count)), size_(count * size_of(type)) {}
  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(all_.writable()), size_}; }

 private:
  catmerge::host_matrix memory_;
  catmerge::host_view all_ = memory_;
  std::size_t size_;
};

/// The first `count` numbers, repeated as needed, in a type.
buffer values_of(scalar_type type, std::size_t count) {
  buffer result(type, count);
  for (std::size_t first = 0; first < count; first += tensor_size) {
    const std::size_t n = std::min(tensor_size, count - first);
    io::convert(std::span<const float>(numbers()).first(n),
                result.bytes().subspan(first * size_of(type), n * size_of(type)), type);
  }
  return result;
}

/// Tensors of 64 MiB in all.
std::vector<io::tensor_info> tensors_of(scalar_type type) {
  std::vector<io::tensor_info> tensors;
  for (std::size_t i = 0; i < megabytes_64 / (tensor_size * size_of(type)); ++i)
    tensors.push_back({std::string("layers.").append(std::to_string(i)).append(".weight"),
                       io::dtype_of(type),
                       {side, side}});
  return tensors;
}

/// Writes those tensors from floats, as a merge does.
void write_checkpoint(const fs::path& path, scalar_type type) {
  const auto tensors = tensors_of(type);
  io::checkpoint_writer::options options;
  options.target = io::existing::replace;
  io::checkpoint_writer writer(path, tensors, options);
  const buffer block(type, tensor_size);
  for (const auto& tensor : tensors) {
    if (type == scalar_type::f32) {
      writer.write(tensor.name, std::as_bytes(std::span(numbers())));
      continue;
    }
    io::convert(std::span<const float>(numbers()), block.bytes(), type);
    writer.write(tensor.name, block.bytes());
  }
  writer.commit();
}

/// A checkpoint of 64 MiB, written once.
fs::path checkpoint_of(scalar_type type) {
  const fs::path path = folder() / std::string(name_of(type)).append(".safetensors");
  if (!fs::exists(path)) write_checkpoint(path, type);
  return path;
}

// ---- the benchmarks ----

/// Not the library's: the system's time to write 64 MiB to a file and to the disk.
void write_plain(benchmark::State& state) {
  const auto values = values_of(scalar_type::f32, megabytes_64 / sizeof(float));
  const fs::path path = folder() / "plain";
  const auto once = [&] {
    io::output_file file(path);
    file.write_at(0, values.bytes());
    file.close();
  };
  once();  // the first call makes the system allocate memory
  quickest best;
  for (auto _ : state) {
    fs::remove(path);
    best(once);
  }
  fs::remove(path);
  report_bytes(state, 2.0 * megabytes_64, best.seconds());
}

/// From floats to a file of 64 MiB, on the disk.
void write(benchmark::State& state, scalar_type type) {
  const fs::path path = folder() / "written.safetensors";
  write_checkpoint(path, type);
  const double seconds = timed(state, [&] { write_checkpoint(path, type); });
  fs::remove(path);
  report_bytes(state, megabytes_64 * (1 + 4.0 / static_cast<double>(size_of(type))), seconds);
}

/// Opens a file of 64 MiB and reads all of it as floats.
void read(benchmark::State& state, scalar_type type) {
  const fs::path path = checkpoint_of(type);
  const buffer values(scalar_type::f32, megabytes_64 / size_of(type));
  const double seconds = timed(state, [&] {
    const io::checkpoint file(path);
    auto rest = values.bytes();
    for (const auto& name : file.names()) {
      const std::size_t size = tensor_size * sizeof(float);
      io::convert(file.at(name).bytes, type, rest.first(size), scalar_type::f32);
      rest = rest.subspan(size);
    }
  });
  report_bytes(state, megabytes_64 * (1 + 4.0 / static_cast<double>(size_of(type))), seconds);
}

/// Opens a file of 64 MiB and adds up all of its words in place.
void read_in_place(benchmark::State& state) {
  const fs::path path = checkpoint_of(scalar_type::f32);
  const double seconds = timed(state, [&] {
    const io::checkpoint file(path);
    std::uint32_t sum = 0;
    for (const auto& name : file.names())
      for (const float x : io::values_of<float>(file.at(name)))
        sum += std::bit_cast<std::uint32_t>(x);
    benchmark::DoNotOptimize(sum);
  });
  report_bytes(state, megabytes_64, seconds);
}

/// A block of values into another type.
void convert(benchmark::State& state, scalar_type from, scalar_type to, std::size_t count) {
  const buffer values = values_of(from, count), result(to, count);
  const double seconds =
      timed(state, [&] { io::convert(values.bytes(), from, result.bytes(), to); });
  report_bytes(state, static_cast<double>(count * (size_of(from) + size_of(to))), seconds);
}

/// A number of small tensors with the names of a mixture of experts.
std::vector<io::tensor_info> tensors_of_many(std::int64_t count) {
  std::vector<io::tensor_info> tensors;
  for (std::int64_t i = 0; i < count; ++i)
    tensors.push_back({std::string("model.layers.")
                           .append(std::to_string(i / 384))
                           .append(".mlp.experts.")
                           .append(std::to_string(i % 384))
                           .append(".w"),
                       io::dtype::f32,
                       {4, 4}});
  return tensors;
}

/// Writes them to a file or, with a limit of a shard's size, to a folder.
void write_many(const fs::path& path, std::int64_t count, std::uint64_t most_in_shard) {
  const auto tensors = tensors_of_many(count);
  io::checkpoint_writer::options options;
  options.target = io::existing::replace;
  if (most_in_shard != 0) options.format = io::checkpoint_format::hugging_face_folder;
  options.most_in_shard = most_in_shard;
  io::checkpoint_writer writer(path, tensors, options);
  for (const auto& tensor : tensors)
    writer.write(tensor.name, std::as_bytes(std::span(numbers()).first(16)));
  writer.commit();
}

constexpr std::uint64_t values_of_many = 16 * sizeof(float);  // bytes of each tensor
constexpr int shards_of_many = 32;

/// A file of `count` small tensors, written once.
fs::path checkpoint_of_many(std::int64_t count) {
  fs::path path = folder() / std::string("many-").append(std::to_string(count));
  if (!fs::exists(path)) write_many(path, count, 0);
  return path;
}

/// A folder of 32 shards and their index, written once.
fs::path shards_of(std::int64_t count) {
  fs::path path = folder() / std::string("shards-").append(std::to_string(count));
  if (!fs::exists(path))
    write_many(path, count, values_of_many * static_cast<std::uint64_t>(count) / shards_of_many);
  return path;
}

/// Counters of headers: bytes, and tensors per second. A linear cost has the same rate for all
/// counts.
void report_header(benchmark::State& state, std::uintmax_t bytes, double seconds) {
  report_bytes(state, static_cast<double>(bytes), seconds);
  state.counters["tensors"] = benchmark::Counter(static_cast<double>(state.range(0)),
                                                 benchmark::Counter::kIsIterationInvariantRate);
}

std::uintmax_t header_size(const fs::path& file, std::int64_t count) {
  return fs::file_size(file) - static_cast<std::uint64_t>(count) * values_of_many;
}

/// The header of many tensors, in memory.
void parse_header(benchmark::State& state) {
  const fs::path path = checkpoint_of_many(state.range(0));
  const io::mapped_file file(path);
  const double seconds =
      timed(state, [&] { benchmark::DoNotOptimize(io::parse_safetensors(file.bytes(), path)); });
  report_header(state, header_size(path, state.range(0)), seconds);
}

/// The whole checkpoint of many tensors, opened.
void open(benchmark::State& state) {
  const fs::path path = checkpoint_of_many(state.range(0));
  const double seconds = timed(state, [&] { benchmark::DoNotOptimize(io::checkpoint(path)); });
  report_header(state, header_size(path, state.range(0)), seconds);
}

/// The same in shards.
void open_shards(benchmark::State& state) {
  const fs::path path = shards_of(state.range(0));
  const double seconds = timed(state, [&] { benchmark::DoNotOptimize(io::checkpoint(path)); });
  report_header(state, header_size(checkpoint_of_many(state.range(0)), state.range(0)), seconds);
}

/// The index of the shards.
void read_index(benchmark::State& state) {
  const fs::path path = shards_of(state.range(0)) / "model.safetensors.index.json";
  const double seconds =
      timed(state, [&] { benchmark::DoNotOptimize(io::read_shard_index(path)); });
  report_header(state, fs::file_size(path), seconds);
}

/// Many tensors to a file on the disk, each by itself.
void write_small(benchmark::State& state) {
  const fs::path path = folder() / "written-many";
  const double seconds = timed(state, [&] { write_many(path, state.range(0), 0); });
  report_header(state, fs::file_size(path), seconds);
  fs::remove(path);
}

/// The same to 32 shards and their index.
void write_small_shards(benchmark::State& state) {
  const fs::path path = folder() / "written-shards";
  const auto count = static_cast<std::uint64_t>(state.range(0));
  const double seconds = timed(
      state, [&] { write_many(path, state.range(0), values_of_many * count / shards_of_many); });
  report_header(state, fs::file_size(checkpoint_of_many(state.range(0))), seconds);
  fs::remove_all(path);
}

/// An array of 64 MiB in a .npy file, written once.
fs::path array_of(bool column_major) {
  fs::path path = folder() / (column_major ? "columns.npy" : "rows.npy");
  if (fs::exists(path)) return path;
  const io::tensor_info info{"array", io::dtype::f32, {4 * side, 4 * side}};
  std::string header = io::make_npy_header(info, path);
  if (column_major) header.replace(header.find("False"), 5, "True ");
  const auto values = values_of(scalar_type::f32, megabytes_64 / sizeof(float));
  io::output_file file(path);
  file.write_at(0, std::as_bytes(std::span(header)));
  file.write_at(header.size(), values.bytes());
  file.close();
  return path;
}

/// Opens an array and reads all of it. (A column-major one is copied as it is opened.)
void read_npy(benchmark::State& state, bool column_major) {
  const fs::path path = array_of(column_major);
  const buffer values(scalar_type::f32, megabytes_64 / sizeof(float));
  const double seconds = timed(state, [&] {
    const io::npy_file file(path, "array");
    if (!file.is_copy())
      io::convert(file.entry().bytes, scalar_type::f32, values.bytes(), scalar_type::f32);
    benchmark::DoNotOptimize(file.entry().bytes[0]);
  });
  report_bytes(state, 2.0 * megabytes_64, seconds);
}

// ---- names ----

bool failed = false;

/// Registers f(state, arguments...). A failure ends the benchmark and not the program, which must
/// remove its folder. Rates use wall time, which includes waiting for files.
template <class... Arguments>
benchmark::internal::Benchmark* add(const std::string& name,
                                    void (*f)(benchmark::State&, Arguments...),
                                    std::type_identity_t<Arguments>... arguments) {
  return benchmark::RegisterBenchmark(name.c_str(),
                                      [=](benchmark::State& state) {
                                        try {
                                          f(state, arguments...);
                                        } catch (const std::exception& e) {
                                          failed = true;
                                          state.SkipWithError(e.what());
                                        }
                                      })
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime();
}

std::string short_name(scalar_type type) {
  return std::string(io::name_of(io::dtype_of(type)));
}

void add_all() {
  constexpr auto f64 = scalar_type::f64, f32 = scalar_type::f32, f16 = scalar_type::f16,
                 bf16 = scalar_type::bf16;
  // (Appended: GCC 12 warns wrongly of "text" + std::string, GCC bug 105651.)
  add("write_plain/64MiB", write_plain);
  for (const auto type : {f32, f16, bf16})
    add(std::string("write/").append(short_name(type)).append("/64MiB"), write, type);
  for (const auto type : {f32, f16, bf16})
    add(std::string("read/").append(short_name(type)).append("/64MiB"), read, type);
  add("read_in_place/F32/64MiB", read_in_place);
  for (const auto& [from, to] :
       {std::pair(f16, f32), {bf16, f32}, {f32, f16}, {f32, bf16}, {f64, f32}, {f32, f32}})
    for (const std::size_t thousands : {16U, 16384U}) {
      const std::string name = std::string("convert/")
                                   .append(short_name(from))
                                   .append("_to_")
                                   .append(short_name(to))
                                   .append("/values:")
                                   .append(std::to_string(1024 * thousands));
      add(name, convert, from, to, 1024 * thousands);
    }
  const auto curve = [](benchmark::internal::Benchmark* each) {
    each->ArgName("tensors")->Arg(1000)->Arg(10'000)->Arg(100'000);
  };
  curve(add("parse_header", parse_header));
  curve(add("open", open));
  curve(add("open_shards", open_shards));
  curve(add("read_index", read_index));
  curve(add("write_small", write_small));
  curve(add("write_small_shards", write_small_shards));
  add("read_npy/row_major/64MiB", read_npy, false);
  add("read_npy/column_major/64MiB", read_npy, true);
}

}  // namespace

int main(int argc, char** argv) {
  add_all();
  const int code = run_registered(argc, argv);
  return failed ? 1 : code;
}
