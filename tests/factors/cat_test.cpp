// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/factors/cat.hpp>
#include <catmerge/factors/conflict.hpp>
#include <catmerge/factors/core_merges.hpp>
#include <catmerge/features/conflict.hpp>
#include <catmerge/merge/merge_parameter.hpp>
#include <catmerge/methods/cat.hpp>
#include <memory_resource>

#include "support/executor.hpp"
#include "support/factors.hpp"
#include "support/tolerance.hpp"

// CAT in the factors against CAT on the dense products, in double.

using namespace test;
using catmerge::cat_options;
using catmerge::index_t;
using catmerge::largest;
using dense_matrix = Eigen::MatrixXd;

namespace {

constexpr double eps = tolerance::eps<double>;

/// CAT on the dense task vectors: base zero, so experts are task vectors.
catmerge::merge_result<dense_matrix> dense_cat(const std::vector<dense_matrix>& t,
                                               const auto& features, const cat_options& options) {
  const dense_matrix zero = dense_matrix::Zero(t[0].rows(), t[0].cols());
  return catmerge::cat_linear(zero, t, features, options);
}

/// The smallest gap below the removed directions of any task, relative to the largest eigenvalue.
/// Both solvers are off by some n eps of the sums whose difference is G_k.
double gap_of(const catmerge::trim_report& report) {
  double gap = 1;
  for (const auto& p : report.protections) {
    const std::size_t n = p.eigenvalues.size();
    if (n == 0) continue;
    const double below = n < p.spectrum.size() ? p.spectrum[n] : 0;
    gap = std::min({gap, (p.spectrum[n - 1] - below) / p.magnitude,
                    std::abs(p.spectrum[n - 1]) / p.magnitude});
  }
  return gap;
}

/// Bases are off by the rounding of G_k (`rounding`, relative) over the gap (Davis & Kahan), and a
/// vector by as much for each of the other tasks' bases.
void check_report(const catmerge::trim_report& found, const catmerge::trim_report& expected,
                  double bound) {
  const double conflict = expected.conflict_before.norm();
  CHECK((found.conflict_before - expected.conflict_before).norm() <= bound * conflict);
  CHECK((found.conflict_after - expected.conflict_after).norm() <= bound * conflict);
  CHECK((found.overlap - expected.overlap).norm() <= bound * expected.overlap.norm());
  REQUIRE(found.norm.size() == expected.norm.size());
  for (std::size_t i = 0; i < found.norm.size(); ++i) {
    CHECK(std::abs(found.norm[i] - expected.norm[i]) <= bound * expected.norm[i]);
    CHECK(std::abs(found.energy_removed[i] - expected.energy_removed[i]) <= bound);
    CHECK(std::abs(found.deviation[i] - expected.deviation[i]) <= bound * conflict);
    CHECK(found.rows[i] == expected.rows[i]);
  }
  CHECK(found.emptied == expected.emptied);
  REQUIRE(found.protections.size() == expected.protections.size());
  for (std::size_t k = 0; k < found.protections.size(); ++k) {
    const auto &f = found.protections[k], &e = expected.protections[k];
    CHECK(f.task == e.task);
    REQUIRE(f.eigenvalues.size() == e.eigenvalues.size());
    for (std::size_t j = 0; j < f.eigenvalues.size(); ++j)
      CHECK(std::abs(f.eigenvalues[j] - e.eigenvalues[j]) <= bound * e.magnitude);
    CHECK(std::abs(f.magnitude - e.magnitude) <= bound * e.magnitude);
  }
}

/// Trims and merges in both ways. Returns false if the gap is too small for a comparison.
template <class S>
bool agree(const adapters<S>& in, const auto& features, cat_options options) {
  options.linear.solver = catmerge::basis_solver::dense;
  const auto t = dense_all(in.vectors);
  const auto expected = dense_cat(t, features, options);
  const double gap = gap_of(*expected.report.trim);
  if (gap < 1e-3) return false;
  double size = 0;
  for (const auto& x : t) size += x.norm();
  // Sums of up to 64 terms in G_k's factors, their squares, differences by lambda.
  const double bound = 64 * (2 + options.linear.lambda) * eps / gap;

  const auto found = catmerge::cat_factors(in.vectors, features, options);
  const double stored = 4 * tolerance::eps<catmerge::compute_t<S>>;
  CHECK(distance(dense(found.merged), expected.merged, size) <= bound + stored);
  CHECK(bound <= 1e-10);
  check_report(*found.report.trim, *expected.report.trim, bound);
  CHECK(found.report.kind == catmerge::layer_kind::linear);
  CHECK(found.report.fallback == catmerge::fallback_rule::none);

  const auto trimmed = catmerge::trim_factors(in.vectors, features, options);
  dense_matrix sum = dense_matrix::Zero(t[0].rows(), t[0].cols());
  for (std::size_t i = 0; i < t.size(); ++i) {
    CHECK(same_bits(
        trimmed.vectors[i].a,
        decltype(trimmed.vectors[i].a)(in.vectors[i].a.template cast<catmerge::compute_t<S>>())));
    CHECK(trimmed.vectors[i].scale == in.vectors[i].scale);
    CHECK(trimmed.vectors[i].b.cols() == in.vectors[i].b.cols());
    sum += options.alpha * dense(trimmed.vectors[i]);
  }
  CHECK(distance(sum, expected.merged, size) <= bound + stored);
  check_report(*trimmed.report.trim, *expected.report.trim, bound);
  return true;
}

}  // namespace

TEST_CASE("CAT in factors equals CAT on the dense vectors") {
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    CAPTURE(seed);
    generator g(1000 + seed);
    const index_t tasks = g.integer(2, 5), d_out = g.integer(12, 40), d_in = g.integer(12, 40);
    std::vector<index_t> ranks, rows;
    for (index_t k = 0; k < tasks; ++k) {
      ranks.push_back(g.integer(1, 5));
      rows.push_back(g.integer(3, 30));
    }
    const adapters<double> in(seed, d_out, d_in, ranks, rows);
    cat_options options;
    options.alpha = 0.3 + g.uniform();
    const double lambdas[] = {0, 0.1, 1, 5};
    options.linear.lambda = lambdas[g.integer(0, 3)];
    if (seed % 4 == 0) options.linear.directions = catmerge::all_positive{};
    if (seed % 4 == 1) options.linear.directions = catmerge::energy_share{0.5};
    if (seed % 4 == 2) options.linear.directions = largest{g.integer(1, 3)};
    options.linear.order =
        seed % 3 == 0 ? catmerge::trim_order::joint : catmerge::trim_order::sequential;
    if (seed % 5 == 0) options.linear.rescaling = catmerge::rescale::frobenius;
    if (seed % 6 == 0) options.linear.weighting = catmerge::row_weight::mean;

    compared += agree(in, in.features, options);
    // The same with Gram matrices.
    std::vector<dense_matrix> grams;
    for (const auto& x : in.features) grams.push_back(x.transpose() * x);
    std::vector<catmerge::statistics_view<>> statistics;
    for (std::size_t k = 0; k < grams.size(); ++k)
      statistics.push_back({catmerge::statistics_form::gram, catmerge::const_view_of(grams[k]),
                            static_cast<double>(in.features[k].rows())});
    compared += agree(in, statistics, options);
  }
  CHECK(compared >= 60);  // of 80: the others have no gap
}

TEST_CASE_TEMPLATE("CAT in factors of every scalar type", S, float, catmerge::half,
                   catmerge::bfloat16) {
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    const adapters<S> in(seed, 24, 20, {3, 4, 2}, {9, 5, 7});
    cat_options options;
    options.linear.lambda = 1;
    options.linear.directions = largest{2};
    compared += agree(in, in.features, options);
  }
  CHECK(compared >= 2);
}

TEST_CASE("CAT in factors to 1e-11 where gaps are clear, and by every solver") {
  // Removed directions of their own size each: the eigenvalues of G_k are far apart.
  generator g(5);
  const index_t d_out = 30, d_in = 20;
  std::vector<adapters<double>::factored> vectors;
  std::vector<dense_matrix> features;
  for (index_t k = 0; k < 3; ++k) {
    Eigen::VectorXd sizes(3);
    sizes << 9, 3, 1;
    vectors.push_back(
        {g.orthonormal(d_out, 3) * sizes.asDiagonal(), g.orthonormal(d_in, 3).transpose(), 0.7});
    features.push_back(g.matrix(200, d_in));
  }
  const auto t = dense_all(vectors);
  const double size = t[0].norm() + t[1].norm() + t[2].norm();
  for (const double lambda : {0.0, 0.2, 0.5}) {
    cat_options options;
    options.linear.lambda = lambda;
    options.linear.directions = largest{1};
    const auto expected = dense_cat(t, features, options);
    REQUIRE(gap_of(*expected.report.trim) > 0.05);
    REQUIRE(expected.report.trim->energy_removed[0] > 0.3);
    options.linear.solver = catmerge::basis_solver::dense;
    const auto exact = dense_cat(t, features, options).merged;
    for (const auto solver : {catmerge::basis_solver::automatic, catmerge::basis_solver::dense,
                              catmerge::basis_solver::shifts, catmerge::basis_solver::weights}) {
      options.linear.solver = solver;
      options.linear.eigen.tolerance = 1e-13;
      const auto found = catmerge::cat_factors(vectors, features, options);
      CHECK(distance(dense(found.merged), exact, size) <= 1e-11);
      if (solver != catmerge::basis_solver::automatic)
        CHECK(found.report.trim->protections[0].solver == solver);
    }
  }
}

TEST_CASE("eigenvalues of either sign: zeros come before negative ones") {
  // Few rows and a large lambda: one positive eigenvalue for each row of X_k, many negative ones.
  for (const index_t count : {1, 2, 6}) {
    CAPTURE(count);
    const adapters<double> in(11, 40, 30, {4, 4}, {2, 30});
    cat_options options;
    options.linear.lambda = 5;
    options.linear.directions = largest{count, false};
    options.linear.solver = catmerge::basis_solver::dense;
    const auto t = dense_all(in.vectors);
    const auto expected = dense_cat(t, in.features, options);
    const auto found = catmerge::cat_factors(in.vectors, in.features, options);
    CHECK(distance(dense(found.merged), expected.merged, t[0].norm() + t[1].norm()) <= 1e-11);
    CHECK(found.report.trim->protections[0].eigenvalues.size() ==
          expected.report.trim->protections[0].eigenvalues.size());
  }
}

TEST_CASE("shapes at the edge: wide, ranks above d_in, zero B, rank-deficient factors") {
  cat_options options;
  options.linear.lambda = 0.5;
  options.linear.directions = largest{1};
  int compared = 0;
  for (const std::uint64_t seed : seeds) {
    CAPTURE(seed);
    compared += agree(adapters<double>(seed, 6, 30, {5, 4, 3}, {4, 6, 5}),  // d_out < sum r
                      adapters<double>(seed, 6, 30, {5, 4, 3}, {4, 6, 5}).features, options);
    const adapters<double> tall(seed, 30, 4, {7, 6}, {9, 5});  // r > d_in
    compared += agree(tall, tall.features, options);
    const adapters<double> both(seed, 5, 4, {9, 8, 6}, {9, 5, 3});  // r > both
    compared += agree(both, both.features, options);

    adapters<double> zero(seed, 20, 15, {3, 4, 2}, {6, 5, 4});
    zero.vectors[1].b.setZero();
    compared += agree(zero, zero.features, options);
    adapters<double> deficient(seed, 20, 15, {3, 4, 2}, {6, 5, 4});
    deficient.vectors[0].b.col(2) = deficient.vectors[0].b.col(0);
    deficient.vectors[1].a.row(1) = 2 * deficient.vectors[1].a.row(3);
    deficient.vectors[2].b.col(0) = deficient.vectors[0].b.col(1);  // shared between tasks
    compared += agree(deficient, deficient.features, options);
    // A direction that is small against the others, but not rounding.
    adapters<double> close(seed, 20, 15, {3, 3}, {6, 5});
    close.vectors[1].b = close.vectors[0].b + 1e-9 * close.vectors[1].b;
    compared += agree(close, close.features, options);
  }
  CHECK(compared >= 15);  // of 18
}

TEST_CASE("parts of a fused weight are trimmed alone, as in the dense trim") {
  using context = catmerge::context<catmerge::host>;
  context c;
  int compared = 0;
  for (const std::uint64_t seed : seeds)
    for (const auto size : {catmerge::rescale::none, catmerge::rescale::frobenius})
      for (const auto fused : {catmerge::fused_weights::split, catmerge::fused_weights::whole}) {
        CAPTURE(seed);
        adapters<double> in(seed, 36, 14, {3, 2, 4}, {9, 6, 8});
        in.vectors[1].b.topRows(12).setZero();          // a part without an adapter
        in.vectors[2].b.block(12, 1, 12, 3).setZero();  // and a part of a lower rank
        cat_options options;
        options.linear.lambda = 0.2;
        options.linear.directions = largest{1};
        options.linear.rescaling = size;
        options.linear.solver = catmerge::basis_solver::dense;
        options.fused = fused;

        catmerge::factored_problem<context> p;
        catmerge::layer_problem<context> whole;
        const auto t = dense_all(in.vectors);
        const dense_matrix zero = dense_matrix::Zero(36, 14);
        for (std::size_t k = 0; k < 3; ++k) {
          const auto& v = in.vectors[k];
          p.vectors.push_back(
              {catmerge::const_view_of(v.b), catmerge::const_view_of(v.a), v.scale});
          p.statistics.push_back(catmerge::statistics_of(in.features[k]));
        }
        p.parts = whole.parts = 3;
        whole.kind = catmerge::layer_kind::linear;
        whole.statistics = p.statistics;
        const auto expected =
            catmerge::merge_parameter(catmerge::cat_method{options}, whole, zero, t, c);
        if (gap_of(*expected.report.trim) < 1e-3) continue;
        const auto found = catmerge::cat_factors(p, options, c);
        dense_matrix b(36, 9), a(9, 14);
        c.assign(found.merged.b, catmerge::view_of(b));
        c.assign(found.merged.a, catmerge::view_of(a));
        CHECK(distance(found.merged.scale * b * a, expected.merged,
                       t[0].norm() + t[1].norm() + t[2].norm()) <= 1e-10);
        check_report(*found.report.trim, *expected.report.trim, 1e-10);
        ++compared;
      }
  CHECK(compared >= 8);  // of 12
}

TEST_CASE("all vectors zero stay zero") {
  adapters<double> in(1, 12, 10, {3, 2}, {4, 4});
  for (auto& v : in.vectors) v.b.setZero();
  const auto found = catmerge::trim_factors(in.vectors, in.features);
  for (const auto& v : found.vectors) CHECK(dense(v).norm() == 0);
  CHECK(found.report.trim->conflict_before.norm() == 0);
  CHECK(found.report.trim->energy_removed == std::vector<double>{0, 0});
  CHECK(found.report.trim->emptied.empty());
}

TEST_CASE_TEMPLATE("one adapter returns itself, bit for bit", S, double, float, catmerge::half,
                   catmerge::bfloat16) {
  const adapters<S> in(3, 14, 11, {4}, {6});
  cat_options options;
  options.alpha = 1;
  const auto found = catmerge::cat_factors(in.vectors, in.features, options);
  CHECK(in_double(found.merged.b) == in_double(in.vectors[0].b));
  CHECK(in_double(found.merged.a) == in_double(in.vectors[0].a));
  CHECK(found.merged.scale == in.vectors[0].scale);
}

TEST_CASE("for two tasks order changes nothing, a third copy is another task") {
  cat_options options;
  options.linear.lambda = 0.3;
  options.linear.directions = largest{1};
  const adapters<double> in(21, 25, 16, {3, 4}, {12, 9});
  const auto forth = catmerge::trim_factors(in.vectors, in.features, options);
  const auto back = catmerge::trim_factors(std::vector{in.vectors[1], in.vectors[0]},
                                           std::vector{in.features[1], in.features[0]}, options);
  for (std::size_t i = 0; i < 2; ++i) {
    const auto t = dense(in.vectors[i]);
    CHECK(distance(dense(back.vectors[1 - i]), dense(forth.vectors[i]), t.norm()) <= 1e-11);
  }

  // The joint trim of more tasks depends on no order either.
  options.linear.order = catmerge::trim_order::joint;
  const adapters<double> three(22, 25, 16, {3, 4, 2}, {12, 9, 7});
  const auto first = catmerge::trim_factors(three.vectors, three.features, options);
  const auto turned = catmerge::trim_factors(
      std::vector{three.vectors[2], three.vectors[0], three.vectors[1]},
      std::vector{three.features[2], three.features[0], three.features[1]}, options);
  for (std::size_t i = 0; i < 3; ++i) {
    const auto t = dense(three.vectors[i]);
    CHECK(distance(dense(turned.vectors[(i + 1) % 3]), dense(first.vectors[i]), t.norm()) <= 1e-11);
    CHECK(distance(dense(first.vectors[i]), t, t.norm()) > 1e-3);
  }

  adapters<double> copies(21, 25, 16, {3, 4, 3}, {12, 9, 5});
  copies.vectors[2] = copies.vectors[0];
  copies.features[2] = copies.features[0];
  CHECK(agree(copies, copies.features, options));
}

TEST_CASE("a conflict does not rise, and a vector that lies in one basis is emptied") {
  for (const std::uint64_t seed : seeds) {
    const adapters<double> in(seed, 30, 20, {4, 3, 5}, {7, 9, 5});
    const auto report = *catmerge::trim_factors(in.vectors, in.features).report.trim;
    CHECK((report.conflict_after.array() <=
           report.conflict_before.array() * (1 + tolerance::rise<double>)+1e-300)
              .all());
  }
  // Of rank one each: all of the other vector is removed if lambda is zero.
  const adapters<float> one(4, 30, 20, {1, 1}, {5, 5});
  cat_options options;
  options.linear.lambda = 0;
  options.linear.rescaling = catmerge::rescale::frobenius;
  const auto emptied = catmerge::trim_factors(one.vectors, one.features, options);
  CHECK(emptied.report.trim->emptied == std::vector<index_t>{0, 1});
  for (const auto& v : emptied.vectors) CHECK(v.b.norm() == 0);
}

TEST_CASE("conflicts and deviations in factors equal the dense ones") {
  for (const std::uint64_t seed : seeds) {
    const adapters<double> in(seed, 22, 35, {4, 1, 6}, {7, 40, 5});
    const auto t = dense_all(in.vectors);
    const Eigen::MatrixXd expected =
        catmerge::conflict_matrix(catmerge::layer_kind::linear, in.features, t);
    const Eigen::MatrixXd found = catmerge::factored_conflict_matrix(in.features, in.vectors);
    CHECK((found - expected).norm() <= 1e-13 * expected.norm());
    const dense_matrix gram = in.features[1].transpose() * in.features[1];
    const catmerge::statistics_view<> statistics{catmerge::statistics_form::gram,
                                                 catmerge::const_view_of(gram), 40};
    CHECK(std::abs(catmerge::factored_shift(statistics, in.vectors[2]) - expected(1, 2)) <=
          1e-12 * expected(1, 2));

    const auto trimmed = catmerge::trim_factors(in.vectors, in.features);
    for (std::size_t i = 0; i < 3; ++i) {
      const catmerge::factored_vector lost{dense_matrix(in.vectors[i].b - trimmed.vectors[i].b),
                                           in.vectors[i].a, in.vectors[i].scale};
      const double deviation = trimmed.report.trim->deviation[i];
      CHECK(std::abs(catmerge::factored_shift(in.features[i], lost) - deviation) <=
            1e-12 * expected(static_cast<index_t>(i), static_cast<index_t>(i)));
    }
  }
}

TEST_CASE("no matrix of d_out x d_in is made") {
  // A resource that refuses memory for as many numbers of four bytes.
  struct limited : std::pmr::memory_resource {
    std::size_t limit = 0, largest = 0;
    void* do_allocate(std::size_t bytes, std::size_t alignment) override {
      largest = std::max(largest, bytes);
      return std::pmr::new_delete_resource()->allocate(bytes, alignment);
    }
    void do_deallocate(void* p, std::size_t bytes, std::size_t alignment) override {
      std::pmr::new_delete_resource()->deallocate(p, bytes, alignment);
    }
    bool do_is_equal(const memory_resource& other) const noexcept override {
      return this == &other;
    }
  } memory;
  catmerge::context<catmerge::host> c(catmerge::executor{}, &memory);
  const adapters<float> in(1, 500, 400, {4, 4, 4}, {6, 6, 6});
  (void)catmerge::cat_factors(in.vectors, in.features, {}, c);
  CHECK(memory.largest > 0);
  CHECK(memory.largest <= 500 * 13 * 2 * sizeof(double));
  CHECK(memory.largest < 500 * 400 * sizeof(float));
}

TEST_CASE("the same bits at any number of threads") {
  const adapters<float> in(9, 70, 50, {4, 6, 3}, {12, 7, 20});
  const auto expected = catmerge::cat_factors(in.vectors, in.features);
  for (const int threads : {2, 5}) {
    std::atomic<int> calls{0};
    catmerge::context<catmerge::host> c(scrambled(threads, &calls));
    const auto found = catmerge::cat_factors(in.vectors, in.features, {}, c);
    CHECK(same_bits(found.merged.b, expected.merged.b));
    CHECK(same_bits(found.merged.a, expected.merged.a));
    CHECK(calls > 0);
  }
}

TEST_CASE("errors of CAT in factors") {
  const adapters<double> in(1, 8, 6, {2, 3}, {4, 5});
  auto features = in.features;
  const auto trim = [&](const cat_options& options = {}) {
    return catmerge::trim_factors(in.vectors, features, options);
  };
  features[1] = dense_matrix::Zero(4, 7);
  CHECK_THROWS_WITH_AS(
      trim(), "the parameter: features of 'task 1': expected rows of 6 entries, found 4 x 7",
      catmerge::error);
  features = in.features;
  features[0](1, 2) = NAN;
  CHECK_THROWS_WITH_AS(trim(),
                       "the parameter: features of 'task 0' hold a value that is not finite",
                       catmerge::error);
  features.pop_back();
  CHECK_THROWS_WITH_AS(trim(), "the parameter: features of 1 tasks for 2 task vectors",
                       catmerge::error);
  features = in.features;
  cat_options options;
  options.linear.lambda = -1;
  CHECK_THROWS_AS(trim(options), catmerge::error);

  // A problem of handles, with names.
  catmerge::context<catmerge::host> c;
  catmerge::factored_problem<catmerge::context<catmerge::host>> p;
  for (const auto& v : in.vectors)
    p.vectors.push_back({catmerge::const_view_of(v.b), catmerge::const_view_of(v.a), v.scale});
  p.names = {"q_proj", {"math", "code"}};
  CHECK_THROWS_WITH_AS(catmerge::trim_factors(p, {}, c),
                       "q_proj: the features are missing: one matrix of rows n_k x d_in per task, "
                       "or its statistics",
                       catmerge::error);
  for (const auto& x : in.features) p.statistics.push_back(catmerge::statistics_of(x));
  const auto handles = catmerge::cat_factors(p, {}, c);
  const auto typed = catmerge::cat_factors(in.vectors, in.features);
  dense_matrix b(8, 5);
  c.assign(handles.merged.b, catmerge::view_of(b));
  CHECK(same_bits(b, typed.merged.b));

  p.parts = 3;
  CHECK_THROWS_WITH_AS(catmerge::trim_factors(p, {}, c),
                       "q_proj: 8 rows cannot be split into 3 equal parts", catmerge::error);
  p.parts = 2;
  CHECK_THROWS_WITH_AS(
      catmerge::tsv_m_factors(p, {1, catmerge::fused_weights::split}, c),
      "q_proj: the cores of a fused weight are merged as one matrix: ask for fused_weights::whole, "
      "or merge each block of rows of B alone",
      catmerge::error);
  p.parts = 1;

  const dense_matrix moments = dense_matrix::Ones(6, 1);
  p.statistics[1] = {catmerge::statistics_form::second_moment, catmerge::const_view_of(moments), 5};
  CHECK_THROWS_WITH_AS(catmerge::trim_factors(p, {}, c),
                       "q_proj: features of 'code': a linear layer needs rows, a factor or a Gram "
                       "matrix, found second moments",
                       catmerge::error);
}
