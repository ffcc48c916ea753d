// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <catmerge/tensor/host/strided_view.hpp>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <limits>
#include <map>

/// Measures of the suites: the quickest of several calls, and memcpy.
namespace catmerge_benchmark {

/// The quickest of several calls by wall time: a busy machine disturbs it least. (Processor time of
/// a short call can be zero on a virtual machine.)
class quickest {
 public:
  template <class F>
  void operator()(const F& f) {
    const auto start = std::chrono::steady_clock::now();
    f();
    benchmark::ClobberMemory();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    total_ += taken.count();
    best_ = std::min(best_, taken.count());
  }

  double seconds() const { return best_; }  ///< of the quickest
  double total() const { return total_; }   ///< of all

 private:
  double best_ = std::numeric_limits<double>::infinity(), total_ = 0;
};

/// Runs f in every iteration of a benchmark. Returns the seconds of the quickest.
template <class F>
double timed(benchmark::State& state, const F& f) {
  quickest best;
  for (auto _ : state) best(f);
  return best.seconds();
}

/// Seconds of the quickest of some calls: at least eight, and 0.2 s of them.
template <class F>
double quickest_of(const F& f) {
  quickest best;
  for (int count = 0; count < 8 || best.total() < 0.2; ++count) best(f);
  return best.seconds();
}

/// The seconds in which memcpy reads half of these bytes and writes them as the other half.
/// Measured once per number of bytes.
inline double memcpy_seconds(double bytes) {
  static std::map<double, double> cache;
  double& seconds = cache[bytes];
  if (seconds > 0) return seconds;
  const auto half = static_cast<std::size_t>(bytes / 2) + 1;
  const auto floats = static_cast<catmerge::index_t>(half / sizeof(float) + 1);
  const catmerge::host_matrix from(catmerge::scalar_type::f32, 1, floats);
  catmerge::host_matrix to(catmerge::scalar_type::f32, 1, floats);
  const std::size_t copies = std::max<std::size_t>(1, (std::size_t{1} << 20) / half);
  const double all = quickest_of([&] {
    for (std::size_t i = 0; i < copies; ++i) {
      std::memcpy(to.data<float>(), from.data<float>(), half);
      benchmark::ClobberMemory();
    }
  });
  return seconds = all / static_cast<double>(copies);
}

/// Reports `bytes` read and written per iteration; `seconds` is the quickest.
inline void report_bytes(benchmark::State& state, double bytes, double seconds) {
  state.counters["bytes"] =
      benchmark::Counter(bytes, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["of_memcpy"] = memcpy_seconds(bytes) / seconds;
}

/// Runs the registered benchmarks: the main of every suite.
inline int run_registered(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace catmerge_benchmark
