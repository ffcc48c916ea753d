// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// Every kernel of the host against its roof, measured in the same run: products against a large
// product, passes over memory against memcpy. One thread. See README.md in this folder.

#include <benchmark/benchmark.h>

#include <catmerge/catmerge.hpp>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "measure.hpp"

namespace {

using namespace catmerge_benchmark;
using catmerge::entry_function;
using catmerge::index_t;
using catmerge::op;
using catmerge::pair_function;
using catmerge::scalar_type;
using context = catmerge::context<catmerge::host>;
using matrix = context::matrix;
using view = context::view;
using const_view = context::const_view;

struct shape {
  index_t rows, columns;
};

std::string text(const shape& s) {
  return std::to_string(s.rows).append("x").append(std::to_string(s.columns));
}

/// Numbers in [-1, 1): 256 random rows, repeated.
matrix random_matrix(scalar_type type, index_t rows, index_t columns, std::uint64_t seed = 1) {
  context c;
  auto m = c.make(type, rows, columns);
  const Eigen::MatrixXd block =
      catmerge::detail::seeded_block(std::min<index_t>(256, rows), columns, seed);
  for (index_t i = 0; i < rows; i += block.rows()) {
    const index_t n = std::min(block.rows(), rows - i);
    c.from_host(block.topRows(n), c.slice(view(m), i, n, 0, columns));
  }
  return m;
}

// ---- products ----

double operations(index_t rows, const shape& t) {
  return 2.0 * static_cast<double>(rows * t.rows * t.columns);
}

/// y = x t, or x t^T, by Eigen.
template <class Scalar>
void eigen_product(const matrix& x, const matrix& t, op turned, matrix& y) {
  using rows = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::Map<const rows> left(x.data<Scalar>(), x.rows(), x.columns());
  const Eigen::Map<const rows> right(t.data<Scalar>(), t.rows(), t.columns());
  Eigen::Map<rows> result(y.data<Scalar>(), y.rows(), y.columns());
  if (turned == op::transpose)
    result.noalias() = left * right.transpose();
  else
    result.noalias() = left * right;
}

/// x and t of one type, and memory for x t or x t^T.
struct factors {
  factors(scalar_type type, index_t rows, const shape& s, op of_t)
      : turned(of_t),
        x(random_matrix(type, rows, turned == op::none ? s.rows : s.columns)),
        t(random_matrix(type, s.rows, s.columns, 2)),
        y(type, rows, turned == op::none ? s.columns : s.rows) {}

  void multiply(context& c) { c.multiply(1, x, op::none, t, turned, 0, y); }
  void multiply_by_eigen() {
    if (x.type() == scalar_type::f64)
      eigen_product<double>(x, t, turned, y);
    else
      eigen_product<float>(x, t, turned, y);
  }

  op turned;
  matrix x, t, y;
};

constexpr index_t roof_rows = 768;
constexpr shape roof_shape{3072, 768};

/// Operations per second of a large product, the library's or Eigen's, whichever is quicker: the
/// roof of all products here.
double product_roof(scalar_type type) {
  static std::map<scalar_type, double> cache;
  double& rate = cache[type];
  if (rate > 0) return rate;
  factors f(type, roof_rows, roof_shape, op::none);
  context c;
  const double library = quickest_of([&] { f.multiply(c); });
  const double eigen = quickest_of([&] { f.multiply_by_eigen(); });
  return rate = operations(roof_rows, roof_shape) / std::min(library, eigen);
}

/// Reports `count` operations per iteration; `seconds` is the quickest.
void report_operations(benchmark::State& state, double count, scalar_type type, double seconds) {
  state.counters["FLOP"] = benchmark::Counter(count, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["of_roof"] = count / seconds / product_roof(type);
}

void large_product(benchmark::State& state, scalar_type type, bool by_eigen) {
  factors f(type, roof_rows, roof_shape, op::none);
  context c;
  const double seconds = timed(state, [&] { by_eigen ? f.multiply_by_eigen() : f.multiply(c); });
  report_operations(state, operations(roof_rows, roof_shape), type, seconds);
}

/// y = x T^T or x T for a weight T, as in all methods: few rows in x.
void product(benchmark::State& state, scalar_type type, shape s, index_t rows, op turned) {
  factors f(type, rows, s, turned);
  context c;
  static std::map<std::tuple<scalar_type, index_t, index_t, index_t, op>, double> cache;
  double& eigen = cache[{type, s.rows, s.columns, rows, turned}];
  if (eigen == 0) eigen = quickest_of([&] { f.multiply_by_eigen(); });
  const double seconds = timed(state, [&] { f.multiply(c); });
  report_operations(state, operations(rows, s), type, seconds);
  state.counters["to_eigen"] = eigen / seconds;
}

// ---- entry by entry, and reductions ----

/// Far more than a last-level cache holds.
constexpr double memory_bytes = 256.0 * (1 << 20);

/// As report_bytes, and against memcpy from memory rather than from a cache.
void report_memory(benchmark::State& state, double bytes, double seconds) {
  report_bytes(state, bytes, seconds);
  state.counters["of_memory"] = bytes / seconds * memcpy_seconds(memory_bytes) / memory_bytes;
}

/// One of a context's operations. `run` gets as many operands as there are types, the result first.
struct entry_operation {
  const char* name;
  std::vector<scalar_type> types;
  int bytes;  ///< read or written per entry
  void (*run)(context& c, const std::vector<view>& m);
};

std::vector<entry_operation> entry_operations() {
  using list = const std::vector<view>&;
  constexpr auto f64 = scalar_type::f64, f32 = scalar_type::f32, f16 = scalar_type::f16,
                 bf16 = scalar_type::bf16;
  const auto assign = [](context& c, list m) { c.assign(m[1], m[0]); };
  const auto subtract = [](context& c, list m) { c.subtract(m[1], m[2], m[0]); };
  const auto axpy = [](context& c, list m) { c.axpy(1e-3, m[1], m[0]); };
  const auto scale = [](context& c, list m) { c.scale(-1, m[0]); };
  const auto accumulate = [](context& c, list m) {
    const std::vector<const_view> experts(m.begin() + 2, m.end());
    c.accumulate(1e-3, experts, m[1], m[0]);
  };
  const auto squared_norm = [](context& c, list m) {
    benchmark::DoNotOptimize(c.squared_norm(m[0]));
  };
  const auto dot = [](context& c, list m) { benchmark::DoNotOptimize(c.dot(m[0], m[1])); };
  const auto all_finite = [](context& c, list m) { benchmark::DoNotOptimize(c.all_finite(m[0])); };
  const auto column_energies = [](context& c, list m) {
    auto sums = c.make(scalar_type::f64, m[0].columns, 1);
    c.column_energies(1, m[0], sums);
  };
  const auto scale_columns = [](context& c, list m) {
    const std::vector<double> factors(static_cast<std::size_t>(m[0].columns), -1.0);
    c.scale_columns(factors, m[0]);
  };
  const auto absolute = [](context& c, list m) { c.map(entry_function::absolute, 0, m[1], m[0]); };
  const auto above = [](context& c, list m) { c.map(entry_function::above, 0.5, m[1], m[0]); };
  const auto tangent = [](context& c, list m) { c.map(entry_function::tangent, 0, m[1], m[0]); };
  const auto exponential = [](context& c, list m) {
    c.map(entry_function::exponential, 0, m[1], m[0]);
  };
  const auto times = [](context& c, list m) { c.zip(pair_function::product, m[1], m[2], m[0]); };
  const auto count_keys = [](context& c, list m) {
    static std::vector<std::uint64_t> counts(std::size_t{1}
                                             << catmerge::detail::digit_of_key(0).bits);
    c.count_keys(m[0], 0, 0, counts);
  };
  return {
      {"assign_f32", {f32, f32}, 8, assign},
      {"assign_f16_to_f32", {f32, f16}, 6, assign},
      {"assign_bf16_to_f32", {f32, bf16}, 6, assign},
      {"assign_f32_to_f16", {f16, f32}, 6, assign},
      {"assign_f32_to_bf16", {bf16, f32}, 6, assign},
      {"assign_f32_to_f64", {f64, f32}, 12, assign},
      {"subtract_f32", {f32, f32, f32}, 12, subtract},
      {"subtract_f16", {f32, f16, f16}, 8, subtract},
      {"subtract_bf16", {f32, bf16, bf16}, 8, subtract},
      {"axpy_f32", {f32, f32}, 12, axpy},
      {"axpy_f64", {f64, f64}, 24, axpy},
      {"axpy_f32_to_f64", {f64, f32}, 20, axpy},
      {"scale_f32", {f32}, 8, scale},
      {"accumulate_8_f32", std::vector(10, f32), 44, accumulate},
      {"squared_norm_f32", {f32}, 4, squared_norm},
      {"dot_f32", {f32, f32}, 8, dot},
      {"all_finite_f32", {f32}, 4, all_finite},
      {"column_energies_f32", {f32}, 4, column_energies},
      {"scale_columns_f32", {f32}, 8, scale_columns},
      {"map_absolute_f32", {f32, f32}, 8, absolute},
      {"map_above_f64", {f64, f64}, 16, above},
      {"map_tangent_f64", {f64, f64}, 16, tangent},
      {"map_exponential_f64", {f64, f64}, 16, exponential},
      {"zip_product_f64", {f64, f64, f64}, 24, times},
      {"count_keys_f32", {f32}, 4, count_keys},
  };
}

/// Matrices of these types, cached until others are needed.
const std::vector<view>& operands(const std::vector<scalar_type>& types, const shape& s) {
  static std::vector<scalar_type> kept;
  static shape kept_shape{0, 0};
  static std::vector<matrix> matrices;
  static std::vector<view> views;
  if (kept == types && kept_shape.rows == s.rows && kept_shape.columns == s.columns) return views;
  views.clear();
  matrices.clear();
  for (const auto type : types)
    matrices.push_back(random_matrix(type, s.rows, s.columns, matrices.size() + 1));
  views.assign(matrices.begin(), matrices.end());
  kept = types;
  kept_shape = s;
  return views;
}

void entry_by_entry(benchmark::State& state, const entry_operation& o, shape s) {
  const auto& m = operands(o.types, s);
  context c;
  const double seconds = timed(state, [&] { o.run(c, m); });
  report_memory(state, o.bytes * static_cast<double>(s.rows * s.columns), seconds);
}

void plain_memcpy(benchmark::State& state) {
  constexpr auto half = static_cast<std::size_t>(memory_bytes / 2);
  const matrix from(scalar_type::f32, 1, half / sizeof(float));
  matrix to(scalar_type::f32, 1, half / sizeof(float));
  const double seconds =
      timed(state, [&] { std::memcpy(to.data<float>(), from.data<float>(), half); });
  report_memory(state, memory_bytes, seconds);
}

// ---- features ----

/// Adds batches of 100 rows to empty statistics, as many as stay rows.
void features_rows(benchmark::State& state, index_t width) {
  const auto batch = random_matrix(scalar_type::f32, 100, width);
  const index_t batches = width / batch.rows();
  context c;
  const double seconds = timed(state, [&] {
    catmerge::feature_statistics<> statistics;
    for (index_t i = 0; i < batches; ++i) statistics.update(batch, c);
  });
  report_memory(state, 8.0 * static_cast<double>(batches * batch.rows() * width), seconds);
}

/// Statistics in the form of a Gram matrix, cached until another width is needed.
catmerge::feature_statistics<>& gram_statistics(index_t width) {
  static catmerge::feature_statistics<> kept;
  if (kept.width() == width) return kept;
  kept = {};
  kept.update(random_matrix(scalar_type::f32, width + 1, width));
  return kept;
}

/// Adds one batch to a Gram matrix: a product in double.
void features_gram(benchmark::State& state, index_t width, index_t rows) {
  const auto batch = random_matrix(scalar_type::f32, rows, width);
  auto& statistics = gram_statistics(width);
  context c;
  const double seconds = timed(state, [&] { statistics.update(batch, c); });
  report_operations(state, operations(rows, {width, width}), scalar_type::f64, seconds);
}

/// Adds two Gram matrices.
void features_combine(benchmark::State& state, index_t width) {
  const auto& other = gram_statistics(width);
  auto statistics = catmerge::feature_statistics<>();
  statistics.combine(other);
  context c;
  const double seconds = timed(state, [&] { statistics.combine(other, c); });
  report_memory(state, 24.0 * static_cast<double>(width * width), seconds);
}

/// Second moments of a batch.
void features_moments(benchmark::State& state, index_t width, index_t rows) {
  const auto batch = random_matrix(scalar_type::f32, rows, width);
  catmerge::moment_statistics<> statistics;
  context c;
  const double seconds = timed(state, [&] { statistics.update(batch, c); });
  report_memory(state, 4.0 * static_cast<double>(rows * width), seconds);
}

/// The diagonal of a Gram matrix.
void moments_of_gram(benchmark::State& state, index_t width) {
  const auto gram = gram_statistics(width).view();
  context c;
  const double seconds =
      timed(state, [&] { benchmark::DoNotOptimize(catmerge::detail::second_moment(c, gram)); });
  report_bytes(state, 16.0 * static_cast<double>(width), seconds);
}

// ---- masks ----

/// Vectors, features and second moments of eight tasks.
struct mask_input {
  explicit mask_input(index_t size) {
    for (std::uint64_t k = 0; k < 8; ++k) {
      vectors.push_back(random_matrix(scalar_type::f32, size, 1, k));
      features.push_back(random_matrix(scalar_type::f32, 100, size, k));
      moments.push_back(random_matrix(scalar_type::f64, size, 1, k + 8));
    }
    vector_views.assign(vectors.begin(), vectors.end());
    moment_views.assign(moments.begin(), moments.end());
  }
  std::vector<matrix> vectors, features, moments;
  std::vector<const_view> vector_views, moment_views;
};

/// s_k of a scale: reads all vectors and moments once, writes s_k.
void scale_scores(benchmark::State& state, index_t size) {
  const mask_input in(size);
  context c;
  const double seconds = timed(state, [&] {
    benchmark::DoNotOptimize(
        catmerge::detail::scale_scores(c, 0, in.vector_views, in.moment_views, 10));
  });
  report_bytes(state, static_cast<double>(size) * (8 * (4 + 8) + 8), seconds);
}

/// s_k of a shift: reads seven vectors, writes s_k.
void shift_scores(benchmark::State& state, index_t size) {
  const mask_input in(size);
  context c;
  const double seconds = timed(state, [&] {
    benchmark::DoNotOptimize(catmerge::detail::shift_scores(c, 0, in.vector_views));
  });
  report_bytes(state, static_cast<double>(size) * (7 * 4 + 8), seconds);
}

/// The four largest scores.
void largest_positions(benchmark::State& state, index_t size) {
  const auto scores = random_matrix(scalar_type::f64, size, 1);
  const std::span<const double> all(scores.data<double>(), static_cast<std::size_t>(size));
  const double seconds = timed(state, [&] {
    benchmark::DoNotOptimize(catmerge::detail::largest_positions(all, catmerge::largest{4}));
  });
  report_bytes(state, 8.0 * static_cast<double>(size), seconds);
}

/// A whole mask from 100 rows of features per task: reads these and the vectors.
void scale_mask(benchmark::State& state, index_t size) {
  const mask_input in(size);
  context c;
  const double seconds = timed(state, [&] {
    benchmark::DoNotOptimize(
        catmerge::scale_mask(0, in.vectors, in.features, catmerge::scale_mask_options{}, c));
  });
  report_bytes(state, 8.0 * 4 * 101 * static_cast<double>(size), seconds);
}

void shift_mask(benchmark::State& state, index_t size) {
  const mask_input in(size);
  context c;
  const double seconds = timed(state, [&] {
    benchmark::DoNotOptimize(
        catmerge::shift_mask(0, in.vectors, catmerge::shift_mask_options{}, c));
  });
  report_bytes(state, 8.0 * 4 * static_cast<double>(size), seconds);
}

// ---- small dense problems ----

/// All eigenpairs, in units of a product of two matrices of that size.
void symmetric_eigen(benchmark::State& state, index_t size) {
  const auto x = random_matrix(scalar_type::f64, size, size);
  context c;
  auto gram = c.make(scalar_type::f64, size, size), y = c.make(scalar_type::f64, size, size);
  c.multiply(1, x, op::none, x, op::transpose, 0, gram);
  quickest best;
  for (auto _ : state) {
    c.assign(gram, y);
    best([&] { benchmark::DoNotOptimize(c.symmetric_eigen(y, size)); });
  }
  state.counters["in_products"] =
      best.seconds() * product_roof(scalar_type::f64) / operations(size, {size, size});
}

/// A block of 4 against a basis of 44, as in a search for eigenpairs; an orthonormal block costs
/// one pass. Operations: the projection, the two Gram matrices and the rotation.
void orthonormalise(benchmark::State& state, index_t size) {
  constexpr index_t used = 44, fresh = 4;
  auto basis = random_matrix(scalar_type::f64, used, size);
  auto block = random_matrix(scalar_type::f64, fresh, size, 2);
  context c;
  catmerge::detail::orthonormalise(c, basis, 0, basis);
  catmerge::detail::orthonormalise(c, basis, used, block);
  const double seconds = timed(state, [&] {
    benchmark::DoNotOptimize(catmerge::detail::orthonormalise(c, basis, used, block));
  });
  report_operations(state, operations(fresh, {2 * used + 3 * fresh, size}), scalar_type::f64,
                    seconds);
}

// ---- names ----

/// Registers f(state, arguments...) as what/where.
template <class... Arguments>
void add(const std::string& what, const std::string& where,
         void (*f)(benchmark::State&, Arguments...), std::decay_t<Arguments>... arguments) {
  // (Appended: GCC 12 warns wrongly of "text" + std::string, GCC bug 105651.)
  benchmark::RegisterBenchmark(std::string(what).append("/").append(where).c_str(),
                               [=](benchmark::State& state) { f(state, arguments...); })
      ->Unit(benchmark::kMicrosecond);
}

void add_products() {
  for (const auto type : {scalar_type::f32, scalar_type::f64}) {
    const std::string suffix = type == scalar_type::f32 ? "_f32" : "_f64";
    const std::string where = std::to_string(roof_rows).append("x").append(text(roof_shape));
    add(std::string("large_product").append(suffix), where, large_product, type, false);
    add(std::string("large_product_eigen").append(suffix), where, large_product, type, true);
    for (const shape& s : {shape{768, 768}, shape{3072, 768}, shape{768, 3072}})
      for (const index_t rows : {4, 28, 100, 400}) {
        const std::string shape_and_rows = text(s).append("/rows:").append(std::to_string(rows));
        add(std::string("product_transposed").append(suffix), shape_and_rows, product, type, s,
            rows, op::transpose);
        add(std::string("product_plain").append(suffix), shape_and_rows, product, type, s, rows,
            op::none);
      }
  }
}

void add_entry_operations() {
  add("memcpy", "256MiB", plain_memcpy);
  for (const shape& s : {shape{3072, 768}, shape{4096, 4096}})
    for (const auto& o : entry_operations()) add(o.name, text(s), entry_by_entry, o, s);
}

void add_features() {
  for (const index_t width : {768, 3072}) {
    const std::string where = std::to_string(width);
    add("features_rows", where, features_rows, width);
    for (const index_t rows : {100, 400}) {
      const std::string width_and_rows =
          std::string(where).append("/rows:").append(std::to_string(rows));
      add("features_gram", width_and_rows, features_gram, width, rows);
      add("features_moments", width_and_rows, features_moments, width, rows);
    }
    add("features_combine", where, features_combine, width);
    add("moments_of_gram", where, moments_of_gram, width);
  }
}

void add_masks_and_dense() {
  for (const index_t size : {768, 4096}) {
    const std::string where = std::to_string(size);
    add("scale_scores", where, scale_scores, size);
    add("shift_scores", where, shift_scores, size);
    add("largest_positions", where, largest_positions, size);
    add("scale_mask", where, scale_mask, size);
    add("shift_mask", where, shift_mask, size);
  }
  for (const index_t size : {48, 96, 768})
    add("symmetric_eigen", std::to_string(size), symmetric_eigen, size);
  for (const index_t size : {768, 3072})
    add("orthonormalise", std::to_string(size), orthonormalise, size);
}

}  // namespace

int main(int argc, char** argv) {
  add_products();
  add_entry_operations();
  add_features();
  add_masks_and_dense();
  return run_registered(argc, argv);
}
