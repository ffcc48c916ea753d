// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <doctest/doctest.h>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <catmerge/io/safetensors.hpp>
#include <catmerge/io/safetensors_writer.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "support/files.hpp"

/// Helpers of the tests that run the program: its start, files of tensors, a small family of CLIPs.
namespace harness_test {

namespace fs = std::filesystem;
namespace io = catmerge::io;
using catmerge::index_t;
using io::dtype;
using io_test::contains;
using io_test::get;
using io_test::put;
using io_test::temporary_folder;
using json = nlohmann::json;

// ---------------------------------------------------------------- the program

struct outcome {
  int status = -1;  ///< of exit; -1 if a signal ended it
  std::string out, err;
};

struct surroundings {
  rlim_t file_size_limit = RLIM_INFINITY;
  bool terminal = false;     ///< standard error is a terminal
  std::string out_to;        ///< a file for the standard output
  bool own_default = false;  ///< the program's own default of --method
};

using arguments = std::vector<std::string>;

inline arguments operator+(arguments a, const arguments& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

namespace detail {
inline std::string all_of(int descriptor) {
  std::string text;
  char block[4096];
  for (ssize_t n; (n = ::read(descriptor, block, sizeof block)) > 0;) {
    text.append(block, static_cast<std::size_t>(n));
  }
  ::close(descriptor);
  return text;
}
}  // namespace detail

/// Runs the program and waits for its end. A merge without --method is one by CAT, unless the
/// surroundings leave the program its own default.
inline outcome run(const arguments& given, const surroundings& how = {}) {
  std::string program = CATMERGE_PROGRAM;
  std::vector<std::string> words = given;
  if (!how.own_default && !words.empty() && words.front() == "merge" &&
      std::find(words.begin(), words.end(), "--method") == words.end())
    words.insert(words.begin() + 1, {"--method", "cat"});
  std::vector<char*> argv{program.data()};
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const int out = how.out_to.empty() ? ::memfd_create("out", MFD_CLOEXEC)
                                     : ::open(how.out_to.c_str(), O_WRONLY | O_CLOEXEC);
  int err = -1, terminal = -1;
  if (how.terminal) {
    terminal = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    REQUIRE(terminal >= 0);
    REQUIRE(::grantpt(terminal) == 0);
    REQUIRE(::unlockpt(terminal) == 0);
    err = ::open(::ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
  } else {
    err = ::memfd_create("err", MFD_CLOEXEC);
  }
  REQUIRE(out >= 0);
  REQUIRE(err >= 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::dup2(::open("/dev/null", O_RDONLY | O_CLOEXEC), STDIN_FILENO);
    ::dup2(out, STDOUT_FILENO);
    ::dup2(err, STDERR_FILENO);
    if (how.file_size_limit != RLIM_INFINITY) {
      const rlimit limit{how.file_size_limit, how.file_size_limit};
      ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  outcome result;
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  if (WIFEXITED(status)) result.status = WEXITSTATUS(status);
  if (how.out_to.empty()) {
    ::lseek(out, 0, SEEK_SET);
    result.out = detail::all_of(out);
  } else {
    ::close(out);
  }
  if (how.terminal) {
    ::close(err);
    result.err = detail::all_of(terminal);
  } else {
    ::lseek(err, 0, SEEK_SET);
    result.err = detail::all_of(err);
  }
  return result;
}

/// Whether a run that succeeds has something to say on standard error.
enum class warning { none, some, any };

/// Runs the program and expects success.
inline outcome run_well(const arguments& given, warning expected = warning::none) {
  outcome result = run(given);
  CAPTURE(result.err);
  REQUIRE(result.status == 0);
  if (expected != warning::any) CHECK(result.err.empty() == (expected == warning::none));
  return result;
}

// ---------------------------------------------------------------- numbers

/// Half precision, written down from IEEE 754: independent of the library.
inline std::uint16_t half_bits(double x) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(x) ? 0x8000 : 0);
  const double a = std::fabs(x);
  if (a == 0) return sign;
  int exponent = std::max(std::ilogb(a), -14);
  double steps = std::nearbyint(std::ldexp(a, 10 - exponent));  // ties to even
  if (steps == 2048) steps = 1024, ++exponent;
  if (exponent > 15) return static_cast<std::uint16_t>(sign | 0x7c00);
  const int digits = static_cast<int>(steps);
  return static_cast<std::uint16_t>(
      sign | (digits >= 1024 ? ((exponent + 15) << 10) | (digits - 1024) : digits));
}

inline double half_value(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, digits = bits & 1023;
  const double a =
      exponent == 0 ? std::ldexp(digits, -24) : std::ldexp(1024 + digits, exponent - 25);
  return bits & 0x8000 ? -a : a;
}

inline std::uint16_t bfloat_bits(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline double bfloat_value(std::uint16_t bits) {
  return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16));
}

/// The value as a file of that type holds it.
inline double rounded(double x, dtype type) {
  switch (type) {
    case dtype::f64: return x;
    case dtype::f16: return half_value(half_bits(x));
    case dtype::bf16: return bfloat_value(bfloat_bits(static_cast<float>(x)));
    default: return static_cast<double>(static_cast<float>(x));
  }
}

/// Seeded values in (-size, size), the same everywhere.
class noise {
 public:
  explicit noise(unsigned seed) : random_(seed) {}
  double operator()(double size = 1) {
    return size * (static_cast<double>(random_()) / 0x1p31 - 1);
  }

 private:
  std::mt19937 random_;
};

// ---------------------------------------------------------------- files of tensors

using values_t = std::vector<double>;

/// The tensors of a safetensors file in memory, to be read, changed and written again.
struct table {
  struct tensor {
    dtype type;
    io::shape_t shape;
    std::string bytes;
  };
  std::map<std::string, tensor> tensors;
  io::metadata_t metadata;

  table() = default;
  explicit table(const fs::path& path) {
    const io::safetensors_file file(path);
    for (const auto& e : file.entries()) {
      tensors[e.name] = {e.type, e.shape, io_test::text_of(e.bytes)};
    }
    metadata = file.metadata();
  }

  bool has(const std::string& name) const { return tensors.contains(name); }
  const tensor& at(const std::string& name) const {
    CAPTURE(name);
    REQUIRE(has(name));
    return tensors.at(name);
  }

  values_t values(const std::string& name) const {
    const tensor& t = at(name);
    const auto each = [&]<class T>(T, auto&& value) {
      values_t list(t.bytes.size() / sizeof(T));
      for (std::size_t i = 0; i < list.size(); ++i) {
        T x;
        std::memcpy(&x, t.bytes.data() + i * sizeof(T), sizeof(T));
        list[i] = value(x);
      }
      return list;
    };
    switch (t.type) {
      case dtype::f64: return each(double{}, [](double x) { return x; });
      case dtype::f32: return each(float{}, [](float x) { return static_cast<double>(x); });
      case dtype::f16: return each(std::uint16_t{}, half_value);
      case dtype::bf16: return each(std::uint16_t{}, bfloat_value);
      case dtype::u8:
        return each(std::uint8_t{}, [](std::uint8_t x) { return static_cast<double>(x); });
      case dtype::i64:
        return each(std::int64_t{}, [](std::int64_t x) { return static_cast<double>(x); });
      default: FAIL("no tensor of numbers that this reads: " << name);
    }
    return {};
  }

  void set(const std::string& name, dtype type, io::shape_t shape, const values_t& values) {
    tensor t{type, std::move(shape), {}};
    const auto add = [&](const auto& x) {
      t.bytes.append(reinterpret_cast<const char*>(&x), sizeof x);
    };
    for (const double x : values) switch (type) {
        case dtype::f64: add(x); break;
        case dtype::f32: add(static_cast<float>(x)); break;
        case dtype::f16: add(half_bits(x)); break;
        case dtype::bf16: add(bfloat_bits(static_cast<float>(x))); break;
        case dtype::i64: add(static_cast<std::int64_t>(x)); break;
        case dtype::i32: add(static_cast<std::int32_t>(x)); break;
        default: add(static_cast<std::uint8_t>(x)); break;
      }
    tensors[name] = std::move(t);
  }

  /// The same values in another type, with this shape or the one it has.
  void retype(const std::string& name, dtype type) {
    set(name, type, at(name).shape, values(name));
  }
  void retype_all(dtype type) {
    for (auto& [name, t] : tensors)
      if (io::scalar_of(t.type)) retype(name, type);
  }

  void poke(const std::string& name, std::size_t where, double value) {
    const tensor t = at(name);
    values_t list = values(name);
    list.at(where) = value;
    set(name, t.type, t.shape, list);
  }

  fs::path write(const fs::path& path) const {
    std::vector<io::tensor_info> infos;
    for (const auto& [name, t] : tensors) infos.push_back({name, t.type, t.shape});
    io::safetensors_writer writer(path, infos, metadata);
    for (const auto& [name, t] : tensors) writer.write(name, io_test::bytes_of(t.bytes));
    writer.commit();
    return path;
  }
};

inline bool is_float(const table::tensor& t) {
  return io::scalar_of(t.type).has_value();
}

/// Every file of a folder and of those inside it, with its bytes.
inline std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const std::string name = entry.path().lexically_relative(folder).string();
    files[name] = entry.is_regular_file() ? get(entry.path()) : "(folder)";
  }
  return files;
}

// ---------------------------------------------------------------- the family

inline fs::path fixture(const std::string& file) {
  return fs::path(CATMERGE_FIXTURES) / "clip_vision" / "projected" / file;
}

inline const std::vector<std::string> task_names = {"a", "b", "c"};
inline const std::string layer0 = "vision_model.encoder.layers.0.";
inline const std::string layer1 = "vision_model.encoder.layers.1.";
inline const std::string q0 = layer0 + "self_attn.q_proj.weight";
inline const std::string gamma0 = layer0 + "layer_norm1.weight";

/// A small CLIP with three experts, their samples and, once asked for, their features. Inputs are
/// only read; outputs have a folder of their own.
class family {
 public:
  family() {
    fs::create_directory(in());
    fs::create_directory(out());
    fs::copy_file(fixture("config.json"), in() / "config.json");
    base_ = table(fixture("model.safetensors"));
    values_t ids(10);
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<double>(i);
    base_.set("vision_model.embeddings.position_ids", dtype::i64, {1, 10}, ids);
    base_.set("flags", dtype::boolean, {5}, {1, 0, 1, 1, 0});
    base_.write(in() / "base.safetensors");
    // Rows of layers 24 and 40 wide: 30 (a Gram matrix or rows), 50 (Gram matrices), 20 (rows).
    fs::copy_file(fixture("samples.safetensors"), samples("a"));
    unsigned seed = 1;
    for (const auto& task : task_names) {
      noise n(seed++);
      table expert = base_;
      for (auto& [name, t] : base_.tensors) {
        if (!is_float(t)) continue;
        values_t values = base_.values(name);
        for (double& x : values) x += n(0.05);
        expert.set(name, t.type, t.shape, values);
      }
      expert.write(model(task));
      experts_[task] = std::move(expert);
      if (task != "a") write_samples(samples(task), task == "b" ? 5 : 2, seed + 100);
    }
  }

  fs::path in() const { return folder_ / "in"; }
  fs::path out() const { return folder_ / "out"; }
  /// A path in the folder of outputs that was not given out before.
  fs::path fresh(const std::string& name = "merged.safetensors") {
    return out() / (std::to_string(number_++) + "_" + name);
  }

  fs::path base_path() const { return in() / "base.safetensors"; }
  fs::path config() const { return in() / "config.json"; }
  fs::path model(const std::string& task) const {
    return in() / ("expert_" + task + ".safetensors");
  }
  fs::path samples(const std::string& task) const {
    return in() / ("samples_" + task + ".safetensors");
  }
  /// Made by `catmerge features` when it is first asked for.
  fs::path features(const std::string& task) {
    const fs::path path = in() / ("features_" + task + ".safetensors");
    if (!fs::exists(path)) {
      run_well({"features", "--model", model(task), "--samples", samples(task), "--config",
                config(), "--output", path});
    }
    return path;
  }

  const table& base() const { return base_; }
  const table& expert(const std::string& task) const { return experts_.at(task); }

  static void write_samples(const fs::path& path, index_t count, unsigned seed) {
    noise n(seed);
    values_t pixels(static_cast<std::size_t>(count * 3 * 12 * 12));
    for (double& x : pixels) x = n(2);
    table t;
    t.set("pixel_values", dtype::f32, {count, 3, 12, 12}, pixels);
    t.write(path);
  }

  // Parts of command lines.
  arguments merge(const fs::path& output,
                  const std::vector<std::string>& tasks = task_names) const {
    arguments list = {"merge", "--base", base_path(), "--output", output};
    for (const auto& task : tasks)
      list = list + arguments{"--expert", task + "=" + model(task).string()};
    return list;
  }
  arguments with_features(const std::vector<std::string>& tasks = task_names) {
    arguments list;
    for (const auto& task : tasks)
      list = list + arguments{"--features", task + "=" + features(task).string()};
    return list;
  }
  arguments with_samples(const std::vector<std::string>& tasks = task_names) const {
    arguments list = {"--config", config()};
    for (const auto& task : tasks)
      list = list + arguments{"--samples", task + "=" + samples(task).string()};
    return list;
  }

 private:
  temporary_folder folder_;
  table base_;
  std::map<std::string, table> experts_;
  int number_ = 0;
};

inline family& clips() {
  static family f;
  return f;
}

/// The program's output for these arguments, which must not fail.
inline table merged(const arguments& options, const std::vector<std::string>& tasks = task_names,
                    warning expected = warning::none) {
  const fs::path path = clips().fresh();
  run_well(clips().merge(path, tasks) + options, expected);
  return table(path);
}

inline std::string merged_bytes(const arguments& options) {
  const fs::path path = clips().fresh();
  run_well(clips().merge(path) + options);
  return get(path);
}

inline double largest_difference(const values_t& a, const values_t& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::fabs(a[i] - b[i]);
    if (!(d <= most)) most = d;  // also if d is no number
  }
  return most;
}

}  // namespace harness_test
