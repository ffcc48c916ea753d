// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/tensor/host/host.hpp>
#include <utility>

#include "support/executor.hpp"
#include "support/tolerance.hpp"
#include "support/windows.hpp"

using namespace test;
using catmerge::op;

namespace {

using host_context = catmerge::context<catmerge::host>;

/// Multiples of 1/4 from -3 to 3, numbers of every storage type. Sums, differences and products of
/// few of them are exact in float, so results do not depend on the order of summation and can be
/// compared exactly.
struct grid {
  std::uint64_t seed;
  double operator()(index_t i, index_t j) const {
    std::uint64_t z = seed * 0x9E3779B97F4A7C15 +
                      static_cast<std::uint64_t>(i) * 0xBF58476D1CE4E5B9 +
                      static_cast<std::uint64_t>(j) * 0x94D049BB133111EB;
    z = (z ^ (z >> 29)) * 0xBF58476D1CE4E5B9;
    return static_cast<double>(static_cast<int>((z >> 40) % 25) - 12) / 4;
  }
};

struct shape {
  index_t rows, columns;
};

// Empty, single, thin, and around the cut of blocks (4096 elements, 256 columns).
constexpr shape shapes[] = {{0, 3},    {3, 0},    {0, 0},   {1, 1},    {1, 4097},
                            {4097, 1}, {7, 5},    {64, 65}, {17, 255}, {17, 256},
                            {16, 257}, {33, 511}, {9, 513}, {300, 3}};

/// Every elementwise operation into y of the given kind of memory, checked against loops.
void check_elementwise(host_context& c, shape s, const window& a, const window& b, scalar_type type,
                       layout how, index_t offset) {
  const grid old{77};
  const auto fresh = [&] {
    window y(type, s.rows, s.columns, how, offset);
    y.fill(old);
    return y;
  };
  const auto store = [&](double x) { return rounded(type, x); };
  index_t wrong = 0;
  bool inside = true;
  const auto look = [&](const window& y, const auto& expected) {
    wrong += wrong_elements(y, [&](index_t i, index_t j) { return store(expected(i, j)); });
    inside = inside && y.outside_untouched();
  };

  window y = fresh();
  c.assign(a, y);
  look(y, [&](index_t i, index_t j) { return a(i, j); });
  y = fresh();
  y.fill_nan();
  c.subtract(a, b, y);
  look(y, [&](index_t i, index_t j) { return a(i, j) - b(i, j); });
  y = fresh();
  y.fill_nan();
  c.transpose(host_context::const_view(a).transposed(), y);
  look(y, [&](index_t i, index_t j) { return a(i, j); });
  y = fresh();
  const host_context::const_view list[] = {a, b, a};
  c.accumulate(0.5, list, b, y);
  look(y, [&](index_t i, index_t j) { return old(i, j) + (a(i, j) - b(i, j)); });
  y = fresh();
  c.accumulate(0.5, {list, 1}, b, y);
  look(y, [&](index_t i, index_t j) { return old(i, j) + 0.5 * (a(i, j) - b(i, j)); });
  y = fresh();
  c.accumulate(0.5, list, y);
  look(y, [&](index_t i, index_t j) { return old(i, j) + 0.5 * (2 * a(i, j) + b(i, j)); });
  y = fresh();
  c.axpy(-1.5, a, y);
  look(y, [&](index_t i, index_t j) { return old(i, j) - 1.5 * a(i, j); });
  y = fresh();
  c.scale(-0.75, y);
  look(y, [&](index_t i, index_t j) { return -0.75 * old(i, j); });
  CHECK(wrong == 0);
  CHECK(inside);
}

/// The compute type of a call with these operands: double if one of them is, else float.
double computed(bool in_double, double x) {
  return in_double ? x : rounded(scalar_type::f32, x);
}
template <class... Windows>
bool any_double(const Windows&... w) {
  return ((w.type() == scalar_type::f64) || ...);
}

/// Numbers of every kind, in turn: zeros of both signs, subnormal ones of every type, the largest
/// and smallest of each, infinities where asked for, and ordinary ones. What a type cannot hold
/// becomes its nearest number.
struct awkward {
  scalar_type type;
  std::uint64_t seed;
  bool infinite = true;
  double operator()(index_t i, index_t j) const {
    constexpr double list[] = {0.0,     -0.0,    5e-324,  -5e-324,  0x1p-149, -0x1p-149, 0x1p-133,
                               0x1p-24, 1e-300,  -1e-300, 0x1p-126, -0x1p-14, 1e300,     -1e300,
                               65504,   -3.3e38, 0x1p127, 0.1,      -0.1,     0.5,       -0.5,
                               1,       -1,      3,       -7.25,    1.0 / 3,  -1e-3,     88};
    constexpr auto count = static_cast<std::uint64_t>(std::size(list));
    const auto place =
        (seed * 7919 + static_cast<std::uint64_t>(i) * 31 + static_cast<std::uint64_t>(j) * 1009) *
        0x9E3779B97F4A7C15U;
    const double x = rounded(type, list[(place >> 33) % count]);
    return infinite || std::isfinite(x) ? x : 1.5;
  }
};

/// How many elements differ from f(i, j), the sign of zeros included.
template <class F>
index_t wrong_with_sign(const window& w, const F& f) {
  index_t wrong = wrong_elements(w, f);
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t j = 0; j < w.columns(); ++j)
      wrong += w(i, j) == 0 && f(i, j) == 0 && std::signbit(w(i, j)) != std::signbit(f(i, j));
  return wrong;
}

using catmerge::entry_function;
using catmerge::pair_function;
constexpr entry_function exact_functions[] = {entry_function::absolute, entry_function::sign,
                                              entry_function::at_least, entry_function::at_most,
                                              entry_function::above};

/// The functions of one entry that have one right answer.
double plain_value(entry_function f, double a, double x) {
  switch (f) {
    case entry_function::absolute: return x < 0 ? -x : x == 0 ? 0.0 : x;
    case entry_function::sign: return x > 0 ? 1 : x < 0 ? -1 : 0;
    case entry_function::at_least: return std::max(x, a);
    case entry_function::at_most: return std::min(x, a);
    case entry_function::above: return x > a ? 1 : 0;
    case entry_function::exponential: break;
    case entry_function::tangent: break;
  }
  throw catmerge::error("not one of the exact functions");
}

/// map and zip from x (and q) into y of the given kind of memory, against loops.
void check_map(host_context& c, const window& x, const window& q, scalar_type type, layout how) {
  const bool in_double = any_double(x) || type == scalar_type::f64;
  window y(type, x.rows(), x.columns(), how, 1);
  index_t wrong = 0;
  for (const auto f : exact_functions)
    for (const double a : {0.0, 0.1, -2.0}) {
      y.fill_nan();
      c.map(f, a, x, y);
      wrong += wrong_elements(y, [&](index_t i, index_t j) {
        return rounded(type, plain_value(f, computed(in_double, a), x(i, j)));
      });
    }
  const bool pair_in_double = in_double || any_double(q);
  y.fill_nan();
  c.zip(pair_function::product, x, q, y);
  wrong += wrong_with_sign(y, [&](index_t i, index_t j) {
    return rounded(type, computed(pair_in_double, x(i, j) * q(i, j)));
  });
  y.fill_nan();
  c.zip(pair_function::quotient, x, q, y);
  wrong += wrong_with_sign(y, [&](index_t i, index_t j) {
    return q(i, j) == 0 ? 0 : rounded(type, computed(pair_in_double, x(i, j) / q(i, j)));
  });
  CAPTURE(x.rows());
  CAPTURE(x.columns());
  CHECK(wrong == 0);
  CHECK(y.outside_untouched());
}

/// The key of the order of doubles, written a second time: what precedes zero is counted downwards.
std::uint64_t plain_key(double x) {
  std::uint64_t size = 0;
  const double absolute = std::abs(x);
  std::memcpy(&size, &absolute, sizeof size);
  constexpr std::uint64_t zero = std::uint64_t{1} << 63;
  return x < 0 ? zero - 1 - size : zero + size;
}

double plain_product(const window& a, bool flip_a, const window& b, bool flip_b, index_t i,
                     index_t j) {
  const index_t depth = flip_a ? a.rows() : a.columns();
  double sum = 0;
  for (index_t k = 0; k < depth; ++k)
    sum += (flip_a ? a(k, i) : a(i, k)) * (flip_b ? b(j, k) : b(k, j));
  return sum;
}

struct product_case {
  index_t m, k, n;
  op first, second;
  double alpha, beta;
};

void check_product(host_context& c, const product_case& p, scalar_type type_a, scalar_type type_b,
                   scalar_type type_y, layout how_a, layout how_b, layout how_y, index_t offset) {
  const bool flip_a = p.first == op::transpose, flip_b = p.second == op::transpose;
  window a(type_a, flip_a ? p.k : p.m, flip_a ? p.m : p.k, how_a, offset);
  window b(type_b, flip_b ? p.n : p.k, flip_b ? p.k : p.n, how_b, offset);
  window y(type_y, p.m, p.n, how_y, offset);
  a.fill(grid{1});
  b.fill(grid{2});
  const grid old{3};
  p.beta == 0 ? y.fill_nan() : y.fill(old);
  c.multiply(p.alpha, a, p.first, b, p.second, p.beta, y);
  const index_t wrong = wrong_elements(y, [&](index_t i, index_t j) {
    const double kept = p.beta == 0 ? 0 : p.beta * old(i, j);
    return rounded(type_y, p.alpha * plain_product(a, flip_a, b, flip_b, i, j) + kept);
  });
  CAPTURE(p.m);
  CAPTURE(p.k);
  CAPTURE(p.n);
  CHECK(wrong == 0);
  CHECK(y.outside_untouched());
}

}  // namespace

TEST_CASE("elementwise operations: every mix of storage types") {
  host_context c;
  const shape s{7, 5};
  for (const auto type_a : all_types)
    for (const auto type_b : all_types)
      for (const auto type_y : all_types) {
        window a(type_a, s.rows, s.columns, layout::column_major, 1);
        window b(type_b, s.rows, s.columns, layout::padded_rows, 1);
        a.fill(grid{1});
        b.fill(grid{2});
        check_elementwise(c, s, a, b, type_y, layout::spread, 1);
      }
}

TEST_CASE("elementwise operations: every layout, aligned and not, around the cuts of blocks") {
  host_context c;
  for (const shape s : shapes)
    for (const auto how_a : all_layouts)
      for (const auto how_y : all_layouts) {
        window a(scalar_type::f32, s.rows, s.columns, how_a, 1);
        window b(scalar_type::f64, s.rows, s.columns, layout::column_major);
        a.fill(grid{4});
        b.fill(grid{5});
        CAPTURE(s.rows);
        CAPTURE(s.columns);
        check_elementwise(c, s, a, b, scalar_type::f32, how_y, 1);
      }
}

TEST_CASE("elementwise operations work in place") {
  host_context c;
  window x(scalar_type::f32, 300, 257);
  x.fill(grid{6});
  c.subtract(x, x, x);
  CHECK(wrong_elements(x, [](index_t, index_t) { return 0.0; }) == 0);
  window y(scalar_type::f16, 300, 257, layout::column_major);
  y.fill(grid{6});
  c.axpy(1, y, y);
  CHECK(wrong_elements(y, [](index_t i, index_t j) { return 2 * grid{6}(i, j); }) == 0);
}

TEST_CASE("arithmetic is in double as soon as one operand is") {
  host_context c;
  window a(scalar_type::f64, 1, 1), b(scalar_type::f32, 1, 1), y(scalar_type::f32, 1, 1);
  a.set(0, 0, 1 + 0x1p-40);
  b.set(0, 0, 1);
  c.subtract(a, b, y);  // in float this would be 0
  CHECK(y(0, 0) == 0x1p-40);
}

TEST_CASE("half and bfloat16 are rounded once, from float and from double") {
  host_context c;
  for (const auto type : {scalar_type::f16, scalar_type::bf16}) {
    // All pairs of neighbours among the 16-bit numbers: their middle, and the doubles next to it,
    // which rounding through float would take for the middle.
    std::vector<double> values;
    for (unsigned bits = 0; bits < 0x7FFF; ++bits)
      for (const unsigned sign : {0U, 0x8000U}) {
        const auto number = [&](unsigned pattern) {
          const auto raw = static_cast<std::uint16_t>(pattern | sign);
          window w(type, 1, 1);
          std::memcpy(w.view().writable(), &raw, 2);
          return w(0, 0);
        };
        const double low = number(bits);
        double high = number(bits + 1);
        if (std::isnan(low) || std::isnan(high) || std::isinf(low)) continue;
        // Beyond the largest number the next one would stand a step further on.
        if (std::isinf(high)) high = 2 * low - number(bits - 1);
        const double middle = low / 2 + high / 2;
        for (const double x :
             {low, middle, std::nextafter(middle, low), std::nextafter(middle, high),
              low + (high - low) * 0.25, low + (high - low) * 0.75})
          values.push_back(x);
      }
    for (const double x :
         {0.0, -0.0, 1e300, -1e300, 5e-324, -5e-324, 1e-300, 65519.999, 65520.0, 3.3895e38, 3.4e38})
      values.push_back(x);
    const index_t n = static_cast<index_t>(values.size());
    REQUIRE(n > 100000);

    window wide(scalar_type::f64, n, 1), narrow(type, n, 1);
    wide.fill([&](index_t i, index_t) { return values[at(i)]; });
    c.assign(wide, narrow);
    CHECK(wrong_elements(narrow,
                         [&](index_t i, index_t) { return rounded(type, values[at(i)]); }) == 0);

    window single(scalar_type::f32, n, 1);
    single.fill(
        [&](index_t i, index_t) { return std::abs(values[at(i)]) > 3.4e38 ? 0 : values[at(i)]; });
    c.assign(single, narrow);
    CHECK(wrong_elements(narrow, [&](index_t i, index_t) { return rounded(type, single(i, 0)); }) ==
          0);

    // And back without loss, signs of zero included.
    window back(scalar_type::f64, n, 1), again(type, n, 1);
    c.assign(narrow, back);
    CHECK(wrong_elements(back, [&](index_t i, index_t) { return narrow(i, 0); }) == 0);
    c.assign(back, again);
    CHECK(std::memcmp(again.view().data, narrow.view().data, at(n) * 2) == 0);
  }
}

TEST_CASE("infinities and NaN pass through every conversion") {
  host_context c;
  const double infinity = std::numeric_limits<double>::infinity();
  for (const auto from : all_types)
    for (const auto to : all_types) {
      window x(from, 3, 1), y(to, 3, 1);
      x.set(0, 0, infinity);
      x.set(1, 0, -infinity);
      x.set(2, 0, std::numeric_limits<double>::quiet_NaN());
      c.assign(x, y);
      CHECK(y(0, 0) == infinity);
      CHECK(y(1, 0) == -infinity);
      CHECK(std::isnan(y(2, 0)));
      for (index_t i = 0; i < 3; ++i) CHECK_FALSE(c.all_finite(c.slice(y.view(), i, 1, 0, 1)));
    }
}

TEST_CASE("multiply: every mix of storage types, transposition, alpha and beta") {
  host_context c;
  for (const auto type_a : all_types)
    for (const auto type_b : all_types)
      for (const auto type_y : all_types)
        for (const auto first : {op::none, op::transpose})
          for (const auto second : {op::none, op::transpose})
            for (const auto& [alpha, beta] :
                 {std::pair{1.0, 0.0}, {-0.5, 0.0}, {2.0, 1.0}, {1.0, -0.5}})
              check_product(c, {5, 7, 6, first, second, alpha, beta}, type_a, type_b, type_y,
                            layout::row_major, layout::column_major, layout::spread, 1);
}

TEST_CASE("multiply: every layout of every operand") {
  host_context c;
  for (const auto how_a : all_layouts)
    for (const auto how_b : all_layouts)
      for (const auto how_y : all_layouts)
        for (const index_t n : {1, 3, 21})
          check_product(c, {n, 22, 19, op::none, op::transpose, 1, 0.5}, scalar_type::f32,
                        scalar_type::f32, scalar_type::f32, how_a, how_b, how_y, 1);
}

TEST_CASE("multiply: sizes around the cuts of tiles and of the depth") {
  host_context c;
  for (const auto type : {scalar_type::f32, scalar_type::f64}) {
    for (const index_t k : {511, 512, 513, 1025})
      for (const index_t n : {1, 8, 33})
        check_product(c, {n, k, 9, op::none, op::none, 1, 1}, type, type, type,
                      layout::column_major, layout::row_major, layout::row_major, 1);
    for (const index_t m : {255, 256, 257})
      for (const index_t n : {1, 255, 256, 257})
        check_product(c, {m, 11, n, op::transpose, op::none, 0.5, 0}, type, scalar_type::f32, type,
                      layout::padded_rows, layout::padded_columns, layout::column_major, 0);
  }
  check_product(c, {513, 70, 258, op::none, op::transpose, 1, 0}, scalar_type::f16,
                scalar_type::f32, scalar_type::f32, layout::row_major, layout::row_major,
                layout::row_major, 0);
}

TEST_CASE("multiply: few rows and many, around the shapes of the kernel for few") {
  host_context c;
  for (const auto type : {scalar_type::f32, scalar_type::f64})
    for (const auto second : {op::none, op::transpose})
      for (const index_t k : {1, 17, 65}) {
        for (const index_t m : {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 28, 40, 127, 128, 129})
          for (const index_t n : {1, 3, 8, 15, 16, 20, 31, 33, 63, 64, 65, 130, 300})
            check_product(c, {m, k, n, op::none, second, -2, 0.5}, type, type, type,
                          layout::row_major, layout::row_major, layout::row_major, 1);
        for (const index_t m : {3, 13, 60})
          check_product(c, {m, 512 + k, 67, op::none, second, 1, 0}, type, type, type,
                        layout::padded_rows, layout::padded_rows, layout::row_major, 0);
        for (const index_t n : {511, 512, 513, 530})
          check_product(c, {15, 63 + k, n, op::none, second, 1, 1}, type, type, type,
                        layout::padded_rows, layout::row_major, layout::padded_rows, 1);
      }
}

TEST_CASE("multiply: no rows, no columns, no depth") {
  host_context c;
  for (const auto beta : {0.0, 2.0})
    for (const auto& p : {product_case{0, 3, 4, op::none, op::none, 1, beta},
                          {3, 0, 4, op::none, op::transpose, 1, beta},
                          {3, 4, 0, op::transpose, op::none, 1, beta},
                          {0, 0, 0, op::none, op::none, 1, beta}})
      check_product(c, p, scalar_type::f32, scalar_type::f32, scalar_type::f32, layout::row_major,
                    layout::row_major, layout::row_major, 0);
}

TEST_CASE("multiply is in the precision of the result") {
  host_context c;
  generator g(11);
  const index_t m = 20, k = 300, n = 30;
  window a(scalar_type::f32, m, k), b(scalar_type::f32, k, n), y(scalar_type::f64, m, n),
      single(scalar_type::f32, m, n);
  a.fill([&](index_t, index_t) { return static_cast<double>(static_cast<float>(g.normal())); });
  b.fill([&](index_t, index_t) { return static_cast<double>(static_cast<float>(g.normal())); });
  c.multiply(1.5, a, op::none, b, op::none, 0, y);
  c.multiply(1.5, a, op::none, b, op::none, 0, single);
  double worst = 0, worst_single = 0;
  for (index_t i = 0; i < m; ++i)
    for (index_t j = 0; j < n; ++j) {
      long double sum = 0, absolute = 0;
      for (index_t l = 0; l < k; ++l) {
        const long double t =
            1.5L * static_cast<long double>(a(i, l)) * static_cast<long double>(b(l, j));
        sum += t;
        absolute += std::abs(t);
      }
      const double scale = static_cast<double>(absolute);
      worst = std::max(
          worst, static_cast<double>(std::abs(sum - static_cast<long double>(y(i, j)))) / scale);
      worst_single = std::max(
          worst_single,
          static_cast<double>(std::abs(sum - static_cast<long double>(single(i, j)))) / scale);
    }
  CHECK(worst <= tolerance::product<double>(k, 1));
  CHECK(worst_single <= tolerance::product<float>(k, 1));
  CHECK(worst_single > tolerance::product<double>(k, 1));  // the test tells the two apart
}

TEST_CASE("reductions against loops in long double") {
  host_context c;
  generator g(12);
  for (const shape s : shapes)
    for (const auto type : all_types)
      for (const auto how : {layout::row_major, layout::padded_columns, layout::spread}) {
        window x(type, s.rows, s.columns, how, 1), y(scalar_type::f32, s.rows, s.columns);
        x.fill([&](index_t, index_t) { return rounded(type, g.normal()); });
        y.fill([&](index_t, index_t) { return rounded(scalar_type::f32, g.normal()); });
        long double square = 0, dot = 0, absolute = 0;
        for (index_t i = 0; i < s.rows; ++i)
          for (index_t j = 0; j < s.columns; ++j) {
            const auto p = static_cast<long double>(x(i, j)), q = static_cast<long double>(y(i, j));
            square += p * p;
            dot += p * q;
            absolute += std::abs(p * q);
          }
        const double n = static_cast<double>(s.rows * s.columns);
        CHECK(std::abs(c.squared_norm(x) - static_cast<double>(square)) <=
              tolerance::product<double>(n, static_cast<double>(square)));
        CHECK(std::abs(c.dot(x, y) - static_cast<double>(dot)) <=
              tolerance::product<double>(n, static_cast<double>(absolute)));
        CHECK(c.all_finite(x));
      }
}

TEST_CASE("all_finite finds one bad element anywhere, and large finite ones are fine") {
  host_context c;
  for (const shape s : {shape{1, 1}, {17, 257}, {4097, 1}, {1, 4097}})
    for (const auto type : all_types)
      for (const auto bad :
           {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
            std::numeric_limits<double>::quiet_NaN()})
        for (const auto& [i, j] : {std::pair{s.rows - 1, s.columns - 1},
                                   {index_t{0}, index_t{0}},
                                   {s.rows / 2, s.columns / 2}}) {
          window x(type, s.rows, s.columns, layout::column_major);
          x.fill([&](index_t, index_t) { return type == scalar_type::f64 ? -1e308 : 32768.0; });
          CHECK(c.all_finite(x));
          x.set(i, j, bad);
          CHECK_FALSE(c.all_finite(x));
        }
}

TEST_CASE("add_diagonal adds the diagonal of a square matrix, however it is stored") {
  host_context c;
  for (const index_t d : {0, 1, 5, 130})
    for (const auto type : all_types)
      for (const auto how : {layout::row_major, layout::column_major, layout::spread}) {
        window x(type, d, d, how, 1), y(scalar_type::f64, d, 1, layout::spread);
        x.fill(grid{8});
        y.fill(grid{9});
        c.add_diagonal(-0.5, x, y);
        CHECK(wrong_elements(
                  y, [&](index_t j, index_t) { return grid{9}(j, 0) - 0.5 * x(j, j); }) == 0);
        CHECK(y.outside_untouched());
      }
}

TEST_CASE("column_energies and weighted_square add to what is there") {
  host_context c;
  for (const shape s : {shape{0, 3}, {1, 1}, {7, 5}, {65, 64}, {129, 63}, {64, 130}, {3, 257}})
    for (const auto type : all_types)
      for (const auto how : {layout::row_major, layout::column_major, layout::spread}) {
        window x(type, s.rows, s.columns, how, 1),
            y(scalar_type::f64, s.columns, 1, layout::spread);
        x.fill(grid{8});
        y.fill(grid{9});
        c.column_energies(0.5, x, y);
        CHECK(wrong_elements(y, [&](index_t j, index_t) {
                double sum = 0;
                for (index_t i = 0; i < s.rows; ++i) sum += x(i, j) * x(i, j);
                return grid{9}(j, 0) + 0.5 * sum;
              }) == 0);
        CHECK(y.outside_untouched());
      }
  for (const index_t d : {1, 5, 4097})
    for (const auto type : all_types) {
      window w(scalar_type::f64, d, 1), x(type, d, 1, layout::spread), y(scalar_type::f64, d, 1);
      w.fill(grid{10});
      x.fill(grid{11});
      y.fill(grid{12});
      c.weighted_square(-0.25, w, x, y);
      CHECK(wrong_elements(y, [&](index_t j, index_t) {
              return grid{12}(j, 0) - 0.25 * w(j, 0) * x(j, 0) * x(j, 0);
            }) == 0);
    }
}

TEST_CASE("zero_rows, slice, make and transfers") {
  host_context c;
  for (const auto type : all_types)
    for (const auto how : all_layouts) {
      window y(type, 9, 7, how, 1);
      y.fill(grid{13});
      const std::vector<index_t> list{0, 4, 8};
      c.zero_rows(list, y);
      CHECK(wrong_elements(
                y, [&](index_t i, index_t j) { return i % 4 == 0 ? 0 : grid{13}(i, j); }) == 0);

      const Eigen::MatrixXd m = c.to_host(c.slice(y.view(), 2, 4, 1, 3));
      REQUIRE(m.rows() == 4);
      REQUIRE(m.cols() == 3);
      index_t wrong = 0;
      for (index_t i = 0; i < 4; ++i)
        for (index_t j = 0; j < 3; ++j) wrong += m(i, j) != y(i + 2, j + 1);
      CHECK(wrong == 0);

      window z(type, 9, 7, how, 1);
      z.fill(grid{14});
      c.from_host(m, c.slice(z.view(), 5, 4, 4, 3));
      CHECK(wrong_elements(z, [&](index_t i, index_t j) {
              return i >= 5 && j >= 4 ? m(i - 5, j - 4) : grid{14}(i, j);
            }) == 0);
      CHECK(z.outside_untouched());

      const auto made = c.make(type, 5, 3);
      CHECK(c.type(made) == type);
      CHECK(c.squared_norm(made) == 0);
      CHECK(c.rows(made) == 5);
      CHECK(c.columns(made) == 3);
    }
}

TEST_CASE("map and zip: every mix of storage types, numbers of every kind") {
  host_context c;
  for (const auto type_x : all_types)
    for (const auto type_q : all_types)
      for (const auto type_y : all_types) {
        window x(type_x, 29, 31, layout::column_major, 1), q(type_q, 29, 31, layout::padded_rows);
        x.fill(awkward{type_x, 1});
        q.fill(awkward{type_q, 2});
        check_map(c, x, q, type_y, layout::spread);
      }
}

TEST_CASE("map and zip: every layout, aligned and not, around the cuts of blocks") {
  host_context c;
  for (const shape s : shapes)
    for (const auto how_x : all_layouts)
      for (const auto how_y : all_layouts) {
        window x(scalar_type::f32, s.rows, s.columns, how_x, 1),
            q(scalar_type::f16, s.rows, s.columns, layout::column_major);
        x.fill(awkward{scalar_type::f32, 3});
        q.fill(awkward{scalar_type::f16, 4});
        check_map(c, x, q, scalar_type::f32, how_y);
      }
}

TEST_CASE("exponentials and tangents, to the last bits of the compute type") {
  host_context c;
  for (const auto type_x : all_types)
    for (const auto type_y : all_types)
      for (const auto f : {entry_function::exponential, entry_function::tangent}) {
        window x(type_x, 41, 257), y(type_y, 41, 257, layout::padded_columns, 1);
        generator g(16);
        x.fill([&](index_t i, index_t j) {
          return i == 0 ? awkward{type_x, 5}(i, j) : rounded(type_x, 20 * g.normal());
        });
        c.map(f, 0, x, y);
        // The C library's functions are off by at most 2 units of the last place (its manual,
        // "Errors in Math Functions"), or of the smallest subnormal number.
        const bool in_double = any_double(x, y);
        const double unit = in_double ? tolerance::eps<double> : tolerance::eps<float>,
                     least = in_double ? 5e-324 : 0x1p-149;
        index_t wrong = 0;
        for (index_t i = 0; i < 41; ++i)
          for (index_t j = 0; j < 257; ++j) {
            const long double exact = f == entry_function::exponential
                                          ? std::exp(static_cast<long double>(x(i, j)))
                                          : std::tanh(static_cast<long double>(x(i, j)));
            const auto limit = [&](double sign) {
              const auto size = static_cast<double>(std::abs(exact));
              const double moved = static_cast<double>(exact) + sign * 2 * (unit * size + least);
              return rounded(type_y, computed(in_double, std::isfinite(size) ? moved : size));
            };
            wrong += !(y(i, j) >= limit(-1) && y(i, j) <= limit(1));
          }
        CHECK(wrong == 0);
        CHECK(y.outside_untouched());
      }
}

TEST_CASE("the number that map is given is rounded to the compute type") {
  host_context c;
  window x(scalar_type::f32, 1, 1), y(scalar_type::f32, 1, 1), wide(scalar_type::f64, 1, 1);
  x.set(0, 0, static_cast<double>(0.1F));
  c.map(entry_function::above, 0.1, x, y);
  CHECK(y(0, 0) == 0);
  c.map(entry_function::above, 0.1, x, wide);  // 0.1F is above 0.1
  CHECK(wide(0, 0) == 1);
  c.map(entry_function::at_least, 1.1, x, y);
  CHECK(y(0, 0) == static_cast<double>(1.1F));
}

TEST_CASE("zip is in double as soon as one operand is") {
  host_context c;
  window p(scalar_type::f64, 1, 1), q(scalar_type::f32, 1, 1), y(scalar_type::f32, 1, 1);
  p.set(0, 0, 1e300);
  q.set(0, 0, 1e30F);
  c.zip(pair_function::quotient, p, q, p);
  CHECK(p(0, 0) == 1e300 / static_cast<double>(1e30F));
  p.set(0, 0, 1e-300);
  q.set(0, 0, 0x1p126);
  window small(scalar_type::f64, 1, 1);
  small.set(0, 0, 1e280);
  c.zip(pair_function::product, p, small, y);  // in float both factors would be lost
  CHECK(y(0, 0) == rounded(scalar_type::f32, 1e-300 * 1e280));
}

TEST_CASE("map, zip and scale_columns work in place") {
  host_context c;
  for (const auto type : all_types)
    for (const auto how : all_layouts) {
      const awkward values{type, 6, false};
      window x(type, 65, 257, how, 1), q(type, 65, 257);
      q.fill(awkward{type, 7, false});
      x.fill(values);
      c.map(entry_function::absolute, 0, x, x);
      CHECK(wrong_elements(x, [&](index_t i, index_t j) { return std::abs(values(i, j)); }) == 0);
      x.fill(values);
      c.zip(pair_function::quotient, x, q, x);
      CHECK(wrong_elements(x, [&](index_t i, index_t j) {
              const double quotient = q(i, j) == 0 ? 0 : values(i, j) / q(i, j);
              return rounded(type, computed(type == scalar_type::f64, quotient));
            }) == 0);
      x.fill(values);
      c.zip(pair_function::quotient, q, x, x);
      CHECK(wrong_elements(x, [&](index_t i, index_t j) {
              const double quotient = values(i, j) == 0 ? 0 : q(i, j) / values(i, j);
              return rounded(type, computed(type == scalar_type::f64, quotient));
            }) == 0);
      x.fill(values);
      c.zip(pair_function::product, x, x, x);
      CHECK(wrong_elements(x, [&](index_t i, index_t j) {
              const double square = values(i, j) * values(i, j);
              return rounded(type, computed(type == scalar_type::f64, square));
            }) == 0);
      CHECK(x.outside_untouched());
    }
}

TEST_CASE("scale_columns: every type, layout and cut of blocks, factors of every kind") {
  host_context c;
  for (const shape s : {shape{0, 3},
                        {3, 0},
                        {0, 0},
                        {1, 1},
                        {1, 4097},
                        {4097, 1},
                        {64, 65},
                        {17, 255},
                        {17, 256},
                        {16, 257},
                        {33, 511},
                        {9, 513}})
    for (const auto type : all_types)
      for (const auto how : all_layouts) {
        const awkward old{type, 8}, factor{scalar_type::f64, 9};
        std::vector<double> w;
        for (index_t j = 0; j < s.columns; ++j) w.push_back(factor(0, j));
        window y(type, s.rows, s.columns, how, 1);
        y.fill(old);
        c.scale_columns(w, y);
        const bool in_double = type == scalar_type::f64;
        const index_t wrong = wrong_with_sign(y, [&](index_t i, index_t j) {
          return rounded(type, computed(in_double, old(i, j) * computed(in_double, w[at(j)])));
        });
        CAPTURE(s.rows);
        CAPTURE(s.columns);
        CHECK(wrong == 0);
        CHECK(y.outside_untouched());
      }
}

TEST_CASE("the new operations give the same bits at any number of threads") {
  generator g(17);
  const index_t rows = 120, columns = 700;
  window x(scalar_type::f32, rows, columns), q(scalar_type::f64, rows, columns);
  x.fill([&](index_t, index_t) { return rounded(scalar_type::f32, g.normal()); });
  q.fill([&](index_t, index_t) { return g.normal(); });
  std::vector<double> w;
  for (index_t j = 0; j < columns; ++j) w.push_back(g.normal());
  const auto everything = [&](host_context& c) {
    std::vector<double> found;
    const auto note = [&](const window& y) {
      for (index_t i = 0; i < rows; ++i)
        for (index_t j = 0; j < columns; ++j) found.push_back(y(i, j));
    };
    window y(scalar_type::f32, rows, columns);
    for (const auto f : {entry_function::absolute, entry_function::sign,
                         entry_function::exponential, entry_function::tangent,
                         entry_function::at_least, entry_function::at_most, entry_function::above})
      c.map(f, 0.25, x, y), note(y);
    for (const auto f : {pair_function::product, pair_function::quotient})
      c.zip(f, x, q, y), note(y);
    c.scale_columns(w, y), note(y);
    std::vector<std::uint64_t> counts(std::size_t{1} << 18);
    c.count_keys(x, 0, 0, counts);
    found.insert(found.end(), counts.begin(), counts.end());
    return found;
  };
  host_context plain;
  const auto expected = everything(plain);
  for (const int threads : {1, 2, 3, 8}) {
    std::atomic<int> calls{0};
    host_context c(scrambled(threads, &calls));
    CHECK(same_bits(everything(c), expected));
    CHECK(calls >= 10);  // of all but count_keys
  }
}

TEST_CASE("concurrently calls each once, on any number of threads, and inside itself") {
  for (const int threads : {0, 1, 3}) {
    host_context c = threads == 0 ? host_context() : host_context(scrambled(threads));
    std::vector<std::vector<int>> calls(20, std::vector<int>(5, 0));
    c.concurrently(
        20, [&](index_t i) { c.concurrently(5, [&](index_t j) { ++calls[at(i)][at(j)]; }); });
    for (const auto& row : calls)
      for (const int n : row) CHECK(n == 1);
    c.concurrently(0, [](index_t) { FAIL("there is nothing to do"); });
    CHECK_THROWS_AS(c.concurrently(4,
                                   [](index_t i) {
                                     if (i == 2) throw catmerge::error("two");
                                   }),
                    catmerge::error);
  }
}

TEST_CASE("keys have the order of the numbers, and give them back") {
  using limits = std::numeric_limits<double>;
  using single = std::numeric_limits<float>;
  std::vector<double> edges{0.0};
  for (const double x :
       {5e-324, 1e-323, limits::min(), std::nextafter(limits::min(), 0.0),
        static_cast<double>(single::denorm_min()), static_cast<double>(single::min()), 0x1p-24,
        std::nextafter(1.0, 0.0), 1.0, std::nextafter(1.0, 2.0), static_cast<double>(0.1F), 0.1,
        65504.0, static_cast<double>(single::max()), limits::max(), limits::infinity()})
    edges.push_back(x), edges.push_back(-x);
  const auto check = [](double a, double b) {
    const std::uint64_t p = catmerge::detail::order_key(a), q = catmerge::detail::order_key(b);
    return (a < b) == (p < q) && (a == b) == (p == q);
  };
  for (const double a : edges)
    for (const double b : edges) CHECK(check(a, b));
  CHECK(catmerge::detail::order_key(-0.0) == catmerge::detail::order_key(0.0));

  std::mt19937_64 bits(18);
  const auto any = [&](auto zero) {
    using S = decltype(zero);
    S x = zero;
    do {
      const std::uint64_t pattern = bits();
      std::memcpy(&x, &pattern, sizeof x);
    } while (std::isnan(x));
    return static_cast<double>(x);
  };
  index_t wrong = 0;
  for (int n = 0; n < 100000; ++n) {
    const double a = any(0.0), b = any(0.0), f = any(0.0F);
    wrong += !check(a, b) || !check(a, f);
    // Numbers of nearly equal size, and neighbours.
    wrong += !check(a, std::nextafter(a, b)) || !check(f, std::nextafter(f, b));
    for (const double x : {a, f})
      wrong += catmerge::detail::of_order_key(catmerge::detail::order_key(x)) != x;
    // Two digits are all that a float has: the rest of its key is zeros, or ones below zero.
    const std::uint64_t rest = catmerge::detail::order_key(f) & ((std::uint64_t{1} << 28) - 1);
    wrong += rest != (f < 0 ? (std::uint64_t{1} << 28) - 1 : 0);
  }
  CHECK(wrong == 0);
  for (const double x : edges) {
    CHECK(catmerge::detail::of_order_key(catmerge::detail::order_key(x)) == x);
    CHECK(catmerge::detail::order_key(x) == plain_key(x));
  }
}

TEST_CASE("count_keys counts what begins with the digits before, for every type and layout") {
  host_context c;
  const int shifts[] = {46, 28, 10, 0}, bits[] = {18, 18, 18, 10};
  for (const auto type : all_types)
    for (const shape s : {shape{0, 3}, {3, 0}, {1, 1}, {17, 257}, {1, 4097}, {4097, 1}})
      for (const auto how : {layout::row_major, layout::spread, layout::backwards}) {
        window x(type, s.rows, s.columns, how, 1);
        x.fill(awkward{type, 10});
        for (int depth = 0; depth < 4; ++depth) {
          const auto before = [&](double v) {
            return depth == 0 ? 0 : plain_key(v) >> (shifts[depth] + bits[depth]);
          };
          std::vector<std::uint64_t> prefixes{depth == 0 ? 0 : std::uint64_t{12345}};
          if (s.rows * s.columns > 0)
            for (const double v : {x(0, 0), x(s.rows - 1, s.columns - 1), x(s.rows / 2, 0)})
              prefixes.push_back(before(v));
          for (const std::uint64_t prefix : prefixes) {
            std::vector<std::uint64_t> expected(std::size_t{1} << bits[depth], 7);
            auto counts = expected;  // added to what is there
            for (index_t i = 0; i < s.rows; ++i)
              for (index_t j = 0; j < s.columns; ++j)
                if (before(x(i, j)) == prefix)
                  ++expected[(plain_key(x(i, j)) >> shifts[depth]) % (1ULL << bits[depth])];
            c.count_keys(x, depth, prefix, counts);
            CHECK(counts == expected);
          }
        }
      }
}

TEST_CASE("symmetric_eigen: ascending values, vectors in their place") {
  host_context c;
  generator g(15);
  for (const index_t d : {0, 1, 2, 17, 33, 34, 60, 65, 130}) {  // reflections go by 32
    const Eigen::MatrixXd half = g.matrix(d, d);
    const Eigen::MatrixXd s = half + half.transpose();
    window y(scalar_type::f64, d, d, layout::padded_columns);
    y.fill([&](index_t i, index_t j) { return s(i, j); });
    const auto values = c.symmetric_eigen(y, d);
    REQUIRE(static_cast<index_t>(values.size()) == d);
    const Eigen::MatrixXd v = c.to_host(y);
    const double size = d > 0 ? s.norm() : 0;
    for (index_t j = 0; j < d; ++j) {
      CHECK((s * v.col(j) - values[at(j)] * v.col(j)).norm() <= 64 * tolerance::eps<double> * size);
      if (j > 0) CHECK(values[at(j)] >= values[at(j - 1)]);
    }
    const Eigen::MatrixXd defect = v.transpose() * v - Eigen::MatrixXd::Identity(d, d);
    if (d > 0) CHECK(defect.cwiseAbs().maxCoeff() <= tolerance::orthonormal<double>);
    // Units that are powers of two change no bit, though squares of entries overflow or vanish.
    for (const double unit : {0x1p700, 0x1p-700}) {
      window scaled(scalar_type::f64, d, d, layout::row_major);
      scaled.fill([&](index_t i, index_t j) { return unit * s(i, j); });
      const auto in_unit = c.symmetric_eigen(scaled, d);
      index_t wrong = 0;
      for (index_t j = 0; j < d; ++j) wrong += in_unit[at(j)] != unit * values[at(j)];
      CHECK(wrong == 0);
      CHECK(same_bits(c.to_host(scaled), v));
    }
  }
}

TEST_CASE("shapes that do not fit are errors, for every operation") {
  host_context c;
  window a(scalar_type::f32, 3, 4), b(scalar_type::f32, 4, 3), y(scalar_type::f32, 3, 4),
      v(scalar_type::f64, 3, 1);
  a.fill(grid{1});
  b.fill(grid{1});
  y.fill(grid{1});
  v.fill(grid{1});
  CHECK_THROWS_AS(c.assign(b, y), catmerge::error);
  CHECK_THROWS_AS(c.subtract(a, b, y), catmerge::error);
  CHECK_THROWS_AS(c.subtract(a, a, b), catmerge::error);
  const host_context::const_view good[] = {a}, bad[] = {a, b};
  CHECK_THROWS_AS(c.accumulate(1, good, b, y), catmerge::error);
  CHECK_THROWS_AS(c.accumulate(1, bad, a, y), catmerge::error);
  CHECK_THROWS_AS(c.axpy(1, b, y), catmerge::error);
  CHECK_THROWS_AS(c.multiply(1, a, op::none, a, op::none, 0, y), catmerge::error);
  CHECK_THROWS_AS(c.multiply(1, a, op::none, b, op::none, 0, y), catmerge::error);
  CHECK_THROWS_AS(c.multiply(1, a, op::none, b, op::transpose, 0, v), catmerge::error);
  CHECK_THROWS_AS(c.dot(a, b), catmerge::error);
  CHECK_THROWS_AS(c.transpose(a, y), catmerge::error);
  CHECK_THROWS_AS(c.accumulate(1, bad, y), catmerge::error);
  CHECK_THROWS_AS(c.add_diagonal(1, a, v), catmerge::error);
  CHECK_THROWS_AS(c.column_energies(1, a, v), catmerge::error);  // a has 4 columns, v 3 rows
  CHECK_THROWS_AS(c.weighted_square(1, v, a, v), catmerge::error);
  CHECK_THROWS_AS(c.from_host(Eigen::MatrixXd::Zero(3, 3), y), catmerge::error);
  CHECK_THROWS_AS(c.zero_rows(std::vector<index_t>{3}, y), catmerge::error);
  CHECK_THROWS_AS(c.zero_rows(std::vector<index_t>{-1}, y), catmerge::error);
  CHECK_THROWS_WITH_AS(c.scale_columns(std::vector<double>(3), y),
                       "3 factors for the columns of 3 x 4", catmerge::error);
  CHECK_THROWS_AS(c.scale_columns({}, y), catmerge::error);
  CHECK_THROWS_WITH_AS(c.map(entry_function::sign, 0, b, y),
                       "elementwise operation on tensors of different shapes: 3 x 4 and 4 x 3",
                       catmerge::error);
  CHECK_THROWS_AS(c.zip(pair_function::product, b, a, y), catmerge::error);
  CHECK_THROWS_AS(c.zip(pair_function::product, a, b, y), catmerge::error);
  CHECK_THROWS_AS(c.zip(pair_function::quotient, a, a, b), catmerge::error);
  for (const int depth : {0, 1, 2, 3}) {
    const std::size_t right = depth < 3 ? std::size_t{1} << 18 : 1024;
    for (const std::size_t wrong : {std::size_t{0}, right - 1, right + 1}) {
      std::vector<std::uint64_t> counts(wrong);
      CHECK_THROWS_WITH_AS(c.count_keys(a, depth, 0, counts),
                           ("count_keys: " + std::to_string(wrong) + " counts for digits of " +
                            std::to_string(depth < 3 ? 18 : 10) + " bits")
                               .c_str(),
                           catmerge::error);
    }
  }
  CHECK(wrong_elements(y, grid{1}) == 0);  // nothing was written
  CHECK_THROWS_AS(c.symmetric_eigen(y, 3), catmerge::error);
  CHECK_THROWS_AS(c.make(scalar_type::f32, -1, 2), catmerge::error);
  CHECK_THROWS_AS(c.make(scalar_type::f64, index_t{1} << 40, index_t{1} << 40), std::bad_alloc);
}

TEST_CASE("views refuse what cannot be a tensor") {
  float x[4] = {};
  CHECK_THROWS_AS(catmerge::host_view(catmerge::strided_view<float>{x, -1, 2, 2, 1}),
                  catmerge::error);
  CHECK_THROWS_AS(catmerge::host_view(catmerge::strided_view<float>{nullptr, 1, 2, 2, 1}),
                  catmerge::error);
  CHECK_THROWS_AS(catmerge::host_view(catmerge::strided_view<float>{x, 2, 2, 0, 1}),
                  catmerge::error);
  CHECK_NOTHROW(
      catmerge::host_const_view(catmerge::strided_view<float>{x, 2, 2, 0, 1}));  // a broadcast
  CHECK_NOTHROW(catmerge::host_view(catmerge::strided_view<float>{x, 1, 4, 0, 1}));
  CHECK_NOTHROW(catmerge::host_view(catmerge::strided_view<float>{nullptr, 0, 4, 0, 0}));
  const catmerge::host_matrix m(scalar_type::f32, 2, 2);
  CHECK_THROWS_AS(m.data<double>(), catmerge::error);
}
