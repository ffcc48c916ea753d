// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// Every merging method on one linear layer of ViT-B/32, 768 x 768, of eight experts with 100 rows
// of features each, beside Task Arithmetic. One thread. See README.md in this folder.

#include <benchmark/benchmark.h>

#include <catmerge/catmerge.hpp>
#include <catmerge/methods.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "layers.hpp"
#include "measure.hpp"

namespace {

using namespace catmerge_benchmark;
using context = catmerge::context<catmerge::host>;

constexpr index_t size = 768, tasks = 8, rows = 100;

/// The inputs of all methods.
struct input {
  input() : linear(cached_layer(size, size, tasks, rows)) {
    for (std::uint64_t k = 0; k < tasks; ++k)
      importance.push_back(uniform(size, size, k).cwiseAbs2());
  }

  const layer& linear;
  std::vector<matrix> importance;  ///< of every entry to each task: squares
};

const input& all_input() {
  static const input instance;
  return instance;
}

using call = void (*)(const input&, context&);

void task_arithmetic(const input& in, context& c) {
  benchmark::DoNotOptimize(
      catmerge::task_arithmetic(in.linear.base, in.linear.experts, 0.3, c).merged);
}

/// Seconds of Task Arithmetic at its quickest, measured once beside each method.
double task_arithmetic_seconds(call method) {
  static std::map<call, double> cache;
  double& seconds = cache[method];
  context c;
  if (seconds == 0) seconds = quickest_of([&] { task_arithmetic(all_input(), c); });
  return seconds;
}

void merge(benchmark::State& state, call method) {
  const input& in = all_input();
  const double plain = task_arithmetic_seconds(method);
  context c;
  const double seconds = timed(state, [&] { method(in, c); });
  state.counters["to_task_arithmetic"] = seconds / plain;
}

/// Runs a method without a call for one parameter, as merge_stream does.
template <class Method>
void merge_by(const Method& method, const input& in, context& c) {
  catmerge::layer_problem<context> problem;
  problem.kind = catmerge::layer_kind::linear;
  problem.base = catmerge::const_view_of(in.linear.base);
  problem.experts = catmerge::detail::read_all<context>(in.linear.experts);
  matrix merged(size, size);
  catmerge::merge_problem(method, c, problem, catmerge::view_of(merged));
  benchmark::DoNotOptimize(merged);
}

/// Runs the library's call for one parameter.
template <class... Features>
void call_of(const auto& method, const auto& options, const input& in, context& c,
             const Features&... features) {
  benchmark::DoNotOptimize(
      method(in.linear.base, in.linear.experts, features..., options, c).merged);
}

struct named_call {
  const char* name;
  call run;
  bool slow = false;  ///< half a second and more: runs once, whatever --benchmark_min_time says
};

const named_call calls[] = {
    {"task_arithmetic", task_arithmetic},
    {"weight_average",
     [](const input& in, context& c) {
       benchmark::DoNotOptimize(
           catmerge::weight_average(in.linear.base, in.linear.experts, c).merged);
     }},
    {"dare_task_arithmetic",
     [](const input& in, context& c) {
       merge_by(catmerge::chain{catmerge::dare_transform{}, catmerge::task_arithmetic_method{}}, in,
                c);
     }},
    {"ties",
     [](const input& in, context& c) { call_of(catmerge::ties, catmerge::ties_options{}, in, c); }},
    {"consensus",
     [](const input& in, context& c) {
       call_of(catmerge::consensus, catmerge::consensus_options{}, in, c);
     }},
    {"pcb",
     [](const input& in, context& c) { call_of(catmerge::pcb, catmerge::pcb_options{}, in, c); },
     true},
    {"fisher",
     [](const input& in, context& c) {
       call_of(catmerge::fisher, catmerge::fisher_options{}, in, c, in.importance);
     }},
    {"tatr",
     [](const input& in, context& c) {
       call_of(catmerge::tatr, catmerge::tatr_options{}, in, c, in.importance);
     }},
    {"tatr_zero_shot",
     [](const input& in, context& c) {
       catmerge::tatr_options options;
       options.zero_shot = true;
       call_of(catmerge::tatr, options, in, c);
     }},
    {"regmean",
     [](const input& in, context& c) {
       call_of(catmerge::regmean_linear, catmerge::regmean_options{}, in, c, in.linear.features);
     }},
    {"lot",
     [](const input& in, context& c) {
       call_of(catmerge::lot_linear, catmerge::lot_options{}, in, c, in.linear.features);
     }},
    {"wudi",
     [](const input& in, context& c) { call_of(catmerge::wudi, catmerge::wudi_options{}, in, c); }},
    {"iso_c",
     [](const input& in, context& c) { call_of(catmerge::iso, catmerge::iso_options{}, in, c); }},
    {"iso_cts",
     [](const input& in, context& c) {
       call_of(catmerge::iso, catmerge::iso_options{catmerge::iso_variant::cts}, in, c);
     },
     true},
    {"tsv_m",
     [](const input& in, context& c) {
       call_of(catmerge::tsv_m, catmerge::tsv_m_options{}, in, c);
     },
     true},
    {"cat",
     [](const input& in, context& c) {
       catmerge::cat_options options;
       options.diagnostics = false;
       call_of(catmerge::cat_linear, options, in, c, in.linear.features);
     }},
    {"cat_diagnostics",
     [](const input& in, context& c) {
       call_of(catmerge::cat_linear, catmerge::cat_options{}, in, c, in.linear.features);
     }},
};

}  // namespace

int main(int argc, char** argv) {
  for (const auto& each : calls) {
    // (Appended: GCC 12 warns wrongly of "text" + std::string, GCC bug 105651.)
    auto* const registered = benchmark::RegisterBenchmark(
        std::string(each.name).append("/768x768/rows:100").c_str(), merge, each.run);
    registered->Unit(benchmark::kMillisecond);
    if (each.slow) registered->Iterations(1);
  }
  return run_registered(argc, argv);
}
