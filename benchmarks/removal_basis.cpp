// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// The cost of CAT on one linear layer of ViT-B/32: the removal basis by each solver, the trims, and
// a whole layer beside Task Arithmetic. See README.md in this folder.

#include <benchmark/benchmark.h>

#include <catmerge/catmerge.hpp>
#include <ctime>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "layers.hpp"
#include "measure.hpp"

namespace {

using namespace catmerge_benchmark;
using catmerge::basis_solver;
using context = catmerge::context<catmerge::host>;

constexpr index_t tasks = 8;

struct shape {
  index_t d_out, d_in;
};
constexpr shape shapes[] = {{768, 768}, {3072, 768}, {768, 3072}};

/// The rate of a plain product by the library's own kernel, d_out x d_in by d_in x rows in float:
/// the yardstick of everything else. Multiply-adds count as two. Cached per shape.
double product_rate(const shape& s, index_t rows) {
  static std::map<std::tuple<index_t, index_t, index_t>, double> cache;
  double& rate = cache[{s.d_out, s.d_in, rows}];
  if (rate > 0) return rate;
  const layer& l = cached_layer(s.d_out, s.d_in, tasks, rows);
  context c;
  matrix y(rows, s.d_out);
  const auto once = [&] {
    const std::clock_t start = std::clock();
    c.multiply(1, catmerge::const_view_of(l.features[0]), catmerge::op::none,
               catmerge::const_view_of(l.vectors[0]), catmerge::op::transpose, 0,
               catmerge::view_of(y));
    benchmark::DoNotOptimize(y.data());
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  };
  once();
  double seconds = 0;
  index_t count = 0;
  for (; count < 3 || seconds < 0.2; ++count) seconds += once();
  return rate = 2.0 * static_cast<double>(s.d_out * s.d_in * rows * count) / seconds;
}

/// The time of one iteration, in units of the plain products X_k T_i^T of all tasks (K of them).
void report_in_products(benchmark::State& state, const shape& s, index_t rows, double seconds) {
  const double one = 2.0 * static_cast<double>(s.d_out * s.d_in * rows) / product_rate(s, rows);
  state.counters["in_shift_products"] = seconds / static_cast<double>(state.iterations()) / one;
}

/// CPU time since construction, of this process (everything here runs on one thread).
class stopwatch {
 public:
  double seconds() const { return static_cast<double>(std::clock() - start_) / CLOCKS_PER_SEC; }

 private:
  std::clock_t start_ = std::clock();
};

/// The kernel itself, single and double.
template <class Scalar>
void plain_product(benchmark::State& state, shape s, index_t rows) {
  const layer& l = cached_layer(s.d_out, s.d_in, tasks, rows);
  context c;
  auto y = c.make(catmerge::scalar_type_v<Scalar>, rows, s.d_out);
  for (auto _ : state)
    c.multiply(1, catmerge::const_view_of(l.features[0]), catmerge::op::none,
               catmerge::const_view_of(l.vectors[0]), catmerge::op::transpose, 0, y);
  state.counters["FLOP"] = benchmark::Counter(2.0 * static_cast<double>(s.d_out * s.d_in * rows),
                                              benchmark::Counter::kIsIterationInvariantRate);
}

/// One basis: statistics to B_k, with a new G_k each time.
void basis(benchmark::State& state, shape s, index_t rows, basis_solver solver) {
  const layer& l = cached_layer(s.d_out, s.d_in, tasks, rows);
  catmerge::projection_options options;
  options.solver = solver;
  context c;
  product_rate(s, rows);
  catmerge::index_t positive = 0;
  double residual = 0;
  basis_solver used = solver;
  const stopwatch watch;
  for (auto _ : state) {
    const auto found = catmerge::removal_basis(0, l.vectors, l.features, options, c);
    positive = found.positive;
    residual = found.residual;
    used = found.solver;
  }
  report_in_products(state, s, rows, watch.seconds());
  state.counters["positive"] = static_cast<double>(positive);
  state.counters["residual"] = residual;
  static const char* const names[] = {"automatic", "dense", "shifts", "weights"};
  state.SetLabel(names[static_cast<int>(used)]);

  // The products of G_k with a vector in a Krylov solver: counted once, outside the clock.
  if (used == basis_solver::shifts || used == basis_solver::weights) {
    options.solver = used;
    catmerge::detail::gram_problem<context> problem{
        catmerge::detail::read_all<context>(l.vectors),
        catmerge::detail::as_statistics_list(l.features)};
    problem.wanted = {0};
    const auto [gram, same] = catmerge::detail::make_gram(c, std::move(problem), options);
    catmerge::eigen_options eigen = options.eigen;
    eigen.tolerance = catmerge::default_tolerance(catmerge::scalar_type::f32);
    double seconds = 0;
    index_t calls = 0;
    const auto pairs = catmerge::largest_eigenpairs(
        c, s.d_out, std::get<catmerge::largest>(options.directions).count,
        [&, &g = *gram](context::const_view x, context::view y) {
          const stopwatch product;
          g.apply({{0, x, y}}, catmerge::scalar_type::f32);
          seconds += product.seconds();
          ++calls;
        },
        eigen);
    state.counters["products"] = static_cast<double>(pairs.products);
    state.counters["blocks"] = static_cast<double>(calls);
    state.counters["apply_s"] = seconds;
  }
}

/// Phi_k for all k but one, on one vector.
void trims(benchmark::State& state, shape s, index_t rows) {
  const layer& l = cached_layer(s.d_out, s.d_in, tasks, rows);
  context c;
  const Eigen::MatrixXd random = catmerge::detail::seeded_block(s.d_out, 4, 7);
  const Eigen::MatrixXd b = Eigen::HouseholderQR<Eigen::MatrixXd>(random).householderQ() *
                            Eigen::MatrixXd::Identity(s.d_out, 4);
  matrix t = l.vectors[0];
  for (auto _ : state)
    for (index_t k = 1; k < tasks; ++k) catmerge::project_out(b, t, c);
}

/// A whole layer by CAT with one of the solvers, beside the cost model's prediction for its bases.
/// The model's choice should change at the crossing of the two.
void layer_by_solver(benchmark::State& state, shape s, index_t rows, basis_solver solver) {
  const layer& l = cached_layer(s.d_out, s.d_in, tasks, rows);
  catmerge::cat_options options;
  options.diagnostics = false;
  options.linear.solver = solver;
  context c;
  std::vector<index_t> all;
  for (index_t k = 0; k < tasks; ++k) all.push_back(k);
  const auto costs = catmerge::detail::cost_of_solvers(
      c, catmerge::detail::read_all<context>(l.vectors),
      catmerge::detail::as_statistics_list(l.features), all, options.linear.directions);
  timed(state, [&] {
    benchmark::DoNotOptimize(catmerge::cat_linear(l.base, l.experts, l.features, options, c));
  });
  state.counters["predicted_GFLOP"] =
      1e-9 * (solver == basis_solver::shifts ? costs.shifts : costs.weights);
  state.SetLabel(costs.cheapest() == solver ? "the model's choice" : "");
}

/// A whole layer by CAT, and its time over that of Task Arithmetic.
void whole_layer(benchmark::State& state, shape s, index_t rows, bool diagnostics) {
  const layer& l = cached_layer(s.d_out, s.d_in, tasks, rows);
  catmerge::cat_options options;
  options.diagnostics = diagnostics;
  context c;
  const stopwatch plain;
  constexpr int repeat = 3;
  for (int i = 0; i < repeat; ++i)
    benchmark::DoNotOptimize(catmerge::task_arithmetic(l.base, l.experts, 0.3, c));
  const double sum = plain.seconds() / repeat;
  const stopwatch watch;
  for (auto _ : state)
    benchmark::DoNotOptimize(catmerge::cat_linear(l.base, l.experts, l.features, options, c));
  const double seconds = watch.seconds();
  state.counters["to_task_arithmetic"] = seconds / static_cast<double>(state.iterations()) / sum;
  report_in_products(state, s, rows, seconds);
}

void sum_only(benchmark::State& state, shape s, index_t rows) {
  const layer& l = cached_layer(s.d_out, s.d_in, tasks, rows);
  context c;
  for (auto _ : state)
    benchmark::DoNotOptimize(catmerge::task_arithmetic(l.base, l.experts, 0.3, c));
}

/// Names: what/d_out x d_in/rows.
template <class F, class... Arguments>
benchmark::internal::Benchmark* add_one(const std::string& what, const shape& s, index_t rows, F f,
                                        Arguments... arguments) {
  // (Appended piece by piece: GCC 12 warns wrongly of "text" + std::string, GCC bug 105651.)
  std::string name = what + "/";
  name.append(std::to_string(s.d_out)).append("x").append(std::to_string(s.d_in));
  name.append("/rows:").append(std::to_string(rows));
  return benchmark::RegisterBenchmark(name.c_str(), f, s, rows, arguments...)
      ->Unit(benchmark::kMillisecond);
}

/// Registers all; benchmarks of seconds run once or three times, whatever --benchmark_min_time
/// says.
void add_all() {
  for (const index_t rows : {100, 10, 400})
    for (const shape& s : shapes) {
      const auto add = [&](const std::string& what, auto f, auto... arguments) {
        return add_one(what, s, rows, f, arguments...);
      };
      add("product_f32", plain_product<float>);
      add("product_f64", plain_product<double>);
      add("basis_automatic", basis, basis_solver::automatic);
      add("basis_shifts", basis, basis_solver::shifts);
      add("basis_weights", basis, basis_solver::weights);
      // Half a minute and more at d_out = 3072: ask for "slow" by name.
      add(s.d_out > 1000 ? "slow_basis_dense" : "basis_dense", basis, basis_solver::dense)
          ->Iterations(1);
      add("trims_of_one_vector", trims);
      add("layer_task_arithmetic", sum_only);
      add("layer_cat", whole_layer, false);
      add("layer_cat_diagnostics", whole_layer, true);
    }
  for (const shape& s : shapes)
    for (const index_t rows : {10, 25, 50, 100, 200, 400})
      for (const auto& [name, solver] : {std::pair("slow_layer_by_shifts", basis_solver::shifts),
                                         std::pair("slow_layer_by_weights", basis_solver::weights)})
        add_one(name, s, rows, layer_by_solver, solver)->Iterations(3);
}

}  // namespace

int main(int argc, char** argv) {
  add_all();
  // "Slow" ones run only when a filter asks for them.
  std::vector<char*> arguments(argv, argv + argc);
  std::string everything = "--benchmark_filter=-slow";
  bool filtered = false;
  for (const char* a : arguments)
    filtered = filtered || std::string(a).rfind("--benchmark_filter", 0) == 0;
  if (!filtered) arguments.push_back(everything.data());
  return run_registered(static_cast<int>(arguments.size()), arguments.data());
}
