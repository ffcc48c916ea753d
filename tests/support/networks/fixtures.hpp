// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <catmerge/error.hpp>
#include <catmerge/io/checkpoint.hpp>
#include <catmerge/io/safetensors_writer.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <harness/networks/checkpoint_weights.hpp>
#include <harness/networks/network.hpp>
#include <harness/networks/open_network.hpp>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

/// The fixtures of the networks, and files made from them.
namespace network_test {

namespace fs = std::filesystem;
namespace io = catmerge::io;
namespace harness = catmerge::harness;
using catmerge::index_t;

/// "clip_vision/grey": a folder under tests/fixtures.
inline fs::path fixture(const std::string& variant) {
  return fs::path(CATMERGE_FIXTURES) / variant;
}

/// A folder of this process, removed at the end.
class scratch_folder {
 public:
  scratch_folder()
      : path_(fs::temp_directory_path() / ("catmerge_network_" + std::to_string(::getpid()))) {
    fs::create_directories(path_);
  }
  scratch_folder(const scratch_folder&) = delete;
  scratch_folder& operator=(const scratch_folder&) = delete;
  ~scratch_folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  /// A path that was not given out before.
  fs::path file(const std::string& name) {
    return path_ / (std::to_string(number_++) + "_" + name);
  }

 private:
  fs::path path_;
  int number_ = 0;
};

inline scratch_folder& scratch() {
  static scratch_folder folder;
  return folder;
}

/// The tensors of a file in memory, to be changed and written again.
struct table {
  struct tensor {
    io::dtype type;
    io::shape_t shape;
    std::vector<std::byte> bytes;
  };
  std::map<std::string, tensor> tensors;
  io::metadata_t metadata;

  table() = default;
  explicit table(const fs::path& path) {
    const io::safetensors_file file(path);
    for (const io::tensor_entry& e : file.entries()) {
      tensors[e.name] = {e.type, e.shape, {e.bytes.begin(), e.bytes.end()}};
    }
    metadata = file.metadata();
  }

  template <class T>
  void set(const std::string& name, io::dtype type, io::shape_t shape,
           const std::vector<T>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    tensors[name] = {type, std::move(shape), {bytes.begin(), bytes.end()}};
  }

  void rename(const std::string& from, const std::string& to) {
    auto node = tensors.extract(from);
    node.key() = to;
    tensors.insert(std::move(node));
  }

  fs::path write(const std::string& name = "table.safetensors") const {
    const fs::path path = scratch().file(name);
    std::vector<io::tensor_info> infos;
    for (const auto& [key, t] : tensors) infos.push_back({key, t.type, t.shape});
    io::safetensors_writer writer(path, infos, metadata);
    for (const auto& [key, t] : tensors) writer.write(key, t.bytes);
    writer.commit();
    return path;
  }
};

/// A fixture's model, ready to run.
struct model {
  explicit model(const std::string& variant)
      : model(fixture(variant) / "model.safetensors", config_of(variant)) {}
  model(const fs::path& file, const fs::path& config)
      : checkpoint(file), net(harness::open_network(checkpoint, config)), weights(checkpoint) {}

  static fs::path config_of(const std::string& variant) {
    const fs::path file = fixture(variant) / "config.json";
    return fs::exists(file) ? file : fixture(variant) / "open_clip_config.json";
  }

  /// All samples of a file, the fixture's own.
  static harness::activations samples(const harness::network& net, const std::string& variant) {
    const auto reader = net.open_samples(fixture(variant) / "samples.safetensors");
    return reader->load(0, reader->size());
  }

  io::checkpoint checkpoint;
  std::unique_ptr<harness::network> net;
  harness::checkpoint_weights weights;
};

/// Keeps all that it is told.
struct keep_all : harness::recorder {
  struct record_t {
    std::vector<std::string> names;
    harness::matrix rows;
  };
  std::vector<record_t> records;
  void record(const std::vector<std::string>& names, harness::matrix rows) override {
    records.push_back({names, std::move(rows)});
  }
};

inline harness::matrix tensor_rows(const io::safetensors_file& file, const std::string& name) {
  const io::tensor_entry& e = file.at(name);
  const index_t columns = e.shape.back();
  index_t count = 1;
  for (const index_t extent : e.shape) count *= extent;
  harness::matrix values(count / columns, columns);
  harness::read_floats(e, file.path(), 0, values.size(), values.data());
  return values;
}

inline double largest_difference(const harness::matrix& a, const harness::matrix& b) {
  REQUIRE(a.rows() == b.rows());
  REQUIRE(a.cols() == b.cols());
  return (a.cast<double>() - b.cast<double>()).cwiseAbs().maxCoeff();
}

inline bool same_bits(const harness::matrix& a, const harness::matrix& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(float)) == 0;
}

/// Task i runs on thread i % threads.
inline catmerge::executor on_threads(int threads) {
  return [threads](index_t count, const std::function<void(index_t)>& task) {
    std::vector<std::thread> pool;
    for (int t = 0; t < threads; ++t) {
      pool.emplace_back([&, t] {
        for (index_t i = t; i < count; i += threads) task(i);
      });
    }
    for (std::thread& each : pool) each.join();
  };
}

/// The message of the catmerge::error that `act` throws; empty (and a failure) if it throws none.
template <class Act>
std::string message_of(const Act& act) {
  try {
    act();
  } catch (const catmerge::error& problem) {
    return problem.what();
  }
  FAIL_CHECK("no catmerge::error was thrown");
  return {};
}

/// Checks that the message has all of these parts.
inline void check_message(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    CAPTURE(message);
    CAPTURE(part);
    CHECK(message.find(part) != std::string::npos);
  }
}

}  // namespace network_test
