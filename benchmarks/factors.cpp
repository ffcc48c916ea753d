// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// CAT of eight LoRA adapters of rank 16 in their factors, on the linear layers of a Llama of 7
// billion parameters (32 blocks of seven), with 64 rows of features a task, on two threads: each
// shape alone, all 224 layers one after the other, and the dense way on one layer. See README.md in
// this folder.

#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include <catmerge/catmerge.hpp>
#include <catmerge/methods.hpp>
#include <harness/system/pool.hpp>
#include <string>
#include <vector>

#include "layers.hpp"
#include "measure.hpp"

namespace {

using namespace catmerge_benchmark;
using context = catmerge::context<catmerge::host>;
using adapter = catmerge::factored_vector<matrix, matrix>;

constexpr index_t tasks = 8, rank = 16, rows = 64;
constexpr unsigned threads = 2;

/// The adapters of one layer.
struct adapter_layer {
  adapter_layer(index_t d_out, index_t d_in, std::uint64_t seed) {
    std::uint64_t next = seed * 1'000'003;
    const auto random = [&](index_t m, index_t n) {
      return uniform(m, n, next += 0x51ED270B7F4A7C15);
    };
    for (index_t k = 0; k < tasks; ++k) {
      vectors.push_back({0.01F * random(d_out, rank), 0.01F * random(rank, d_in), 2.0});
      features.push_back(random(rows, d_in));
    }
  }

  std::vector<adapter> vectors;
  std::vector<matrix> features;
};

/// Peak memory of this process so far, MB.
double peak_megabytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

struct shape {
  const char* name;
  index_t d_out, d_in;
  int in_a_block;
};
constexpr shape shapes[] = {
    {"4096x4096", 4096, 4096, 4}, {"11008x4096", 11008, 4096, 2}, {"4096x11008", 4096, 11008, 1}};

catmerge::cat_options settings() {
  catmerge::cat_options options;
  options.linear.lambda = 1;
  return options;
}

void one_layer(benchmark::State& state, const shape& s) {
  catmerge::harness::pool pool(threads);
  context c(pool.runner());
  const adapter_layer layer(s.d_out, s.d_in, 1);
  timed(state, [&] {
    benchmark::DoNotOptimize(
        catmerge::cat_factors(layer.vectors, layer.features, settings(), c).merged);
  });
}

/// All layers of the network, each read as if from a file and merged.
void network(benchmark::State& state) {
  catmerge::harness::pool pool(threads);
  context c(pool.runner());
  for (auto _ : state)
    for (std::uint64_t block = 0; block < 32; ++block)
      for (const shape& s : shapes)
        for (int i = 0; i < s.in_a_block; ++i) {
          state.PauseTiming();
          const adapter_layer layer(s.d_out, s.d_in, 7 * block + static_cast<std::uint64_t>(i));
          state.ResumeTiming();
          benchmark::DoNotOptimize(
              catmerge::cat_factors(layer.vectors, layer.features, settings(), c).merged);
        }
  state.counters["peak_MB"] = peak_megabytes();
}

/// One layer by CAT on the products, which are formed before. `speedup`: its seconds over those in
/// factors; `apart`: the distance of both results, relative to the sum of the vectors' norms.
void dense_layer(benchmark::State& state, const shape& s) {
  catmerge::harness::pool pool(threads);
  context c(pool.runner());
  const adapter_layer layer(s.d_out, s.d_in, 1);
  const double factored = quickest_of([&] {
    benchmark::DoNotOptimize(
        catmerge::cat_factors(layer.vectors, layer.features, settings(), c).merged);
  });
  std::vector<matrix> vectors;
  double size = 0;
  for (const auto& v : layer.vectors) {
    vectors.push_back(catmerge::dense_vector(v, c));
    size += vectors.back().norm();
  }
  const matrix zero = matrix::Zero(s.d_out, s.d_in);
  matrix merged;
  const double seconds = timed(state, [&] {
    merged = catmerge::cat_linear(zero, vectors, layer.features, settings(), c).merged;
  });
  const auto in_factors = catmerge::cat_factors(layer.vectors, layer.features, settings(), c);
  catmerge::add_factors(merged, in_factors.merged, -1, c);
  state.counters["speedup"] = seconds / factored;
  state.counters["apart"] = merged.norm() / size;
  state.counters["peak_MB"] = peak_megabytes();
}

}  // namespace

int main(int argc, char** argv) {
  for (const shape& s : shapes)
    benchmark::RegisterBenchmark((std::string("factors/") + s.name).c_str(), one_layer, s)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("factors/network", network)
      ->UseRealTime()
      ->Unit(benchmark::kSecond)
      ->Iterations(1);
  for (const shape& s : {shapes[0], shapes[1]})
    benchmark::RegisterBenchmark((std::string("dense/") + s.name).c_str(), dense_layer, s)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond)
        ->Iterations(1);
  return run_registered(argc, argv);
}
