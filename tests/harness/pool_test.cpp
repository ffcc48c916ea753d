// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/catmerge.hpp>
#include <harness/system/pool.hpp>
#include <set>

#include "support/data.hpp"

// The program's thread pool: every task once, also from inside tasks, and the library's bits on it.
// CI runs this under ThreadSanitizer too.

using namespace test;
using catmerge::harness::pool;

namespace {

/// Runs `depth` levels of `count` tasks inside each other; returns how many ran at the innermost.
index_t nested(const catmerge::executor& run, index_t count, int depth) {
  std::atomic<index_t> ran{0};
  run(count, [&](index_t) { ran += depth > 1 ? nested(run, count, depth - 1) : 1; });
  return ran;
}

}  // namespace

TEST_CASE("every task runs once") {
  for (const unsigned threads : {1U, 2U, 3U, 8U}) {
    pool p(threads);
    const auto run = p.runner();
    for (const index_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
      run(count, [&](index_t i) { ++seen[static_cast<std::size_t>(i)]; });
      for (const auto& s : seen) CHECK(s == 1);
    }
  }
}

TEST_CASE("tasks run tasks") {
  for (const unsigned threads : {1U, 2U, 3U, 8U}) {
    pool p(threads);
    const auto run = p.runner();
    for (int repeat = 0; repeat < 50; ++repeat) {
      CHECK(nested(run, 5, 3) == 125);
      CHECK(nested(run, 2, 6) == 64);
    }
  }
}

TEST_CASE("a thread that is done helps inside another's task") {
  // The second task of two ends at once; the first waits inside until two threads have been there.
  pool p(2);
  const auto run = p.runner();
  std::mutex guard;
  std::condition_variable arrived;
  std::set<std::thread::id> seen;
  run(2, [&](index_t outer) {
    if (outer == 1) return;
    run(2, [&](index_t) {
      std::unique_lock lock(guard);
      seen.insert(std::this_thread::get_id());
      arrived.notify_all();
      arrived.wait(lock, [&] { return seen.size() == 2; });
    });
  });
  CHECK(seen.size() == 2);
}

TEST_CASE("the first exception comes out, at every depth, and the pool goes on") {
  pool p(3);
  const auto run = p.runner();
  for (int repeat = 0; repeat < 50; ++repeat) {
    CHECK_THROWS_WITH_AS(
        run(10, [](index_t i) { i == 3 ? throw std::runtime_error("three") : void(); }), "three",
        std::runtime_error);
    std::atomic<int> caught{0};
    CHECK_THROWS_WITH_AS(run(4,
                             [&](index_t) {
                               try {
                                 run(4, [](index_t) { throw std::runtime_error("inner"); });
                               } catch (const std::runtime_error&) {
                                 ++caught;
                                 throw;
                               }
                             }),
                         "inner", std::runtime_error);
    CHECK(caught >= 1);
    CHECK(nested(run, 3, 2) == 9);
  }
}

TEST_CASE("CAT gives the same bits on it at 1, 2, 3 and 8 threads") {
  const auto l = random_linear<float>(1, 300, 270, {40, 3, 60, 20});
  for (const auto way : {catmerge::basis_solver::shifts, catmerge::basis_solver::weights}) {
    catmerge::cat_options options;
    options.linear.solver = way;
    const auto expected = catmerge::cat_linear(l.base, l.experts, l.features, options);
    for (const unsigned threads : {1U, 2U, 3U, 8U}) {
      pool p(threads);
      catmerge::context<catmerge::host> c(p.runner());
      const auto found = catmerge::cat_linear(l.base, l.experts, l.features, options, c);
      CHECK(same_bits(found.merged, expected.merged));
      CHECK(same_bits(found.report.trim->conflict_after, expected.report.trim->conflict_after));
    }
  }
}
