// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <catmerge/numeric/order_search.hpp>
#include <numeric>

#include "support/executor.hpp"
#include "support/windows.hpp"

// Order statistics of what streams by, against sorting all of it.

using namespace test;
using catmerge::order_search;

namespace {

using host_context = catmerge::context<catmerge::host>;
using ranks = std::vector<std::uint64_t>;

struct found {
  std::vector<double> values;
  int passes = 0;
  std::uint64_t count = 0;
};

/// The numbers of these ranks among those of all tensors.
found search(const std::vector<window>& tensors, const ranks& wanted) {
  host_context c;
  found f;
  order_search s([&](std::uint64_t n) {
    f.count = n;
    return wanted;
  });
  while (s.wanted()) {
    for (const auto& t : tensors) s.see(c, t);
    s.end_pass();
    ++f.passes;
  }
  CHECK(s.count() == f.count);
  for (std::size_t i = 0; i < wanted.size(); ++i) f.values.push_back(s.value(i));
  return f;
}

std::vector<double> all_of(const window& t) {
  std::vector<double> all;
  for (index_t i = 0; i < t.rows(); ++i)
    for (index_t j = 0; j < t.columns(); ++j) all.push_back(t(i, j));
  return all;
}

/// The elements of all tensors, one tensor after another.
std::vector<double> all_of(const std::vector<window>& tensors) {
  std::vector<double> all;
  for (const auto& t : tensors)
    for (const double x : all_of(t)) all.push_back(x);
  return all;
}

double nth(std::vector<double> all, std::uint64_t rank) {
  const auto place = all.begin() + static_cast<std::ptrdiff_t>(rank);
  std::nth_element(all.begin(), place, all.end());
  return *place;
}

/// First, last, middle and others, not in order, some of them twice.
ranks some_ranks(std::uint64_t n) {
  return {n - 1, 0, n / 2, n / 3, n / 2, n - 1, std::min<std::uint64_t>(n - 1, 1)};
}

void check(const std::vector<window>& tensors, int passes) {
  const auto all = all_of(tensors);
  const ranks wanted = some_ranks(all.size());
  const found f = search(tensors, wanted);
  CHECK(f.passes == passes);
  CHECK(f.count == all.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    CAPTURE(wanted[i]);
    CHECK(f.values[i] == nth(all, wanted[i]));
  }
}

/// Normal numbers of a type, of sizes from 2^-20 to 2^20.
auto normal(generator& g, scalar_type type) {
  return [&g, type](index_t, index_t) {
    return rounded(type, std::ldexp(g.normal(), static_cast<int>(g.integer(-20, 20))));
  };
}

std::vector<window> one_tensor(window w) {
  std::vector<window> list;
  list.push_back(std::move(w));
  return list;
}

}  // namespace

TEST_CASE("two passes find the numbers of floats and of what is shorter, four those of doubles") {
  for (const std::uint64_t seed : seeds)
    for (const auto type : all_types)
      for (const auto how : {layout::row_major, layout::spread}) {
        generator g(seed);
        window w(type, 37, 301, how, 1);
        w.fill(normal(g, type));
        check(one_tensor(std::move(w)), type == scalar_type::f64 ? 4 : 2);
      }
}

TEST_CASE("every rank of a few numbers") {
  for (const auto type : all_types)
    for (const index_t n : {1, 2, 3, 50}) {
      generator g(4);
      window w(type, n, 1);
      w.fill(normal(g, type));
      const auto tensors = one_tensor(std::move(w));
      auto sorted = all_of(tensors);
      std::sort(sorted.begin(), sorted.end());
      ranks every(at(n));
      std::iota(every.begin(), every.end(), 0U);
      CHECK(search(tensors, every).values == sorted);
    }
}

TEST_CASE("numbers of several types: as many passes as the longest needs") {
  generator g(5);
  const auto tensors = [&](std::initializer_list<scalar_type> types) {
    std::vector<window> list;
    for (const auto type : types) list.emplace_back(type, 20, 50).fill(normal(g, type));
    return list;
  };
  check(tensors({scalar_type::f32, scalar_type::f64, scalar_type::f16}), 4);
  check(tensors({scalar_type::f64, scalar_type::f32}), 4);
  check(tensors({scalar_type::bf16, scalar_type::f32, scalar_type::f16}), 2);
}

TEST_CASE("numbers split into many tensors are found as in one") {
  generator g(6);
  for (const auto type : {scalar_type::f32, scalar_type::f64}) {
    window whole(type, 1, 3000);
    whole.fill(normal(g, type));
    std::vector<window> parts;
    index_t first = 0;
    for (const index_t size : {0, 1, 2, 997, 0, 1500, 500}) {
      parts.emplace_back(type, 1, size).fill([&](index_t, index_t j) {
        return whole(0, first + j);
      });
      first += size;
    }
    REQUIRE(first == 3000);
    const ranks wanted = some_ranks(3000);
    check(parts, type == scalar_type::f64 ? 4 : 2);
    CHECK(search(parts, wanted).values == search(one_tensor(std::move(whole)), wanted).values);
  }
}

TEST_CASE("many equal numbers, one number, zeros of both signs, negative ones, edges") {
  for (const auto type : all_types) {
    const int passes = type == scalar_type::f64 ? 4 : 2;
    const auto filled = [&](index_t n, const auto& f) {
      window w(type, n, 1);
      w.fill([&](index_t i, index_t) { return rounded(type, f(i)); });
      return one_tensor(std::move(w));
    };
    check(filled(1000, [](index_t) { return 2.5; }), passes);
    check(filled(1, [](index_t) { return -0.1; }), passes);
    check(filled(1000, [](index_t i) { return i % 2 == 0 ? 0.0 : -0.0; }), passes);
    check(filled(1000, [](index_t i) { return i < 400 ? -0.3 : i < 600 ? 0.0 : 0.3; }), passes);
    check(filled(1000, [](index_t i) { return -1.0 - static_cast<double>(i % 7); }), passes);
    // Subnormal numbers, and the largest of the type.
    check(filled(999, [](index_t i) { return std::ldexp(i % 2 == 0 ? 1.0 : -1.0, -1 - int(i)); }),
          passes);
    const double large = type == scalar_type::f64   ? 1.7e308
                         : type == scalar_type::f16 ? 65504
                                                    : 3.38e38;
    check(filled(90, [&](index_t i) { return large * static_cast<double>(i % 3 - 1); }), passes);
  }
}

TEST_CASE("neighbours are told apart, in the last bit of each type") {
  // One number, its two neighbours and its negative: what differs is in the last digit alone.
  const double steps[] = {0x1p-52, 0x1p-23, 0x1p-10, 0x1p-7};
  for (std::size_t t = 0; t < 4; ++t) {
    window w(all_types[t], 4, 1);
    const double values[] = {1 + steps[t], 1, -1 - steps[t], 1 + 2 * steps[t]};
    w.fill([&](index_t i, index_t) { return values[i]; });
    CHECK(search(one_tensor(std::move(w)), {0, 1, 2, 3}).values ==
          std::vector<double>{values[2], values[1], values[0], values[3]});
  }
}

TEST_CASE("the rule is asked once, after the first pass, and what is not asked for is not sought") {
  host_context c;
  int asked = 0;
  window w(scalar_type::f64, 3, 1);
  order_search s([&](std::uint64_t n) {
    ++asked;
    CHECK(n == 6);
    return ranks{};
  });
  CHECK(s.wanted());
  s.see(c, w);
  s.see(c, w);
  CHECK(asked == 0);
  s.end_pass();
  CHECK(asked == 1);
  CHECK_FALSE(s.wanted());
}

TEST_CASE("a search is copied with what it knows") {
  host_context c;
  generator g(7);
  window w(scalar_type::f32, 40, 40);
  w.fill(normal(g, scalar_type::f32));
  order_search s([](std::uint64_t n) { return ranks{n / 4}; });
  s.see(c, w);
  s.end_pass();
  order_search copy = s;
  copy.see(c, w);
  copy.end_pass();
  CHECK_FALSE(copy.wanted());
  CHECK(copy.value(0) == nth(all_of(w), 400));
  CHECK(s.wanted());
}

TEST_CASE("no numbers, ranks that there are not, and numbers that change are errors") {
  host_context c;
  window none(scalar_type::f32, 0, 5), some(scalar_type::f32, 2, 2), others(scalar_type::f32, 2, 2);
  some.fill([](index_t i, index_t j) { return static_cast<double>(i + 2 * j); });
  others.fill([](index_t i, index_t j) { return 100.0 + static_cast<double>(i + 2 * j); });
  const auto rank = [](std::uint64_t r) {
    return order_search([r](std::uint64_t) { return ranks{r}; });
  };
  auto unseen = rank(0), empty = rank(0), far = rank(4), changed = rank(3), fewer = rank(3);
  CHECK_THROWS_WITH_AS(unseen.end_pass(), "a quantile of no numbers", catmerge::error);
  empty.see(c, none);
  CHECK_THROWS_WITH_AS(empty.end_pass(), "a quantile of no numbers", catmerge::error);
  far.see(c, some);
  CHECK_THROWS_WITH_AS(far.end_pass(), "a rank beyond the 4 numbers", catmerge::error);
  for (auto* s : {&changed, &fewer}) {
    s->see(c, some);
    s->end_pass();
  }
  changed.see(c, others);
  CHECK_THROWS_WITH_AS(changed.end_pass(), "numbers that differ from one pass to the next",
                       catmerge::error);
  CHECK_THROWS_WITH_AS(fewer.end_pass(), "numbers that differ from one pass to the next",
                       catmerge::error);
}

TEST_CASE("the same number at any number of threads") {
  generator g(8);
  window w(scalar_type::f64, 300, 300);
  w.fill(normal(g, scalar_type::f64));
  const double expected = nth(all_of(w), 4500);
  for (const int threads : {1, 3}) {
    host_context c(scrambled(threads));
    order_search s([](std::uint64_t) { return ranks{4500}; });
    while (s.wanted()) s.see(c, w), s.end_pass();
    CHECK(s.value(0) == expected);
  }
}
