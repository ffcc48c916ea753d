// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include "support/backends/torch.hpp"

#include <doctest/doctest.h>

#include <ATen/Parallel.h>
#include <array>
#include <catmerge/catmerge.hpp>
#include <fstream>
#include <sstream>
#include <string>

#include "support/oracle.hpp"
#include "support/tolerance.hpp"
#include "support/windows.hpp"

using namespace test;
using catmerge::const_view_of;
using catmerge::op;
using catmerge::torch_const_view;
using catmerge::torch_domain;
using catmerge::torch_view;
using catmerge::view_of;
using catmerge::detail::torch_type;

namespace {

using torch_context = catmerge::context<torch_domain>;
using host_context = catmerge::context<catmerge::host>;
using doubles = torch_backend<double>;

static_assert(catmerge::any_matrix<at::Tensor> && catmerge::any_vector<at::Tensor>);
static_assert(catmerge::makeable<at::Tensor>);
static_assert(std::is_same_v<catmerge::result_t<at::Tensor>, at::Tensor>);
// A view for reading cannot be written to, and no tensor becomes a view unseen.
static_assert(std::is_convertible_v<torch_view, torch_const_view>);
static_assert(!std::is_constructible_v<torch_view, torch_const_view>);
static_assert(!std::is_convertible_v<at::Tensor, torch_view>);
static_assert(!std::is_convertible_v<const catmerge::torch_matrix&, torch_view>);
static_assert(!std::is_convertible_v<catmerge::torch_matrix&&, catmerge::torch_matrix&>);
static_assert(!std::is_copy_constructible_v<catmerge::torch_matrix>);
static_assert(catmerge::detail::has_mutable_view<at::Tensor&>);
static_assert(!catmerge::detail::has_mutable_view<const at::Tensor&>);

/// Multiples of 1/4 from -3 to 3: sums and products of few of them are exact in every compute type,
/// so the order of summation does not matter.
struct grid {
  std::uint64_t seed;
  double operator()(index_t i, index_t j) const {
    const auto z = (seed * 2654435761U + static_cast<std::uint64_t>(i) * 40503U +
                    static_cast<std::uint64_t>(j) * 69069U + 12345U) *
                   0x9E3779B97F4A7C15U;
    return static_cast<double>(static_cast<int>((z >> 40) % 25) - 12) / 4;
  }
};

/// The layouts of a tensor in its memory.
enum class kind { whole, transposed, inner, stepped };
constexpr kind all_kinds[] = {kind::whole, kind::transposed, kind::inner, kind::stepped};

constexpr double around =
    1024;  // a number of every type, and none of the grid's or of its products

/// The same numbers as a torch tensor and as a host window.
struct pair {
  at::Tensor memory, tensor;
  window host;

  template <class F>
  pair(scalar_type type, index_t rows, index_t columns, kind how, const F& f)
      : host(type, rows, columns) {
    const auto make = [&](index_t r, index_t c) {
      return doubles::matrix(Eigen::MatrixXd::Constant(r, c, around)).to(torch_type(type));
    };
    switch (how) {
      case kind::whole: memory = make(rows, columns), tensor = memory; break;
      case kind::transposed: memory = make(columns, rows), tensor = memory.t(); break;
      case kind::inner:
        memory = make(rows + 3, columns + 2);
        tensor = memory.narrow(0, 1, rows).narrow(1, 2, columns);
        break;
      case kind::stepped:
        memory = make(2 * rows + 1, 3 * columns + 1);
        tensor = memory.slice(0, 1, 2 * rows + 1, 2).slice(1, 1, 3 * columns + 1, 3);
        break;
    }
    host.fill(f);
    Eigen::MatrixXd values(rows, columns);
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < columns; ++j) values(i, j) = host(i, j);
    tensor.copy_(doubles::matrix(values));
  }

  torch_view view() { return view_of(tensor); }
  torch_const_view view() const { return const_view_of(tensor); }

  /// How many elements differ between the two.
  index_t wrong() const {
    const auto found = doubles::to_eigen(tensor);
    return wrong_elements(host, [&](index_t i, index_t j) { return found(i, j); });
  }
  /// Whether the memory around the tensor is as it was: all of it less what the tensor covers.
  bool outside_untouched() const {
    const auto count = [](const at::Tensor& t) { return t.eq(around).sum().item<int64_t>(); };
    return count(memory) - count(tensor) == memory.numel() - tensor.numel();
  }
};

struct shape {
  index_t rows, columns;
};
constexpr shape shapes[] = {{0, 3}, {3, 0}, {0, 0}, {1, 1}, {7, 5}, {1, 9}, {9, 1}, {33, 70}};

double not_a_number(index_t, index_t) {
  return std::numeric_limits<double>::quiet_NaN();
}

/// Numbers of every kind: zeros of both signs, subnormal and largest ones, infinities, NaN.
struct awkward {
  scalar_type type;
  std::uint64_t seed;
  double operator()(index_t i, index_t j) const {
    constexpr double list[] = {0.0,    -0.0,    5e-324,   -0x1p-149, 0x1p-133, -0x1p-24,
                               1e-300, 0x1p-14, 1e300,    -3.3e38,   65504,    0.1,
                               -0.1,   1,       -1,       3,         -7.25,    1.0 / 3,
                               -1e-3,  88,      -0x1p127, 1.7e308,   -1e308,   -0x1p-126};
    constexpr auto count = static_cast<std::uint64_t>(std::size(list)) + 1;
    const auto place =
        (seed * 7919 + static_cast<std::uint64_t>(i) * 31 + static_cast<std::uint64_t>(j) * 1009) *
        0x9E3779B97F4A7C15U;
    const auto k = (place >> 33) % count;
    return k + 1 == count ? std::numeric_limits<double>::quiet_NaN() : rounded(type, list[k]);
  }
};

/// Every elementwise operation, on both sides.
void check_elementwise(shape s, scalar_type type_a, scalar_type type_b, scalar_type type_y,
                       kind how_a, kind how_b, kind how_y) {
  torch_context t;
  host_context h;
  const pair a(type_a, s.rows, s.columns, how_a, grid{1});
  const pair b(type_b, s.rows, s.columns, how_b, grid{2});
  index_t wrong = 0;
  bool inside = true;
  const auto run = [&](const auto& initial, const auto& f) {
    pair y(type_y, s.rows, s.columns, how_y, initial);
    f(t, a.view(), b.view(), y.view());
    f(h, a.host.view(), b.host.view(), y.host.view());
    wrong += y.wrong();
    inside = inside && y.outside_untouched();
  };
  run(not_a_number, [](auto& c, auto p, auto, auto y) { c.assign(p, y); });
  run(not_a_number, [](auto& c, auto p, auto q, auto y) { c.subtract(p, q, y); });
  run(not_a_number, [](auto& c, auto p, auto, auto y) {
    auto turned = c.make(catmerge::scalar_type::f64, c.columns(p), c.rows(p));
    c.transpose(p, turned);
    c.transpose(turned, y);
  });
  run(grid{3}, [](auto& c, auto p, auto q, auto y) {
    const typename std::decay_t<decltype(c)>::const_view list[] = {p, q, p};
    c.accumulate(0.5, list, q, y);
    c.accumulate(0.25, list, y);
  });
  run(grid{3}, [](auto& c, auto p, auto, auto y) { c.axpy(-1.5, p, y); });
  run(grid{3}, [](auto& c, auto, auto, auto y) { c.scale(-0.75, y); });
  using catmerge::entry_function;
  for (const auto f : {entry_function::absolute, entry_function::sign, entry_function::at_least,
                       entry_function::at_most, entry_function::above})
    run(not_a_number, [f](auto& c, auto p, auto, auto y) { c.map(f, 0.5, p, y); });
  for (const auto f : {catmerge::pair_function::product, catmerge::pair_function::quotient})
    run(not_a_number, [f](auto& c, auto p, auto q, auto y) { c.zip(f, p, q, y); });
  std::vector<double> factors;
  for (index_t j = 0; j < s.columns; ++j) factors.push_back(grid{4}(0, j));
  run(grid{3}, [&](auto& c, auto, auto, auto y) { c.scale_columns(factors, y); });
  CAPTURE(s.rows);
  CAPTURE(s.columns);
  CHECK(wrong == 0);
  CHECK(inside);
}

struct product_case {
  index_t m, k, n;
  op first, second;
  double alpha, beta;
};

void check_product(const product_case& p, scalar_type type_a, scalar_type type_b,
                   scalar_type type_y, kind how_a, kind how_b, kind how_y) {
  torch_context t;
  host_context h;
  const bool flip_a = p.first == op::transpose, flip_b = p.second == op::transpose;
  const pair a(type_a, flip_a ? p.k : p.m, flip_a ? p.m : p.k, how_a, grid{1});
  const pair b(type_b, flip_b ? p.n : p.k, flip_b ? p.k : p.n, how_b, grid{2});
  pair y(type_y, p.m, p.n, how_y, grid{3});
  if (p.beta == 0) y = pair(type_y, p.m, p.n, how_y, not_a_number);
  t.multiply(p.alpha, a.view(), p.first, b.view(), p.second, p.beta, y.view());
  h.multiply(p.alpha, a.host.view(), p.first, b.host.view(), p.second, p.beta, y.host.view());
  CAPTURE(p.m);
  CAPTURE(p.k);
  CAPTURE(p.n);
  CHECK(y.wrong() == 0);
  CHECK(y.outside_untouched());
}

}  // namespace

TEST_CASE("torch: conversions keep every bit") {
  std::vector<std::uint16_t> patterns;
  for (unsigned bits = 0; bits < 0x10000; ++bits)
    patterns.push_back(static_cast<std::uint16_t>(bits));
  const auto check = [&](auto like) {
    using S = decltype(like);
    matrix_of<S> m(256, 256);
    std::memcpy(static_cast<void*>(m.data()), patterns.data(), 2 * patterns.size());
    const auto back = torch_backend<S>::to_eigen(torch_backend<S>::matrix(m));
    index_t wrong = 0;
    for (index_t j = 0; j < 256; ++j)
      for (index_t i = 0; i < 256; ++i) {
        const auto x = static_cast<float>(m(i, j));
        wrong += !(back(i, j) == x || (std::isnan(x) && std::isnan(back(i, j))));
      }
    CHECK(wrong == 0);
  };
  check(catmerge::half());
  check(catmerge::bfloat16());
  generator g(1);
  const Eigen::MatrixXd m = g.matrix(5, 7);
  const Eigen::VectorXf v = g.vector<float>(6);
  CHECK(same_bits(doubles::to_eigen(doubles::matrix(m)), m));
  const at::Tensor w = torch_backend<float>::vector(v);
  CHECK(w.dim() == 1);
  CHECK(same_bits(torch_backend<float>::to_eigen(w), Eigen::MatrixXf(v)));
  CHECK(doubles::to_eigen(w) == v.cast<double>());
  CHECK(doubles::matrix(Eigen::MatrixXd(0, 4)).size(1) == 4);
}

TEST_CASE("torch: elementwise operations, every mix of types") {
  for (const auto type_a : all_types)
    for (const auto type_b : all_types)
      for (const auto type_y : all_types)
        check_elementwise({7, 5}, type_a, type_b, type_y, kind::transposed, kind::inner,
                          kind::stepped);
}

TEST_CASE("torch: elementwise operations, every place in memory and every shape") {
  for (const auto s : shapes)
    for (const auto how_a : all_kinds)
      for (const auto how_y : all_kinds)
        for (const auto type : {scalar_type::f32, scalar_type::f16})
          check_elementwise(s, scalar_type::f32, scalar_type::f64, type, how_a, kind::whole, how_y);
}

TEST_CASE("torch: elementwise operations work in place") {
  torch_context c;
  for (const auto type : all_types)
    for (const auto how : all_kinds) {
      pair x(type, 7, 5, how, grid{1}), y(type, 7, 5, how, grid{2});
      const auto before = doubles::to_eigen(x.tensor), other = doubles::to_eigen(y.tensor);
      c.subtract(x.view(), y.view(), y.view());
      CHECK(doubles::to_eigen(y.tensor) == before - other);
      c.subtract(y.view(), x.view(), y.view());
      CHECK(doubles::to_eigen(y.tensor) == -other);
      c.axpy(1, y.view(), y.view());
      CHECK(doubles::to_eigen(y.tensor) == -2 * other);
      const catmerge::torch_const_view itself[] = {y.view()};
      c.accumulate(2, itself, y.view(), y.view());
      CHECK(doubles::to_eigen(y.tensor) == -2 * other);
      c.map(catmerge::entry_function::absolute, 0, y.view(), y.view());
      CHECK(doubles::to_eigen(y.tensor) == 2 * other.cwiseAbs());
      c.zip(catmerge::pair_function::product, y.view(), y.view(), y.view());
      CHECK(doubles::to_eigen(y.tensor) == 4 * other.cwiseAbs2());
      // Two windows of one tensor.
      c.subtract(c.slice(const_view_of(x.tensor), 0, 3, 0, 5),
                 c.slice(const_view_of(x.tensor), 3, 3, 0, 5),
                 c.slice(view_of(x.tensor), 3, 3, 0, 5));
      CHECK(doubles::to_eigen(x.tensor).middleRows(3, 3) ==
            before.topRows(3) - before.middleRows(3, 3));
      CHECK(x.outside_untouched());
    }
}

TEST_CASE("torch: arithmetic is in double as soon as one operand is") {
  torch_context c;
  const Eigen::MatrixXd one = Eigen::MatrixXd::Constant(1, 1, 1);
  const at::Tensor a = doubles::matrix(one * (1 + 0x1p-40)), b = doubles::matrix(one);
  at::Tensor y = b.to(at::kFloat);
  c.subtract(const_view_of(a), const_view_of(b.to(at::kHalf)),
             view_of(y));  // in float this would be 0
  CHECK(y.item<double>() == 0x1p-40);
  y.fill_(0x1p-30);
  const catmerge::torch_const_view rounded[] = {const_view_of(b.to(at::kBFloat16))};
  c.accumulate(1, rounded, const_view_of(a), view_of(y));
  CHECK(y.item<double>() == 0x1p-30 - 0x1p-40);
  y.fill_(-1);
  c.axpy(1, const_view_of(a), view_of(y));
  CHECK(y.item<double>() == 0x1p-40);
  at::Tensor wide = b.clone().mul_(0x1p-40);
  const at::Tensor half = b.to(at::kHalf);
  c.axpy(1, const_view_of(half), view_of(wide));
  CHECK(wide.item<double>() == 1 + 0x1p-40);
  c.subtract(const_view_of(half), const_view_of(y), view_of(wide));
  CHECK(wide.item<double>() == 1 - 0x1p-40);
}

TEST_CASE("torch: entry functions of numbers of every kind") {
  torch_context t;
  host_context h;
  for (const auto type : {scalar_type::f64, scalar_type::f32, scalar_type::f16})
    for (const auto how : all_kinds) {
      const pair x(type, 17, 40, how, awkward{type, 1}), z(type, 17, 40, how, awkward{type, 2});
      const auto run = [&](const auto& f) {
        pair y(type, 17, 40, how, not_a_number);
        f(t, x.view(), z.view(), y.view());
        f(h, x.host.view(), z.host.view(), y.host.view());
        CHECK(y.wrong() == 0);
        CHECK(y.outside_untouched());
      };
      using catmerge::entry_function;
      for (const auto f : {entry_function::absolute, entry_function::sign, entry_function::at_least,
                           entry_function::at_most, entry_function::above})
        for (const double a : {0.1, 0.0, -2.0})
          run([&](auto& c, auto p, auto, auto y) { c.map(f, a, p, y); });
      for (const auto f : {catmerge::pair_function::product, catmerge::pair_function::quotient})
        run([&](auto& c, auto p, auto q, auto y) { c.zip(f, p, q, y); });
    }
}

TEST_CASE("torch: exponentials and tangents, to the last bits of the compute type") {
  torch_context c;
  generator g(13);
  for (const auto type_x : all_types)
    for (const auto type_y : all_types)
      for (const auto f :
           {catmerge::entry_function::exponential, catmerge::entry_function::tangent}) {
        const pair x(type_x, 30, 41, kind::transposed,
                     [&](index_t, index_t) { return rounded(type_x, 2 * g.normal()); });
        pair y(type_y, 30, 41, kind::stepped, not_a_number);
        c.map(f, 0, x.view(), y.view());
        // libtorch's vectors of SLEEF are off by at most 1 unit of the last place of the compute
        // type (sleef.org, suffix u10); twice that for the reference. Then one rounding.
        const bool in_double = type_x == scalar_type::f64 || type_y == scalar_type::f64;
        const double unit = in_double ? tolerance::eps<double> : tolerance::eps<float>;
        const double step = type_y == scalar_type::f64   ? 0
                            : type_y == scalar_type::f32 ? tolerance::eps<float>
                            : type_y == scalar_type::f16 ? tolerance::eps<catmerge::half>
                                                         : tolerance::eps<catmerge::bfloat16>;
        const auto found = doubles::to_eigen(y.tensor);
        double worst = 0;
        for (index_t i = 0; i < 30; ++i)
          for (index_t j = 0; j < 41; ++j) {
            const double exact = f == catmerge::entry_function::exponential
                                     ? std::exp(x.host(i, j))
                                     : std::tanh(x.host(i, j));
            // (The smallest normal number of float16 takes the place of what is smaller.)
            const double size = std::max(std::abs(exact), type_y == scalar_type::f16 ? 0x1p-14 : 0);
            worst = std::max(
                worst, std::abs(found(i, j) - exact) / ((2 * unit + step / 2) * size + 5e-324));
          }
        CHECK(worst <= 1);
        CHECK(y.outside_untouched());
      }
}

TEST_CASE("torch: the number that map is given, and what zip computes in") {
  torch_context c;
  const at::Tensor x = doubles::matrix(Eigen::MatrixXd::Constant(1, 1, double(0.1F))),
                   single = x.to(at::kFloat);
  at::Tensor y = single.clone(), wide = x.clone();
  c.map(catmerge::entry_function::above, 0.1, const_view_of(single), view_of(y));
  CHECK(y.item<double>() == 0);
  c.map(catmerge::entry_function::above, 0.1, const_view_of(single),
        view_of(wide));  // 0.1F is above 0.1
  CHECK(wide.item<double>() == 1);
  const at::Tensor tiny = x.mul(0).add(1e-300), large = x.mul(0).add(1e280);
  c.zip(catmerge::pair_function::product, const_view_of(tiny), const_view_of(large), view_of(y));
  CHECK(y.item<double>() == rounded(scalar_type::f32, 1e-300 * 1e280));
}

TEST_CASE("torch: columns are multiplied by numbers of every kind") {
  torch_context t;
  host_context h;
  for (const auto type : {scalar_type::f64, scalar_type::f32, scalar_type::f16})
    for (const auto how : all_kinds)
      for (const auto s : shapes) {
        std::vector<double> w;
        for (index_t j = 0; j < s.columns; ++j) w.push_back(awkward{scalar_type::f64, 3}(0, j));
        pair y(type, s.rows, s.columns, how, awkward{type, 4});
        t.scale_columns(w, y.view());
        h.scale_columns(w, y.host);
        CHECK(y.wrong() == 0);
        CHECK(y.outside_untouched());
      }
}

TEST_CASE("torch: keys are counted as on the host") {
  torch_context t;
  host_context h;
  generator g(14);
  for (const auto type : all_types)
    for (const auto how : all_kinds)
      for (const auto s : shapes) {
        const pair x(type, s.rows, s.columns, how, [&](index_t i, index_t j) {
          const double v = awkward{type, 5}(i, j);
          return std::isnan(v) || (i + j) % 2 == 0 ? rounded(type, g.normal()) : v;
        });
        for (int depth = 0; depth < 4; ++depth) {
          const auto digit = catmerge::detail::digit_of_key(depth);
          std::vector<std::uint64_t> prefixes{digit.before(std::uint64_t{12345} << 40)};
          for (index_t i = 0; i < s.rows && s.columns > 0; i += 2)
            prefixes.push_back(digit.before(catmerge::detail::order_key(x.host(i, s.columns - 1))));
          for (const std::uint64_t before : prefixes) {
            std::vector<std::uint64_t> found(std::size_t{1} << digit.bits, 3), expected = found;
            t.count_keys(x.view(), depth, before, found);
            h.count_keys(x.host, depth, before, expected);
            if (found != expected) FAIL_CHECK("depth ", depth, ", before ", before);
          }
        }
        CHECK(x.outside_untouched());
      }
  const pair x(scalar_type::f32, 2, 2, kind::whole, grid{1});
  std::vector<std::uint64_t> counts(1024);
  CHECK_THROWS_WITH_AS(t.count_keys(x.view(), 0, 0, counts),
                       "count_keys: 1024 counts for digits of 18 bits", catmerge::error);
}

TEST_CASE("torch: order statistics are the host's") {
  torch_context t;
  host_context h;
  generator g(15);
  for (const auto type : all_types) {
    std::vector<pair> tensors;
    for (const auto how : all_kinds)
      tensors.emplace_back(type, 60, 50, how,
                           [&](index_t, index_t) { return rounded(type, g.normal()); });
    const auto search = [](const auto& see) {
      catmerge::order_search s([](std::uint64_t n) { return std::vector{n / 5, n - 1, n / 2}; });
      while (s.wanted()) see(s), s.end_pass();
      return std::vector{s.value(0), s.value(1), s.value(2)};
    };
    const auto found = search([&](auto& s) {
      for (const auto& x : tensors) s.see(t, x.view());
    });
    const auto expected = search([&](auto& s) {
      for (const auto& x : tensors) s.see(h, x.host.view());
    });
    CHECK(found == expected);
  }
}

TEST_CASE_TEMPLATE("torch: 16-bit results are rounded once, from float", S, catmerge::half,
                   catmerge::bfloat16) {
  using backend = torch_backend<S>;
  torch_context c;
  // From 1 to the next number (Eigen 3.4 has 2^-13 as half's epsilon).
  const double step = std::is_same_v<S, catmerge::half> ? 0x1p-10 : 0x1p-7;
  generator g(2);
  const matrix_of<S> a = g.matrix<S>(80, 90), b = g.matrix<S>(80, 90), old = g.matrix<S>(80, 90);
  const double alpha = 1.0 / 3;
  // Each entry is within half a step of what exact arithmetic gives, up to roundings in float; the
  // smallest normal number of float16 takes the place of what is smaller.
  const auto check = [&](const at::Tensor& y, const auto& exact, const auto& sum_of_absolutes) {
    const auto found = doubles::to_eigen(y);
    CHECK(torch_context::type(const_view_of(y)) == catmerge::scalar_type_v<S>);
    double worst = 0;
    for (index_t j = 0; j < 90; ++j)
      for (index_t i = 0; i < 80; ++i) {
        const double allowed = std::max(std::abs(exact(i, j)), 0x1p-14) * step / 2 +
                               tolerance::product<float>(2, sum_of_absolutes(i, j));
        worst = std::max(worst, std::abs(found(i, j) - exact(i, j)) / allowed);
      }
    CHECK(worst <= 1);
  };
  const auto wide = [](const matrix_of<S>& m) -> Eigen::MatrixXd {
    return m.template cast<float>().template cast<double>();
  };
  const Eigen::MatrixXd p = wide(a), q = wide(b), o = wide(old);
  const at::Tensor x = backend::matrix(a), z = backend::matrix(b);
  at::Tensor y = backend::matrix(old);
  c.subtract(const_view_of(x), const_view_of(z), view_of(y));
  check(y, Eigen::MatrixXd(p - q), Eigen::MatrixXd(p.cwiseAbs() + q.cwiseAbs()));
  y = backend::matrix(old);
  const catmerge::torch_const_view operand[] = {const_view_of(x)};
  c.accumulate(alpha, operand, const_view_of(z), view_of(y));
  const Eigen::MatrixXd sizes = o.cwiseAbs() + p.cwiseAbs() + q.cwiseAbs();
  check(y, Eigen::MatrixXd(o + alpha * (p - q)), sizes);
  y = backend::matrix(old);
  c.axpy(alpha, const_view_of(x), view_of(y));
  check(y, Eigen::MatrixXd(o + alpha * p), sizes);
  y = backend::matrix(old);
  c.scale(alpha, view_of(y));
  check(y, Eigen::MatrixXd(alpha * o), sizes);
  at::Tensor small = backend::matrix(matrix_of<S>::Zero(80, 80));
  c.multiply(alpha, const_view_of(x), op::none, const_view_of(z), op::transpose, 0, view_of(small));
  double worst = 0;
  const Eigen::MatrixXd exact = alpha * p * q.transpose(),
                        all = alpha * p.cwiseAbs() * q.cwiseAbs().transpose();
  for (index_t i = 0; i < 80; ++i)
    for (index_t j = 0; j < 80; ++j)
      worst = std::max(
          worst, std::abs(doubles::to_eigen(small)(i, j) - exact(i, j)) /
                     (std::abs(exact(i, j)) * step / 2 + tolerance::product<float>(90, all(i, j))));
  CHECK(worst <= 1);
}

TEST_CASE("torch: infinities and NaN pass through every conversion") {
  torch_context c;
  for (const auto from : all_types)
    for (const auto to : all_types) {
      const double infinity = std::numeric_limits<double>::infinity();
      const pair x(from, 3, 1, kind::whole, [&](index_t i, index_t) {
        return i == 0 ? infinity : i == 1 ? -infinity : not_a_number(0, 0);
      });
      pair y(to, 3, 1, kind::whole, grid{1});
      CHECK(c.all_finite(y.view()));
      c.assign(x.view(), y.view());
      host_context().assign(x.host, y.host);
      CHECK(y.wrong() == 0);
      for (index_t i = 0; i < 3; ++i) CHECK_FALSE(c.all_finite(c.slice(y.view(), i, 1, 0, 1)));
    }
}

TEST_CASE("torch: multiply, every mix of types, transposition, alpha and beta") {
  for (const auto type_a : all_types)
    for (const auto type_b : all_types)
      for (const auto type_y : all_types)
        for (const auto first : {op::none, op::transpose})
          for (const auto second : {op::none, op::transpose})
            for (const auto& [alpha, beta] :
                 {std::pair{1.0, 0.0}, {-0.5, 0.0}, {2.0, 1.0}, {1.0, -0.5}})
              check_product({5, 7, 6, first, second, alpha, beta}, type_a, type_b, type_y,
                            kind::whole, kind::transposed, kind::stepped);
}

TEST_CASE("torch: multiply, every place in memory, thin and empty") {
  for (const auto how_a : all_kinds)
    for (const auto how_b : all_kinds)
      for (const auto how_y : all_kinds)
        for (const double beta : {0.0, 0.5})
          for (const auto& [m, k, n] : {std::array<index_t, 3>{21, 22, 19},
                                        {1, 22, 19},
                                        {21, 1, 1},
                                        {0, 3, 4},
                                        {3, 0, 4},
                                        {3, 4, 0},
                                        {0, 0, 0}})
            check_product({m, k, n, op::none, op::transpose, 1, beta}, scalar_type::f32,
                          scalar_type::f32, scalar_type::f32, how_a, how_b, how_y);
  for (const auto type : {scalar_type::f64, scalar_type::f16})  // no depth, and converted
    for (const double beta : {0.0, 0.5})
      check_product({3, 0, 4, op::transpose, op::none, 1, beta}, scalar_type::f32,
                    scalar_type::bf16, type, kind::whole, kind::whole, kind::inner);
}

TEST_CASE("torch: multiply is in the precision of the result") {
  torch_context c;
  generator g(3);
  const Eigen::MatrixXf a = g.matrix<float>(20, 300), b = g.matrix<float>(300, 30);
  const at::Tensor p = torch_backend<float>::matrix(a), q = torch_backend<float>::matrix(b);
  auto y = c.make(scalar_type::f64, 20, 30), single = c.make(scalar_type::f32, 20, 30);
  c.multiply(1.5, const_view_of(p), op::none, const_view_of(q), op::none, 0, y);
  c.multiply(1.5, const_view_of(p), op::none, const_view_of(q), op::none, 0, single);
  const Eigen::MatrixXd exact = 1.5 * a.cast<double>() * b.cast<double>(),
                        all = 1.5 * a.cast<double>().cwiseAbs() * b.cast<double>().cwiseAbs();
  const double worst = ((c.to_host(y) - exact).array() / all.array()).abs().maxCoeff(),
               worst_single = ((c.to_host(single) - exact).array() / all.array()).abs().maxCoeff();
  // Of two double products each is off by so much.
  CHECK(worst <= 2 * tolerance::product<double>(300, 1));
  CHECK(worst_single <= tolerance::product<float>(300, 1));
  CHECK(worst_single > 2 * tolerance::product<double>(300, 1));  // the test tells the two apart
  // X^T X, where both factors are one tensor.
  auto gram = c.make(scalar_type::f64, 300, 300);
  const auto x = const_view_of(p);
  c.multiply(1, x, op::transpose, x, op::none, 0, gram);
  const Eigen::MatrixXd d = a.cast<double>();
  CHECK((c.to_host(gram) - d.transpose() * d).cwiseAbs().maxCoeff() <=
        2 * tolerance::product<double>(20, (d.transpose() * d).diagonal().maxCoeff()));
}

TEST_CASE("torch: reductions and column operations against the host") {
  torch_context t;
  host_context h;
  generator g(4);
  const auto normal = [&](scalar_type type) {
    return [&g, type](index_t, index_t) { return rounded(type, g.normal()); };
  };
  for (const auto s :
       {shape{0, 3}, {3, 0}, {0, 0}, {1, 1}, {1, 0}, {17, 33}, {9000, 1}, {1, 9000}, {200, 300}})
    for (const auto type : all_types)
      for (const auto how : all_kinds) {
        const pair x(type, s.rows, s.columns, how, normal(type));
        const pair z(scalar_type::f32, s.rows, s.columns, kind::whole, normal(scalar_type::f32));
        const double n = static_cast<double>(s.rows * s.columns);
        const double square = h.squared_norm(x.host), other = h.squared_norm(z.host);
        CHECK(std::abs(t.squared_norm(x.view()) - square) <=
              2 * tolerance::product<double>(n, square));
        CHECK(std::abs(t.dot(x.view(), z.view()) - h.dot(x.host, z.host)) <=
              2 * tolerance::product<double>(n, std::sqrt(square * other)));
        CHECK(t.all_finite(x.view()));

        const index_t side = std::min(s.rows, s.columns);
        pair diagonal(scalar_type::f64, side, 1, kind::stepped, grid{5});
        t.add_diagonal(0.5, t.slice(x.view(), 0, side, 0, side), diagonal.view());
        h.add_diagonal(0.5, h.slice(x.host.view(), 0, side, 0, side), diagonal.host);
        CHECK(diagonal.wrong() == 0);
        CHECK(diagonal.outside_untouched());

        pair y(scalar_type::f64, s.columns, 1, kind::stepped, grid{5});
        t.column_energies(0.5, x.view(), y.view());
        h.column_energies(0.5, x.host, y.host);
        const auto found = doubles::to_eigen(y.tensor);
        double worst = 0;
        for (index_t j = 0; j < s.columns; ++j)
          worst =
              std::max(worst, std::abs(found(j, 0) - y.host(j, 0)) / (3 + std::abs(y.host(j, 0))));
        CHECK(worst <= 2 * tolerance::product<double>(static_cast<double>(s.rows), 1));
        CHECK(y.outside_untouched());
      }
  for (const auto type_w : all_types)
    for (const auto type_x : all_types)
      for (const index_t n : {0, 1, 9}) {
        const pair w(type_w, n, 1, kind::stepped, grid{6}), x(type_x, n, 1, kind::inner, grid{7});
        pair y(scalar_type::f64, n, 1, kind::inner, grid{8});
        t.weighted_square(-2, w.view(), x.view(), y.view());
        h.weighted_square(-2, w.host, x.host, y.host);
        CHECK(y.wrong() == 0);
        CHECK(y.outside_untouched());
      }
}

TEST_CASE("torch: rows become zero, whatever they held") {
  torch_context t;
  for (const auto type : all_types)
    for (const auto how : all_kinds)
      for (const auto& list :
           {std::vector<index_t>{}, {0}, {8, 2, 2}, {0, 1, 2, 3, 4, 5, 6, 7, 8}}) {
        pair y(type, 9, 4, how, grid{9});
        t.zero_rows(list, y.view());
        host_context().zero_rows(list, y.host);
        CHECK(y.wrong() == 0);
        CHECK(y.outside_untouched());
        pair bad(type, 9, 4, how, not_a_number);
        t.zero_rows(list, bad.view());
        for (const index_t i : list) CHECK(doubles::to_eigen(bad.tensor).row(i).isZero(0));
      }
  pair y(scalar_type::f32, 3, 2, kind::whole, grid{9});
  for (const index_t i : {-1, 3})
    CHECK_THROWS_WITH_AS(t.zero_rows(std::vector<index_t>{0, i}, y.view()),
                         ("row " + std::to_string(i) + " of 3 x 2").c_str(), catmerge::error);
  CHECK(y.wrong() == 0);  // nothing was written
  pair none(scalar_type::f32, 3, 0, kind::whole, grid{9});
  t.zero_rows(std::vector<index_t>{1}, none.view());
}

TEST_CASE("torch: eigenpairs of a symmetric matrix") {
  torch_context c;
  generator g(5);
  for (const index_t n : {0, 1, 2, 40})
    for (const auto how : all_kinds) {
      Eigen::MatrixXd m = g.matrix(n, n);
      m = (m + m.transpose()).eval();
      pair y(scalar_type::f64, n, n, how, [&](index_t i, index_t j) { return m(i, j); });
      const auto values = c.symmetric_eigen(y.view(), n);
      REQUIRE(std::ssize(values) == n);
      CHECK(std::is_sorted(values.begin(), values.end()));
      const auto v = doubles::to_eigen(y.tensor);
      const Eigen::Map<const Eigen::VectorXd> w(values.data(), n);
      const double size = m.norm() + 1;
      CHECK((m * v - v * w.asDiagonal()).norm() <= tolerance::orthonormal<double> * size);
      CHECK((v.transpose() * v - Eigen::MatrixXd::Identity(n, n)).norm() <=
            tolerance::orthonormal<double> * static_cast<double>(n));
      CHECK(y.outside_untouched());
    }
  pair y(scalar_type::f64, 3, 3, kind::whole, not_a_number);
  CHECK_THROWS_WITH_AS(c.symmetric_eigen(y.view(), 3),
                       "the symmetric eigenproblem of size 3 holds numbers that are not finite",
                       catmerge::error);
  pair wide(scalar_type::f64, 3, 4, kind::whole, grid{1});
  CHECK_THROWS_AS(c.symmetric_eigen(wide.view(), 3), catmerge::error);
}

TEST_CASE("torch: small matrices to the host and back, windows, new ones") {
  torch_context c;
  for (const auto s : shapes)
    for (const auto type : all_types)
      for (const auto how : all_kinds) {
        pair x(type, s.rows, s.columns, how, grid{1});
        const Eigen::MatrixXd m = c.to_host(x.view());
        CHECK(same_bits(m, doubles::to_eigen(x.tensor)));
        c.from_host(2 * m, x.view());
        CHECK(doubles::to_eigen(x.tensor) == 2 * m);
        CHECK(x.outside_untouched());
        CHECK_THROWS_WITH_AS(c.from_host(Eigen::MatrixXd(4, 9), x.view()),
                             "from_host: the shapes differ", catmerge::error);
        auto made = c.make(type, s.rows, s.columns);
        CHECK(c.type(made) == type);
        CHECK(c.rows(made) == s.rows);
        CHECK(c.columns(made) == s.columns);
        CHECK(c.to_host(made) == Eigen::MatrixXd::Zero(s.rows, s.columns));
      }
  CHECK_THROWS_AS(c.make(scalar_type::f32, -1, 2), catmerge::error);
  pair x(scalar_type::f32, 7, 5, kind::stepped, grid{1});
  const Eigen::MatrixXd m = c.to_host(x.view());
  CHECK(c.to_host(c.slice(std::as_const(x).view(), 2, 3, 1, 4)) == m.block(2, 1, 3, 4));
  c.scale(0, c.slice(x.view(), 2, 3, 1, 4));
  Eigen::MatrixXd expected = m;
  expected.block(2, 1, 3, 4).setZero();
  CHECK(doubles::to_eigen(x.tensor) == expected);
  CHECK(c.rows(c.slice(x.view(), 7, 0, 5, 0)) == 0);
}

TEST_CASE("torch: what is no matrix of floating-point numbers is refused with a sentence") {
  at::Tensor m = torch_backend<float>::matrix(Eigen::MatrixXf::Ones(3, 4));
  const auto refused = [&](at::Tensor t, const char* message) {
    CHECK_THROWS_WITH_AS(const_view_of(t), message, catmerge::error);
    CHECK_THROWS_WITH_AS(view_of(t), message, catmerge::error);
    CHECK_THROWS_WITH_AS(catmerge::task_vector(t, t), message, catmerge::error);
  };
  refused({}, "a torch::Tensor is undefined: expected a vector or a matrix");
  refused(m.to(at::kLong),
          "a torch::Tensor holds elements of type Long: expected Double, Float, Half or BFloat16; "
          "convert it with to(torch::kFloat)");
  refused(m.to(at::kComplexFloat),
          "a torch::Tensor holds elements of type ComplexFloat: expected Double, Float, Half or "
          "BFloat16; convert it with to(torch::kFloat)");
  refused(m.to(at::kBool),
          "a torch::Tensor holds elements of type Bool: expected Double, Float, Half or BFloat16; "
          "convert it with to(torch::kFloat)");
  refused(m.to_sparse(),
          "a torch::Tensor is sparse, nested or of another layout: expected torch::kStrided; call "
          "to_dense()");
  refused(m.reshape({3, 2, 2}),
          "a torch::Tensor of rank 3 is neither a vector nor a matrix: reshape it to (d_out, rest) "
          "first");
  refused(m.sum(),
          "a torch::Tensor of rank 0 is neither a vector nor a matrix: reshape it to (d_out, rest) "
          "first");
}

TEST_CASE("torch: elements that share memory are read and not written") {
  at::Tensor row = torch_backend<float>::matrix(Eigen::MatrixXf::Constant(1, 4, 2));
  at::Tensor repeated = row.expand({3, 4}), vector = row.narrow(1, 0, 1).reshape(-1).expand({5});
  const char* message =
      "a result cannot be written to a tensor whose elements share memory (a stride is 0)";
  CHECK_THROWS_WITH_AS(view_of(repeated), message, catmerge::error);
  CHECK_THROWS_WITH_AS(view_of(vector), message, catmerge::error);
  CHECK_THROWS_WITH_AS(catmerge::subtract_base(row.expand({3, 4}), repeated), message,
                       catmerge::error);
  torch_context c;
  CHECK(c.squared_norm(const_view_of(repeated)) == 48);
  CHECK(c.squared_norm(const_view_of(vector)) == 20);
  CHECK(doubles::to_eigen(catmerge::task_vector(repeated, repeated)).isZero(0));
  auto gram = c.make(scalar_type::f32, 3, 3);
  c.multiply(1, const_view_of(repeated), op::none, const_view_of(repeated), op::transpose, 0, gram);
  CHECK(c.to_host(gram) == Eigen::MatrixXd::Constant(3, 3, 16));
  // A stride of no consequence is none.
  at::Tensor one = row.expand({1, 4}), none = row.narrow(0, 0, 0).expand({0, 4});
  c.scale(2, view_of(one));
  c.scale(2, view_of(none));
  CHECK(c.squared_norm(const_view_of(row)) == 64);
}

TEST_CASE("torch: elements stored with the other sign are refused: turning them would be a copy") {
  const Eigen::MatrixXf m = generator(6).matrix<float>(3, 4);
  at::Tensor negative = torch_backend<float>::matrix(m)._neg_view();
  REQUIRE(negative.is_neg());
  const char* message =
      "a torch::Tensor holds its elements with the other sign (is_neg()): call "
      "resolve_neg(), which copies";
  CHECK_THROWS_WITH_AS(const_view_of(negative), message, catmerge::error);
  CHECK_THROWS_WITH_AS(view_of(negative), message, catmerge::error);
}

TEST_CASE("torch: shapes that do not fit are refused, not repeated") {
  torch_context c;
  pair a(scalar_type::f32, 3, 4, kind::whole, grid{1}),
      row(scalar_type::f32, 1, 4, kind::whole, grid{2}),
      y(scalar_type::f32, 3, 4, kind::whole, grid{3});
  const char* message = "elementwise operation on tensors of different shapes: 3 x 4 and 1 x 4";
  CHECK_THROWS_WITH_AS(c.assign(row.view(), y.view()), message, catmerge::error);
  CHECK_THROWS_WITH_AS(c.axpy(1, row.view(), y.view()), message, catmerge::error);
  CHECK_THROWS_WITH_AS(c.dot(a.view(), row.view()), message, catmerge::error);
  CHECK_THROWS_AS(c.subtract(a.view(), row.view(), y.view()), catmerge::error);
  const catmerge::torch_const_view rows[] = {row.view()};
  CHECK_THROWS_AS(c.accumulate(1, rows, a.view(), y.view()), catmerge::error);
  CHECK_THROWS_AS(c.weighted_square(1, row.view(), a.view(), y.view()), catmerge::error);
  CHECK_THROWS_AS(c.column_energies(1, a.view(), y.view()), catmerge::error);
  CHECK_THROWS_WITH_AS(c.map(catmerge::entry_function::sign, 0, row.view(), y.view()), message,
                       catmerge::error);
  for (const auto f : {catmerge::pair_function::product, catmerge::pair_function::quotient}) {
    CHECK_THROWS_AS(c.zip(f, row.view(), a.view(), y.view()), catmerge::error);
    CHECK_THROWS_AS(c.zip(f, a.view(), row.view(), y.view()), catmerge::error);
  }
  for (const std::size_t n : {0U, 1U, 3U})
    CHECK_THROWS_WITH_AS(c.scale_columns(std::vector<double>(n), y.view()),
                         (std::to_string(n) + " factors for the columns of 3 x 4").c_str(),
                         catmerge::error);
  CHECK_THROWS_WITH_AS(c.multiply(1, a.view(), op::none, row.view(), op::none, 0, y.view()),
                       "product of 3 x 4 and 1 x 4 into 3 x 4", catmerge::error);
  CHECK_THROWS_AS(c.multiply(1, a.view(), op::none, row.view(), op::transpose, 0, y.view()),
                  catmerge::error);
  CHECK(y.wrong() == 0);
}

TEST_CASE("torch: operands live on the context's device") {
  // The device without memory stands for one that this machine need not have.
  const at::Tensor here = torch_backend<float>::matrix(Eigen::MatrixXf::Ones(3, 3));
  at::Tensor there = here.to(at::kMeta), y = here.clone();
  torch_context c, other{at::Device(at::kMeta)};
  CHECK(c.device() == at::Device(at::kCPU));
  CHECK(torch_context(const_view_of(here)).device() == c.device());
  CHECK(torch_context(const_view_of(there)).device() == other.device());
  const char* message =
      "a torch::Tensor lives on meta and this context computes on cpu: move it with to(\"cpu\"), "
      "or pass a context of meta";
  const auto refused = [&](const auto& f) { CHECK_THROWS_WITH_AS(f(), message, catmerge::error); };
  const auto x = const_view_of(here), away = const_view_of(there);
  const auto out = view_of(y), away_out = view_of(there);
  refused([&] { c.assign(away, out); });
  refused([&] { c.assign(x, away_out); });
  refused([&] { c.subtract(x, away, out); });
  const catmerge::torch_const_view distant[] = {away};
  refused([&] { c.accumulate(1, distant, x, out); });
  refused([&] { c.axpy(1, away, out); });
  refused([&] { c.scale(1, away_out); });
  refused([&] { c.multiply(1, x, op::none, away, op::none, 0, out); });
  refused([&] { (void)c.squared_norm(away); });
  refused([&] { (void)c.dot(x, away); });
  refused([&] { c.column_energies(1, away, c.slice(out, 0, 3, 0, 1)); });
  refused([&] { c.weighted_square(1, x, away, out); });
  refused([&] { c.zero_rows(std::vector<index_t>{0}, away_out); });
  std::vector<std::uint64_t> counts(std::size_t{1} << 18);
  refused([&] { c.scale_columns(std::vector<double>(3), away_out); });
  refused([&] { c.map(catmerge::entry_function::sign, 0, away, out); });
  refused([&] { c.zip(catmerge::pair_function::product, x, away, out); });
  refused([&] { c.count_keys(away, 0, 0, counts); });
  refused([&] { (void)c.all_finite(away); });
  refused([&] { (void)c.symmetric_eigen(away_out, 3); });
  refused([&] { (void)c.to_host(away); });
  refused([&] { c.from_host(Eigen::MatrixXd::Zero(3, 3), away_out); });
  refused([&] { (void)catmerge::task_vector(here, there); });
  CHECK(doubles::to_eigen(y) == Eigen::MatrixXd::Ones(3, 3));
  // There, everything stays there.
  other.axpy(1, away, away_out);
  other.map(catmerge::entry_function::tangent, 0, away, away_out);
  other.zip(catmerge::pair_function::quotient, away, away, away_out);
  other.multiply(1, away, op::none, away, op::transpose, 0, other.make(scalar_type::f64, 3, 3));
  CHECK(catmerge::task_vector(there, there, other).device() == other.device());
}

TEST_CASE("torch: results have the rank and device of what they are like, and compute types") {
  for (const auto type : all_types) {
    const at::Tensor m = doubles::matrix(Eigen::MatrixXd::Ones(3, 4)).to(torch_type(type));
    const at::Tensor v = m.reshape(-1).requires_grad_();
    const auto expected = catmerge::compute_type(type);
    const at::Tensor a = catmerge::task_vector(m, m), b = catmerge::task_vector(v, v);
    CHECK(torch_context::type(const_view_of(a)) == expected);
    CHECK(a.sizes() == m.sizes());
    CHECK(torch_context::type(const_view_of(b)) == expected);
    CHECK(b.sizes() == v.sizes());
    CHECK_FALSE(b.requires_grad());
    CHECK(b.device() == v.device());
  }
}

TEST_CASE("torch: parameters of a module, written in place") {
  // The parameters of torch::nn::Linear: leaves that require gradients.
  const Eigen::MatrixXf base = generator(7).matrix<float>(12, 8),
                        vector = generator(8).matrix<float>(12, 8);
  struct {
    at::Tensor weight, bias;
  } module{torch_backend<float>::matrix(base).requires_grad_(),
           torch_backend<float>::vector(base.col(0)).requires_grad_()};
  module.weight.mul(module.weight).sum().backward();
  const at::Tensor gradient = module.weight.grad();
  const auto version = module.weight._version();
  const at::Tensor t = torch_backend<float>::matrix(vector),
                   t0 = torch_backend<float>::vector(vector.col(0));
  catmerge::add_task_vector(module.weight, t, 0.5);
  catmerge::add_task_vector(module.bias, t0, 0.5);
  Eigen::MatrixXf expected = base;
  catmerge::add_task_vector(expected, vector, 0.5);
  CHECK(torch_backend<float>::to_eigen(module.weight).isApprox(expected, 1e-6F));
  CHECK(torch_backend<float>::to_eigen(module.bias).isApprox(expected.col(0), 1e-6F));
  for (const auto* p : {&module.weight, &module.bias}) {
    CHECK(p->requires_grad());
    CHECK(p->is_leaf());
  }
  CHECK(module.weight._version() > version);  // autograd notices what it must not use any more
  CHECK(module.weight.grad().is_same(gradient));
  CHECK(doubles::to_eigen(gradient) == 2 * base.cast<double>());
  // Parts of a leaf, in which autograd allows no writing: q, k and v of one weight.
  auto parts = module.weight.chunk(3);
  catmerge::subtract_base(t.narrow(0, 4, 4), parts[1]);
  expected.middleRows(4, 4) -= vector.middleRows(4, 4);
  CHECK(torch_backend<float>::to_eigen(module.weight).isApprox(expected, 1e-6F));
  // And the module still learns.
  module.weight.sum().backward();
  const Eigen::MatrixXf sum = (2 * base).array() + 1;
  CHECK(torch_backend<float>::to_eigen(module.weight.grad()) == sum);
}

TEST_CASE("torch: tensors of inference mode, outside of it and inside") {
  const Eigen::MatrixXf m = generator(9).matrix<float>(6, 4);
  at::Tensor made, parameter = torch_backend<float>::matrix(m).requires_grad_();
  {
    const c10::InferenceMode mode;
    made = torch_backend<float>::matrix(m);
    catmerge::add_task_vector(parameter, made, -1);
    CHECK(catmerge::task_vector(made, made).is_inference());
  }
  REQUIRE(made.is_inference());
  CHECK_FALSE(parameter.is_inference());
  CHECK(parameter.requires_grad());
  CHECK(doubles::to_eigen(parameter).isZero(0));
  catmerge::add_task_vector(made, parameter.add(1), 1);
  catmerge::context<torch_domain>().zero_rows(std::vector<index_t>{0}, view_of(made));
  CHECK(torch_backend<float>::to_eigen(made).bottomRows(5) ==
        (m.bottomRows(5).array() + 1).matrix());
  CHECK(doubles::to_eigen(made).row(0).isZero(0));
  CHECK_FALSE(catmerge::task_vector(made, made).is_inference());
  CHECK_FALSE(c10::InferenceMode::is_enabled());
}

TEST_CASE_TEMPLATE("torch: task vectors", S, double, float, catmerge::half, catmerge::bfloat16) {
  using backend = torch_backend<S>;
  using C = catmerge::compute_t<S>;
  generator g(10);
  const matrix_of<S> base = g.matrix<S>(13, 9), expert = g.matrix<S>(13, 9);
  const at::Tensor b = backend::matrix(base), e = backend::matrix(expert);
  const matrix_of<C> expected = catmerge::task_vector(base, expert);
  const at::Tensor t = catmerge::task_vector(b, e);
  CHECK(same_bits(backend::to_eigen(t), expected));  // one rounding of what is exact
  CHECK(same_bits(backend::to_eigen(catmerge::task_vector(b.t(), e.t()).t()), expected));
  at::Tensor in_place = backend::matrix(expert);
  matrix_of<S> host = expert;
  catmerge::subtract_base(b, in_place);
  catmerge::subtract_base(base, host);
  CHECK(same_bits(backend::to_eigen(in_place), matrix_of<C>(host.template cast<C>())));
  // Back: at most two roundings of each sum.
  const double allowed = 2 * tolerance::eps<C> * (base.template cast<C>().norm() + expected.norm());
  const at::Tensor again = catmerge::with_task_vector(b, t, 0.3);
  CHECK(static_cast<double>(
            (backend::to_eigen(again) - catmerge::with_task_vector(base, expected, 0.3)).norm()) <=
        allowed);
  CHECK(same_bits(backend::to_eigen(b), matrix_of<C>(base.template cast<C>())));
}

TEST_CASE("torch: features, batch by batch") {
  generator g(11);
  catmerge::feature_statistics<torch_domain> few, many, both;
  catmerge::moment_statistics<torch_domain> moments;
  catmerge::moment_statistics<> host_moments;
  Eigen::MatrixXf all(0, 20);
  torch_context c;
  for (const index_t n : {6, 0, 5, 30, 1}) {
    const Eigen::MatrixXf x = g.matrix<float>(n, 20);
    const at::Tensor batch = torch_backend<float>::matrix(x);
    const Eigen::MatrixXf before = all;
    all.resize(before.rows() + n, 20);
    all << before, x;
    many.update(batch);
    moments.update(batch);
    host_moments.update(x);
    if (all.rows() <= 11) few.update(batch.t().contiguous().t());
  }
  CHECK(few.view().form == catmerge::statistics_form::rows);
  CHECK(c.to_host(few.view().data) == all.topRows(11).cast<double>());
  REQUIRE(many.view().form == catmerge::statistics_form::gram);
  const Eigen::MatrixXd x = all.cast<double>(), gram = x.transpose() * x;
  CHECK((c.to_host(many.view().data) - gram).norm() <= tolerance::reordered * gram.norm());
  both.combine(few);
  both.combine(many);
  both.combine(both);
  CHECK(both.count() == 2 * (42 + 11));
  const Eigen::MatrixXd expected = 2 * (gram + x.topRows(11).transpose() * x.topRows(11));
  CHECK((c.to_host(both.view().data) - expected).norm() <= tolerance::reordered * expected.norm());
  const host_context::const_view moment = host_moments.view().data;
  const Eigen::MatrixXd second = host_context().to_host(moment);
  CHECK((c.to_host(moments.view().data) - second).norm() <= tolerance::reordered * second.norm());
}

TEST_CASE_TEMPLATE("torch: CAT of a linear weight, for every way", S, double, float, catmerge::half,
                   catmerge::bfloat16) {
  using backend = torch_backend<S>;
  using C = catmerge::compute_t<S>;
  index_t compared = 0;
  for (const std::uint64_t seed : seeds) {
    generator g(seed);
    const matrix_of<S> base = g.matrix<S>(14, 11);
    std::vector<matrix_of<S>> experts, features;
    std::vector<at::Tensor> e, x;
    double size = 0;
    for (const index_t n : {3, 20, 4}) {
      experts.push_back(g.matrix<S>(14, 11));
      features.push_back(g.matrix<S>(n, 11));
      // Of every order: as they are, transposed, parts of what is larger.
      e.push_back(backend::matrix(experts.back().transpose()).t());
      x.push_back(backend::matrix(features.back()).repeat({1, 2}).narrow(1, 11, 11));
      size += static_cast<double>(matrix_of<C>(catmerge::task_vector(base, experts.back())).norm());
    }
    const at::Tensor b = backend::matrix(base).requires_grad_();
    oracle::options choices;
    choices.rank = 2;
    const auto exact = oracle::cat_linear(
        oracle::exact(matrix_of<C>(base.template cast<C>())),
        [&] {
          std::vector<oracle::matrix> list;
          for (const auto& m : experts)
            list.push_back(oracle::exact(matrix_of<C>(m.template cast<C>())));
          return list;
        }(),
        [&] {
          std::vector<oracle::matrix> list;
          for (const auto& m : features)
            list.push_back(oracle::exact(matrix_of<C>(m.template cast<C>())));
          return list;
        }(),
        choices);
    if (exact.gap < 1e-3) continue;  // the subspace is not defined well enough to compare
    ++compared;
    const double allowed = tolerance::merged<C>(exact.gap) * size;
    for (const auto way : {catmerge::basis_solver::dense, catmerge::basis_solver::shifts,
                           catmerge::basis_solver::weights}) {
      catmerge::cat_options o;
      o.linear.directions = catmerge::largest{2};
      o.linear.solver = way;
      const auto expected = catmerge::cat_linear(base, experts, features, o);
      const auto found = catmerge::cat_linear(b, e, x, o);
      CHECK(torch_context::type(const_view_of(found.merged)) == catmerge::scalar_type_v<C>);
      const auto merged = doubles::to_eigen(found.merged);
      const auto distance = oracle::energy(oracle::minus(oracle::exact(merged), exact.merged));
      CHECK(std::sqrt(static_cast<double>(distance)) <= allowed);
      CHECK((merged - expected.merged.template cast<double>()).norm() <= 2 * allowed);
      CHECK((found.report.trim->conflict_before - expected.report.trim->conflict_before).norm() <=
            tolerance::gram<C>(11) * expected.report.trim->conflict_before.norm());
    }
  }
  CHECK(compared > 0);
}

TEST_CASE_TEMPLATE("torch: CAT of scales and shifts", S, double, float, catmerge::half,
                   catmerge::bfloat16) {
  using backend = torch_backend<S>;
  using C = catmerge::compute_t<S>;
  for (const std::uint64_t seed : seeds) {
    generator g(seed);
    const vector_of<S> base = g.vector<S>(31);
    std::vector<vector_of<S>> experts;
    std::vector<matrix_of<S>> features;
    std::vector<at::Tensor> e, x;
    double size = static_cast<double>(base.template cast<C>().norm());
    for (const index_t n : {4, 9, 1}) {
      experts.push_back(g.vector<S>(31));
      features.push_back(g.matrix<S>(n, 31));
      e.push_back(backend::vector(experts.back()).repeat_interleave(3).slice(0, 1, 93, 3));
      x.push_back(backend::matrix(features.back()));
      size += static_cast<double>(experts.back().template cast<C>().norm()) + size;
    }
    const at::Tensor b = backend::vector(base).requires_grad_();
    // Masks are the same, so entries differ by the roundings of a sum of four.
    const double allowed = 10 * tolerance::eps<C> * size;
    const auto scale = catmerge::cat_scale(b, e, x), shift = catmerge::cat_shift(b, e);
    CHECK(scale.merged.dim() == 1);
    CHECK(shift.merged.dim() == 1);
    const auto near = [&](const at::Tensor& found, const vector_of<C>& expected) {
      return static_cast<double>((backend::to_eigen(found) - expected).norm()) <= allowed;
    };
    CHECK(near(scale.merged, catmerge::cat_scale(base, experts, features).merged));
    CHECK(near(shift.merged, catmerge::cat_shift(base, experts).merged));
  }
}

TEST_CASE("torch: CAT on tensors without elements") {
  const at::Tensor base = torch_backend<float>::matrix(Eigen::MatrixXf::Ones(3, 4));
  const std::vector<at::Tensor> experts{base.mul(3), base.mul(5)};
  const at::Tensor none = base.narrow(0, 0, 0);
  const auto merged =
      catmerge::cat_linear(base, experts, std::vector<at::Tensor>{none, none}).merged;
  CHECK(doubles::to_eigen(merged).isApproxToConstant(1 + 0.4 * 6, 1e-6));
  for (const auto& empty : {base.narrow(0, 0, 0), base.narrow(1, 0, 0)}) {
    const std::vector<at::Tensor> list{empty, empty};
    CHECK(catmerge::task_arithmetic(empty, list).merged.sizes() == empty.sizes());
    CHECK(catmerge::task_vector(empty, empty).sizes() == empty.sizes());
  }
}

TEST_CASE("torch: sums have the same bits at any number of threads and in any order in memory") {
  torch_context c;
  generator g(12);
  const int threads = at::get_num_threads();
  const at::Tensor x = torch_backend<float>::matrix(g.matrix<float>(700, 300)),
                   y = torch_backend<float>::matrix(g.matrix<float>(210000, 1));
  std::vector<double> sums;
  for (const int n : {1, 2, 3}) {
    at::set_num_threads(n);
    auto columns = c.make(scalar_type::f64, 300, 1), column = c.make(scalar_type::f64, 1, 1);
    c.column_energies(1, const_view_of(x), columns);
    c.column_energies(1, const_view_of(y), column);
    const auto part = c.slice(const_view_of(x), 1, 600, 3, 290);
    for (const double sum :
         {c.squared_norm(const_view_of(x)), c.squared_norm(const_view_of(y)), c.squared_norm(part),
          c.dot(part, part), c.squared_norm(columns), c.to_host(column)(0, 0)})
      sums.push_back(sum);
    CHECK(c.squared_norm(const_view_of(x.t().contiguous().t())) ==
          c.squared_norm(const_view_of(x)));
  }
  at::set_num_threads(threads);
  for (std::size_t i = 6; i < sums.size(); ++i) CHECK(sums[i] == sums[i % 6]);
}

TEST_CASE("torch: entry functions have the same bits at any number of threads") {
  torch_context c;
  generator g(16);
  const int threads = at::get_num_threads();
  const at::Tensor x = torch_backend<float>::matrix(g.matrix<float>(701, 303));
  for (const auto f : {catmerge::entry_function::exponential, catmerge::entry_function::tangent}) {
    std::vector<Eigen::MatrixXd> results;
    for (const int n : {1, 2, 3}) {
      at::set_num_threads(n);
      at::Tensor y = x.clone(), part = x.clone();
      c.map(f, 0, const_view_of(x), view_of(y));
      c.map(f, 0, c.slice(const_view_of(x), 1, 699, 2, 300),
            c.slice(view_of(part), 1, 699, 2, 300));
      for (const auto* t : {&y, &part}) results.push_back(doubles::to_eigen(*t));
    }
    for (std::size_t i = 2; i < results.size(); ++i) CHECK(same_bits(results[i], results[i % 2]));
  }
  at::set_num_threads(threads);
}

TEST_CASE("torch: the adapter never looks into a tensor's memory") {
  for (const char* header : {"torch.hpp", "detail/torch_tensor.hpp"}) {
    std::ifstream file(std::string(CATMERGE_SOURCE_DIR "/include/catmerge/adapt/") + header);
    std::stringstream text;
    text << file.rdbuf();
    REQUIRE(text.str().find("torch_const_view") != std::string::npos);
    for (const char* word :
         {"data_ptr", "accessor", ".data<", "const_data", "mutable_data", "torch/torch.h"})
      CHECK(text.str().find(word) == std::string::npos);
  }
}

TEST_CASE("torch: a call without a context computes on its first tensor's device") {
  // The meta device knows shapes alone; it stands for one that this machine may lack.
  const at::Tensor here = torch_backend<float>::matrix(Eigen::MatrixXf::Ones(3, 4));
  const at::Tensor base = here.to(at::kMeta);
  at::Tensor expert = base.clone();
  const at::Tensor t = catmerge::task_vector(base, expert);
  CHECK(t.device().type() == at::kMeta);
  CHECK(catmerge::with_task_vector(base, t, 0.5).device().type() == at::kMeta);
  CHECK_NOTHROW(catmerge::subtract_base(base, expert));
  CHECK_NOTHROW(catmerge::add_task_vector(expert, t));
  catmerge::feature_statistics<torch_domain> rows, gram;
  rows.update(base);
  gram.update(base);
  gram.update(base);  // 6 rows of 4: a Gram matrix
  gram.combine(rows);
  CHECK(gram.count() == 9);
  catmerge::moment_statistics<torch_domain> moments;
  moments.update(base);
  moments.combine(moments);
  CHECK(moments.count() == 6);
  CHECK_THROWS_AS(catmerge::task_vector(base, here), catmerge::error);
  CHECK_THROWS_AS(rows.update(here), catmerge::error);
}
