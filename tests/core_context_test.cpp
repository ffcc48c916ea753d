// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/tensor/host.hpp>
#include <utility>

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
  c.accumulate(0.5, a, b, y);
  look(y, [&](index_t i, index_t j) { return old(i, j) + 0.5 * (a(i, j) - b(i, j)); });
  y = fresh();
  c.axpy(-1.5, a, y);
  look(y, [&](index_t i, index_t j) { return old(i, j) - 1.5 * a(i, j); });
  y = fresh();
  c.scale(-0.75, y);
  look(y, [&](index_t i, index_t j) { return -0.75 * old(i, j); });
  CHECK(wrong == 0);
  CHECK(inside);
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

TEST_CASE("symmetric_eigen: ascending values, vectors in their place") {
  host_context c;
  generator g(15);
  for (const index_t d : {0, 1, 2, 17, 60}) {
    const Eigen::MatrixXd half = g.matrix(d, d);
    const Eigen::MatrixXd s = half + half.transpose();
    window y(scalar_type::f64, d, d, layout::padded_columns);
    y.fill([&](index_t i, index_t j) { return s(i, j); });
    const auto values = c.symmetric_eigen(y);
    REQUIRE(static_cast<index_t>(values.size()) == d);
    const Eigen::MatrixXd v = c.to_host(y);
    const double size = d > 0 ? s.norm() : 0;
    for (index_t j = 0; j < d; ++j) {
      CHECK((s * v.col(j) - values[at(j)] * v.col(j)).norm() <= 64 * tolerance::eps<double> * size);
      if (j > 0) CHECK(values[at(j)] >= values[at(j - 1)]);
    }
    const Eigen::MatrixXd defect = v.transpose() * v - Eigen::MatrixXd::Identity(d, d);
    if (d > 0) CHECK(defect.cwiseAbs().maxCoeff() <= tolerance::orthonormal<double>);
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
  CHECK_THROWS_AS(c.accumulate(1, a, b, y), catmerge::error);
  CHECK_THROWS_AS(c.axpy(1, b, y), catmerge::error);
  CHECK_THROWS_AS(c.multiply(1, a, op::none, a, op::none, 0, y), catmerge::error);
  CHECK_THROWS_AS(c.multiply(1, a, op::none, b, op::none, 0, y), catmerge::error);
  CHECK_THROWS_AS(c.multiply(1, a, op::none, b, op::transpose, 0, v), catmerge::error);
  CHECK_THROWS_AS(c.dot(a, b), catmerge::error);
  CHECK_THROWS_AS(c.column_energies(1, a, v), catmerge::error);  // a has 4 columns, v 3 rows
  CHECK_THROWS_AS(c.weighted_square(1, v, a, v), catmerge::error);
  CHECK_THROWS_AS(c.from_host(Eigen::MatrixXd::Zero(3, 3), y), catmerge::error);
  CHECK_THROWS_AS(c.zero_rows(std::vector<index_t>{3}, y), catmerge::error);
  CHECK_THROWS_AS(c.zero_rows(std::vector<index_t>{-1}, y), catmerge::error);
  CHECK_THROWS_AS(c.symmetric_eigen(y), catmerge::error);
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
