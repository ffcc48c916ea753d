// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>
#include <pthread.h>

#include <catmerge/catmerge.hpp>
#include <exception>
#include <stdexcept>
#include <string>

#include "support/data.hpp"
#include "support/executor.hpp"

// Executors: what they may do, what they may not, and the stack that their threads need.

using namespace test;
using catmerge::executor;
using task = std::function<void(index_t)>;
using host_context = catmerge::context<catmerge::host>;

namespace {

/// The message of what `run` makes of a merge and of single operations, which all must throw.
void check_refused(const executor& run, const std::string& message) {
  const auto check = [&](const auto& work) {
    try {
      host_context c(run);
      work(c);
      FAIL("nothing was thrown");
    } catch (const catmerge::error& e) {
      CHECK_MESSAGE(std::string(e.what()).find(message) != std::string::npos, e.what());
    }
  };
  const auto l = random_linear<float>(1, 70, 90, {4, 5, 6});
  check([&](host_context& c) { catmerge::cat_linear(l.base, l.experts, l.features, {}, c); });
  check([&](host_context& c) { catmerge::task_vector(l.base, l.experts[0], c); });
  check([&](host_context& c) { c.squared_norm(catmerge::const_view_of(l.base)); });
  check([&](host_context& c) { c.all_finite(catmerge::const_view_of(l.base)); });
  check([&](host_context& c) { c.concurrently(3, [](index_t) {}); });
}

/// Runs every task on a thread of its own with a stack of `bytes`, one after the other.
executor on_small_stacks(std::size_t bytes) {
  return [bytes](index_t count, const task& f) {
    for (index_t i = 0; i < count; ++i) {
      struct {
        const task& f;
        index_t i;
        std::exception_ptr failure;
      } job{f, i, {}};
      pthread_attr_t small;
      REQUIRE(pthread_attr_init(&small) == 0);
      REQUIRE(pthread_attr_setstacksize(&small, bytes) == 0);
      const auto begin = [](void* p) -> void* {
        auto* const mine = static_cast<decltype(job)*>(p);
        try {
          mine->f(mine->i);
        } catch (...) {
          mine->failure = std::current_exception();
        }
        return nullptr;
      };
      pthread_t thread{};
      REQUIRE(pthread_create(&thread, &small, begin, &job) == 0);
      pthread_join(thread, nullptr);
      pthread_attr_destroy(&small);
      if (job.failure) std::rethrow_exception(job.failure);
    }
  };
}

/// The stack that the docs of executor promise. (Sanitizers put walls between variables.)
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t promised = 1 << 20;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr std::size_t promised = 1 << 20;
#else
constexpr std::size_t promised = 64 << 10;
#endif
#else
constexpr std::size_t promised = 64 << 10;
#endif

}  // namespace

TEST_CASE("an executor that leaves out tasks is an error") {
  check_refused([](index_t, const task&) {}, "came back after 0 of ");
  check_refused(
      [](index_t count, const task& f) {
        for (index_t i = 0; i + 1 < count; ++i) f(i);
      },
      "it has to run all, wait for them, and pass on what they throw");
  check_refused(
      [](index_t count, const task& f) {
        for (index_t i = 1; i < count; ++i) f(i);
      },
      "it has to run all");
}

TEST_CASE("an executor that runs a task twice, or one that there is not, is an error") {
  check_refused(
      [](index_t count, const task& f) {
        for (index_t i = 0; i < count; ++i) f(i);
        f(count - 1);
      },
      " twice: it has to run each of 0 to count - 1 once");
  check_refused(
      [](index_t count, const task& f) {  // as many as asked for, but not those
        for (index_t i = 0; i < count; ++i) f(i / 2);
      },
      "the executor ran task 0 of ");
  check_refused(
      [](index_t count, const task& f) {
        for (index_t i = 1; i <= count; ++i) f(i);
      },
      ", which there is not");
  check_refused([](index_t, const task& f) { f(-1); }, "the executor ran task -1 of ");
}

TEST_CASE(
    "an executor that swallows exceptions is an error, and one that does not passes them on") {
  const auto fails = [](index_t i) {
    if (i == 2) throw std::range_error("mine");
  };
  host_context swallows([](index_t count, const task& f) {
    for (index_t i = 0; i < count; ++i) {
      try {
        f(i);
      } catch (const std::exception&) {
      }
    }
  });
  CHECK_THROWS_AS(swallows.concurrently(4, fails), catmerge::error);
  for (const int threads : {1, 3}) {
    host_context passes(scrambled(threads));
    CHECK_THROWS_AS(passes.concurrently(4, fails), std::range_error);
  }
}

TEST_CASE("every task runs once, on several threads and from inside tasks") {
  host_context c(scrambled(3));
  std::atomic<int> runs{0};
  c.concurrently(20, [&](index_t) { c.concurrently(7, [&](index_t) { ++runs; }); });
  CHECK(runs == 140);
}

TEST_CASE_TEMPLATE("64 KiB of stack are enough for a task", S, float, double) {
  const auto l = random_linear<S>(2, 150, 130, {8, 5});
  const auto v = random_vector<S>(3, 200, {4, 3});
  host_context plain, threads(on_small_stacks(promised));
  for (const auto way : {catmerge::basis_solver::dense, catmerge::basis_solver::shifts,
                         catmerge::basis_solver::weights}) {
    catmerge::cat_options o;
    o.linear.solver = way;
    const auto expected = catmerge::cat_linear(l.base, l.experts, l.features, o, plain).merged;
    CHECK(same_bits(catmerge::cat_linear(l.base, l.experts, l.features, o, threads).merged,
                    expected));
    // A merge as a task, whose operations are tasks of their own on the same thread.
    auto merged = expected;
    threads.concurrently(2, [&](index_t i) {
      if (i == 1) merged = catmerge::cat_linear(l.base, l.experts, l.features, o, plain).merged;
    });
    CHECK(same_bits(merged, expected));
  }
  const auto expected = catmerge::cat_scale(v.base, v.experts, v.features, {}, plain).merged;
  CHECK(
      same_bits(catmerge::cat_scale(v.base, v.experts, v.features, {}, threads).merged, expected));
}
