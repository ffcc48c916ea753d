// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// Iso-C, TSV-M and Iso-CTS on linear layers of ViT-B/32, eight experts, beside the same formulas by
// whole decompositions. Two threads. See README.md in this folder.

#include <benchmark/benchmark.h>

#include <catmerge/methods.hpp>
#include <harness/system/pool.hpp>
#include <string>
#include <vector>

#include "layers.hpp"
#include "measure.hpp"
#include "reference/full_svd.hpp"

namespace {

using namespace catmerge_benchmark;
using context = catmerge::context<catmerge::host>;

constexpr index_t tasks = 8, width = 768;

struct method {
  const char* name;
  matrix (*by_library)(const layer&, context&);
  full::tensor (*by_whole)(context&, const full::tensors&);
};

matrix iso(const layer& l, context& c, catmerge::iso_variant variant) {
  return catmerge::iso(l.base, l.experts, {variant}, c).merged;
}

const method methods[] = {
    {"iso_c", [](const layer& l, context& c) { return iso(l, c, catmerge::iso_variant::c); },
     [](context& c, const full::tensors& t) { return full::iso(c, t, 0); }},
    {"tsv_m",
     [](const layer& l, context& c) {
       return matrix(catmerge::tsv_m(l.base, l.experts, {}, c).merged);
     },
     full::tsv_m},
    // round((768 - floor(0.8 * 768)) / 8) directions for each task
    {"iso_cts", [](const layer& l, context& c) { return iso(l, c, catmerge::iso_variant::cts); },
     [](context& c, const full::tensors& t) { return full::iso(c, t, 19); }},
};

/// Both in turn, so that a busy machine disturbs both. Counters: the library's seconds, the
/// other's, their ratio, and how far the two results are apart.
void layer_of(benchmark::State& state, const method& by, index_t d_out, index_t d_in,
              unsigned threads) {
  layer l = make_layer(d_out, d_in, tasks, 1);
  l.base.setZero();
  l.experts = l.vectors;
  catmerge::harness::pool pool(threads);
  context c(pool.runner());
  const auto vectors = catmerge::detail::read_all<context>(l.vectors);
  quickest library, whole;
  matrix merged;
  full::tensor tau;
  for (auto _ : state) {
    library([&] { merged = by.by_library(l, c); });
    whole([&] { tau = by.by_whole(c, vectors); });
  }
  const Eigen::MatrixXd exact = c.to_host(tau);
  state.counters["seconds"] = library.seconds();
  state.counters["whole_seconds"] = whole.seconds();
  state.counters["speedup"] = whole.seconds() / library.seconds();
  state.counters["apart"] = (merged.cast<double>() - exact).norm() / exact.norm();
}

}  // namespace

int main(int argc, char** argv) {
  for (const auto& by : methods)
    for (const index_t d_out : {width, 4 * width})
      benchmark::RegisterBenchmark(
          std::string(by.name).append(d_out == width ? "/768x768" : "/3072x768").c_str(), layer_of,
          by, d_out, width, 2U)
          ->Iterations(3)
          ->Unit(benchmark::kMillisecond);
  return run_registered(argc, argv);
}
