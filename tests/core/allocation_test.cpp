// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/catmerge.hpp>
#include <cstdlib>
#include <new>

#include "support/data.hpp"

// Memory that runs out at the n-th allocation, for every n: nothing leaks, and what was only read
// is as it was. Eigen allocates by malloc, everything else by operator new; both end here (malloc
// and free by the linker's --wrap).

namespace {

long allowed = -1;  // allocations until one fails; negative: none does
long live = 0;      // allocations that were not released

bool fails() {
  if (allowed < 0) return false;
  return allowed-- == 0;
}

}  // namespace

extern "C" {
void* __real_malloc(std::size_t bytes);
void __real_free(void* p);
void* __wrap_malloc(std::size_t bytes);
void __wrap_free(void* p);
void* __wrap_malloc(std::size_t bytes) {
  if (fails()) return nullptr;
  ++live;
  return __real_malloc(bytes);
}
void __wrap_free(void* p) {
  if (p != nullptr) --live;
  __real_free(p);
}
}

void* operator new(std::size_t bytes) {
  if (fails()) throw std::bad_alloc();
  ++live;
  return __real_malloc(bytes > 0 ? bytes : 1);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  if (fails()) throw std::bad_alloc();
  ++live;
  const auto size = static_cast<std::size_t>(alignment);
  return std::aligned_alloc(size, (bytes + size - 1) / size * size);
}
void operator delete(void* p) noexcept {
  if (p != nullptr) --live;
  __real_free(p);
}
void operator delete(void* p, std::size_t) noexcept {
  operator delete(p);
}
void operator delete(void* p, std::align_val_t) noexcept {
  operator delete(p);
}
void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  operator delete(p);
}

using namespace test;

namespace {

/// Runs f with memory for 0, 1, 2 ... allocations until it gets through; returns how many it took.
/// After every failure `unchanged` must hold and nothing may have leaked.
template <class F, class Unchanged>
long survive(const F& f, const Unchanged& unchanged) {
  f();  // what is allocated once and kept (locale facets, say) is
  for (long n = 0;; ++n) {
    const long before = live;
    bool done = false, out_of_memory = false;
    allowed = n;
    try {
      f();
      done = true;
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
    allowed = -1;
    if (live != before || !unchanged() || done == out_of_memory) {
      FAIL_CHECK("failing allocation ", n, ": ", live - before, " leaked");
      return n;
    }
    if (done) return n;
  }
}

}  // namespace

TEST_CASE("running out of memory leaks nothing and changes no input") {
  const auto l = random_linear<float>(1, 7, 6, {3, 9, 4});
  const auto v = random_vector<float>(2, 8, {3, 4, 5});
  const auto copy = l;
  const auto copy_of_v = v;
  const auto unchanged = [&] {
    bool same = same_bits(l.base, copy.base) && same_bits(v.base, copy_of_v.base);
    for (std::size_t k = 0; k < l.experts.size(); ++k)
      same = same && same_bits(l.experts[k], copy.experts[k]) &&
             same_bits(l.vectors[k], copy.vectors[k]) &&
             same_bits(l.features[k], copy.features[k]) &&
             same_bits(v.experts[k], copy_of_v.experts[k]);
    return same;
  };
  for (const auto way : {catmerge::basis_solver::dense, catmerge::basis_solver::shifts,
                         catmerge::basis_solver::weights}) {
    catmerge::cat_options o;
    o.linear.solver = way;
    o.linear.directions = catmerge::largest{1};
    o.linear.order = way == catmerge::basis_solver::dense ? catmerge::trim_order::joint
                                                          : catmerge::trim_order::sequential;
    const long taken =
        survive([&] { catmerge::cat_linear(l.base, l.experts, l.features, o); }, unchanged);
    CHECK(taken > 50);
  }
  CHECK(survive([&] { catmerge::cat_scale(v.base, v.experts, v.features); }, unchanged) > 20);
  CHECK(survive([&] { catmerge::cat_shift(v.base, v.experts); }, unchanged) > 20);
  CHECK(survive([&] { catmerge::removal_basis(0, l.vectors, l.features); }, unchanged) > 20);
  CHECK(survive([&] { catmerge::task_vector(l.base, l.experts[0]); }, unchanged) >= 2);
  CHECK(survive([&] { catmerge::weight_average(l.base, l.experts); }, unchanged) > 5);
  CHECK(survive(
            [&] { catmerge::conflict_matrix(catmerge::layer_kind::linear, l.features, l.vectors); },
            unchanged) > 5);
}

TEST_CASE("an accumulator that ran out of memory holds what it held before") {
  generator g(3);
  const Eigen::MatrixXf first = g.matrix<float>(4, 6), second = g.matrix<float>(5, 6);
  catmerge::feature_statistics<> before;
  before.update(first);
  const Eigen::MatrixXf t = g.matrix<float>(3, 6);
  const auto kind = catmerge::layer_kind::linear;
  const double energy = catmerge::feature_shift(kind, before, t);
  for (long n = 0;; ++n) {
    catmerge::feature_statistics<> statistics;
    statistics.update(first);
    bool done = false;
    allowed = n;
    try {
      statistics.update(second);  // 4 + 5 rows > 6: becomes a Gram matrix
      done = true;
    } catch (const std::bad_alloc&) {
    }
    allowed = -1;
    if (done) {
      CHECK(statistics.count() == 9);
      break;
    }
    CHECK(statistics.count() == 4);
    CHECK(catmerge::feature_shift(kind, statistics, t) == doctest::Approx(energy).epsilon(1e-12));
  }
}

TEST_CASE("so do moments, and a first batch that failed leaves nothing") {
  generator g(4);
  const Eigen::MatrixXf first = g.matrix<float>(4, 6), second = g.matrix<float>(5, 6),
                        other = g.matrix<float>(2, 9);
  const Eigen::VectorXf t = g.vector<float>(6);
  const auto kind = catmerge::layer_kind::scale;
  catmerge::moment_statistics<> before;
  before.update(first);
  const double energy = catmerge::feature_shift(kind, before, t);
  bool done = false;
  for (long n = 0; !done; ++n) {
    catmerge::moment_statistics<> moments;
    catmerge::feature_statistics<> rows;
    moments.update(first);
    allowed = n;
    try {
      moments.update(second);
      done = true;
    } catch (const std::bad_alloc&) {
    }
    allowed = n;
    bool failed = false;
    try {
      rows.update(first);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    allowed = -1;
    if (!done) {
      CHECK(moments.count() == 4);
      CHECK(catmerge::feature_shift(kind, moments, t) == energy);
    }
    if (failed) {
      CHECK(rows.width() == 0);
      CHECK_THROWS_AS(rows.view(), catmerge::error);
      rows.update(other);  // of another width
      CHECK(rows.count() == 2);
    }
  }
}
