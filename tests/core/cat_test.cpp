// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/catmerge.hpp>

#include "support/data.hpp"
#include "support/executor.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace test;
using catmerge::cat_options;
using catmerge::largest;
using catmerge::rescale;
using catmerge::row_weight;
using catmerge::trim_order;
using oracle::real;

namespace {

double norm(const oracle::matrix& m) {
  return static_cast<double>(std::sqrt(oracle::energy(m)));
}

template <class Tensor>
double distance(const Tensor& merged, const oracle::matrix& expected) {
  return norm(oracle::minus(oracle::exact(merged), expected));
}

cat_options quick(double alpha = 0.4) {
  cat_options o;
  o.alpha = alpha;
  return o;
}

/// theta_0 + alpha sum T_k, entry by entry, in long double.
template <class Tensor>
oracle::matrix arithmetic(const layer<Tensor>& l, real alpha) {
  std::vector<oracle::matrix> vectors;
  for (const auto& e : l.experts)
    vectors.push_back(oracle::minus(oracle::exact(e), oracle::exact(l.base)));
  return oracle::combine(oracle::exact(l.base), alpha, vectors);
}

/// One way through the forks of cat_options.
struct choice {
  bool joint, mean, rescale, positive_only;
};
constexpr choice forks[] = {{false, false, false, true}, {true, false, false, true},
                            {false, true, false, true},  {false, false, true, true},
                            {false, false, true, false}, {true, true, true, false}};

cat_options options_of(const choice& f, index_t rank, double lambda) {
  cat_options o;
  o.linear.directions = largest{rank, f.positive_only};
  o.linear.lambda = lambda;
  o.linear.order = f.joint ? trim_order::joint : trim_order::sequential;
  o.linear.weighting = f.mean ? row_weight::mean : row_weight::sum;
  o.linear.rescaling = f.rescale ? rescale::frobenius : rescale::none;
  o.scale.coordinates = largest{rank, f.positive_only};
  o.scale.lambda = lambda;
  o.scale.rescaling = o.linear.rescaling;
  o.shift.count = rank;
  return o;
}

oracle::options oracle_options(const choice& f, index_t rank, double lambda) {
  oracle::options o;
  o.lambda = real(lambda);
  o.rank = rank;
  o.positive_only = f.positive_only;
  o.joint = f.joint;
  o.mean = f.mean;
  o.rescale = f.rescale;
  o.alpha = real(0.4);
  return o;
}

}  // namespace

TEST_CASE_TEMPLATE("cat_linear: the oracle's merge, for every fork and every way", S, double,
                   float) {
  index_t compared = 0;
  for (const std::uint64_t seed : seeds)
    for (const auto& rows : {std::vector<index_t>{4, 5}, {3, 6, 4}, {20, 2, 9, 5}}) {
      const auto l = random_linear<S>(seed, 14, 11, rows);
      const auto base = oracle::exact(l.base);
      const auto experts = oracle::exact_all(l.experts), features = oracle::exact_all(l.features);
      double size = 0;
      for (const auto& t : l.vectors) size += static_cast<double>(t.norm());
      std::vector<Eigen::MatrixXd> squares;
      for (const auto& x : l.features)
        squares.push_back(x.template cast<double>().transpose() * x.template cast<double>());
      std::vector<catmerge::statistics_view<>> grams;
      for (std::size_t k = 0; k < rows.size(); ++k)
        grams.push_back({catmerge::statistics_form::gram, catmerge::const_view_of(squares[k]),
                         static_cast<double>(rows[k])});
      for (const choice& f : forks)
        for (const double lambda : {0.5, 5.0}) {
          const auto expected =
              oracle::cat_linear(base, experts, features, oracle_options(f, 2, lambda));
          if (expected.gap < 1e-3) continue;  // the subspace is not defined well enough to compare
          ++compared;
          const double allowed = tolerance::merged<S>(expected.gap) * size;
          const auto check = [&](const auto& found) {
            const auto& [merged, report] = found;
            CHECK(distance(merged, expected.merged) <= allowed);
            CHECK(report.trim.has_value());
            // The report's conflicts and deviations, of the trimmed and rescaled vectors.
            for (std::size_t i = 0; i < rows.size(); ++i) {
              const auto t = oracle::minus(experts[i], base);
              const auto row = static_cast<index_t>(i);
              const real lost = oracle::feature_shift(oracle::kind::linear, features[i], base,
                                                      oracle::minus(t, expected.trimmed[i]));
              const real whole = oracle::feature_shift(oracle::kind::linear, features[i], base, t);
              CHECK(std::abs(std::sqrt(report.trim->deviation[i]) -
                             std::sqrt(static_cast<double>(lost))) <=
                    allowed / size * 10 *
                        std::sqrt(static_cast<double>(whole) + static_cast<double>(lost)));
              for (std::size_t k = 0; k < rows.size(); ++k) {
                const real before =
                    oracle::feature_shift(oracle::kind::linear, features[k], base, t);
                const real after = oracle::feature_shift(oracle::kind::linear, features[k], base,
                                                         expected.trimmed[i]);
                CHECK(std::abs(report.trim->conflict_before(static_cast<index_t>(k), row) -
                               static_cast<double>(before)) <=
                      tolerance::gram<S>(11) * static_cast<double>(before));
                CHECK(
                    std::abs(std::sqrt(report.trim->conflict_after(static_cast<index_t>(k), row)) -
                             std::sqrt(static_cast<double>(after))) <=
                    allowed / size * 10 *
                        std::sqrt(static_cast<double>(before) + static_cast<double>(after)));
              }
            }
          };
          for (const auto way : {catmerge::basis_solver::dense, catmerge::basis_solver::shifts,
                                 catmerge::basis_solver::weights}) {
            auto o = options_of(f, 2, lambda);
            o.linear.solver = way;
            check(catmerge::cat_linear(l.base, l.experts, l.features, o));
            if (way != catmerge::basis_solver::shifts)
              check(catmerge::cat_linear(l.base, l.experts, grams, o));
          }
        }
    }
  CHECK(compared > 60);
}

TEST_CASE_TEMPLATE("cat_scale and cat_shift: the oracle's merge", S, double, float) {
  for (const std::uint64_t seed : seeds)
    for (const auto& rows : {std::vector<index_t>{4, 5}, {3, 1, 4}, {2, 2, 9, 5}}) {
      const auto l = random_vector<S>(seed, 15, rows);
      const auto base = oracle::exact(l.base);
      const auto vectors = oracle::exact_all(l.vectors), features = oracle::exact_all(l.features);
      const double size = 40 * tolerance::eps<S> * (norm(base) + 1);
      for (const choice& f : forks)
        for (const double lambda : {0.5, 10.0}) {
          const auto o = options_of(f, 3, lambda);
          std::vector<std::vector<oracle::size>> scales, shifts;
          for (index_t k = 0; k < static_cast<index_t>(rows.size()); ++k) {
            scales.push_back(oracle::take(oracle::scale_scores(k, vectors, features, real(lambda)),
                                          3, f.positive_only));
            shifts.push_back(oracle::take(oracle::shift_scores(k, vectors), 3, true));
          }
          const auto scale = catmerge::cat_scale(l.base, l.experts, l.features, o);
          CHECK(distance(scale.merged,
                         oracle::combine(base, real(0.4),
                                         oracle::trim_masked(vectors, scales, f.rescale))) <= size);
          const auto shift = catmerge::cat_shift(l.base, l.experts, o);
          CHECK(distance(shift.merged,
                         oracle::combine(base, real(0.4),
                                         oracle::trim_masked(vectors, shifts, false))) <= size);
          for (std::size_t k = 0; k < rows.size(); ++k) {
            CHECK(std::equal(scales[k].begin(), scales[k].end(),
                             scale.report.trim->protections[k].coordinates.begin(),
                             scale.report.trim->protections[k].coordinates.end()));
            CHECK(std::equal(shifts[k].begin(), shifts[k].end(),
                             shift.report.trim->protections[k].coordinates.begin(),
                             shift.report.trim->protections[k].coordinates.end()));
          }
        }
    }
}

TEST_CASE_TEMPLATE("conflict never rises under the paper's options, and deviation starts at zero",
                   S, double, float) {
  generator g(77);
  const auto check = [](const catmerge::layer_report& r) {
    for (index_t k = 0; k < r.trim->conflict_before.rows(); ++k) {
      double before = 0, after = 0;
      for (index_t i = 0; i < r.trim->conflict_before.cols(); ++i)
        if (i != k) before += r.trim->conflict_before(k, i), after += r.trim->conflict_after(k, i);
      CHECK(after <= before * (1 + tolerance::rise<S>));
    }
    for (const double e : r.trim->energy_removed) {
      CHECK(e >= 0);
      CHECK(e <= 1);
    }
  };
  index_t fell = 0;
  for (int trial = 0; trial < 60; ++trial) {
    const auto seed = static_cast<std::uint64_t>(trial);
    const index_t tasks = g.integer(2, 4), d_out = g.integer(1, 20), d_in = g.integer(1, 20);
    std::vector<index_t> rows;
    for (index_t k = 0; k < tasks; ++k) rows.push_back(g.integer(1, 25));
    cat_options o;
    o.linear.lambda = o.scale.lambda = std::pow(10, 2 * g.uniform() - 1);
    o.linear.directions = largest{g.integer(0, 5)};
    // Trims act on the output side: on the rows of X_k T_i^T, which no projection or mask
    // lengthens.
    const auto v = random_vector<S>(seed, d_in, rows);
    const auto scale = catmerge::cat_scale(v.base, v.experts, v.features, o).report;
    check(scale);
    check(catmerge::cat_shift(v.base, v.experts, o).report);
    fell += scale.trim->conflict_after.sum() < scale.trim->conflict_before.sum();
    for (const auto order : {trim_order::sequential, trim_order::joint}) {
      o.linear.order = order;
      const auto l = random_linear<S>(seed, d_out, d_in, rows);
      check(catmerge::cat_linear(l.base, l.experts, l.features, o).report);
    }
    // Nothing removed, nothing lost.
    o.linear.directions = largest{0};
    const auto l = random_linear<S>(seed, d_out, d_in, rows);
    const auto kept = catmerge::cat_linear(l.base, l.experts, l.features, o).report;
    for (const double d : kept.trim->deviation) CHECK(d == 0);
  }
  CHECK(fell > 30);
}

TEST_CASE_TEMPLATE("two tasks: the order cannot matter", S, double, float) {
  for (const std::uint64_t seed : seeds) {
    const auto l = random_linear<S>(seed, 20, 12, {5, 6});
    cat_options joint;
    joint.linear.order = trim_order::joint;
    const auto a = catmerge::cat_linear(l.base, l.experts, l.features).merged;
    const auto b = catmerge::cat_linear(l.base, l.experts, l.features, joint).merged;
    CHECK(static_cast<double>((a - b).norm()) <=
          2 * tolerance::idempotent<S> * static_cast<double>(l.base.norm()));
  }
}

TEST_CASE_TEMPLATE(
    "joint trims leave nothing along any basis, sequential ones nothing along the last", S, double,
    float) {
  const auto l = random_linear<S>(5, 30, 16, {5, 6, 4});
  std::vector<matrix_of<S>> bases;
  for (index_t k = 0; k < 3; ++k)
    bases.push_back(catmerge::removal_basis(k, l.vectors, l.features).basis);
  // Task i's trimmed vector, seen through merges that differ in one expert: alpha 1, the others at
  // base.
  for (const auto order : {trim_order::sequential, trim_order::joint}) {
    cat_options o;
    o.alpha = 1;
    o.linear.order = order;
    const auto merged =
        catmerge::cat_linear(matrix_of<S>::Zero(30, 16).eval(), l.vectors, l.features, o).merged;
    // The sum of all trimmed vectors, each of which the oracle trims with the library's own bases.
    oracle::matrix sum = oracle::matrix::Zero(30, 16);
    double size = 0;
    for (index_t i = 0; i < 3; ++i) {
      oracle::matrix t = oracle::exact(l.vectors[at(i)]), all(30, 0);
      size += norm(t);
      for (index_t k = 0; k < 3; ++k) {
        if (k == i) continue;
        const auto b = oracle::exact(bases[at(k)]);
        if (order == trim_order::sequential)
          t = oracle::minus(t, oracle::times(b, oracle::times(oracle::flip(b), t)));
        all.conservativeResize(Eigen::NoChange, all.cols() + b.cols());
        all.rightCols(b.cols()) = b;
      }
      if (order == trim_order::joint) t = oracle::without_span(all, t);
      // Exactly nothing along the last basis that was applied; along the others only jointly.
      const index_t last = i == 2 ? 1 : 2;
      for (index_t k = 0; k < 3; ++k) {
        if (k == i) continue;
        const double left =
            norm(oracle::times(oracle::flip(oracle::exact(bases[at(k)])), t)) / norm(t);
        if (k == last || order == trim_order::joint)
          CHECK(left <= tolerance::removed<S>);
        else
          CHECK(left > 1e-3);
      }
      sum = oracle::plus(sum, 1, t);
    }
    CHECK(distance(merged, sum) <= 4 * tolerance::idempotent<S> * size);
  }
}

TEST_CASE_TEMPLATE("repeating one trim, or the joint one, changes nothing", S, double, float) {
  const auto l = random_linear<S>(6, 24, 15, {4, 5, 6});
  catmerge::context<catmerge::host> c;
  std::vector<matrix_of<S>> bases;
  for (index_t k = 0; k < 3; ++k)
    bases.push_back(catmerge::removal_basis(k, l.vectors, l.features).basis);
  std::vector<catmerge::host_const_view> views;
  for (const auto& b : bases) views.push_back(catmerge::const_view_of(b));
  const auto joint = catmerge::detail::joint_basis(c, views, 24);
  const Eigen::MatrixXd q = c.to_host(joint);
  CHECK(q.cols() == 12);
  CHECK((q.transpose() * q - Eigen::MatrixXd::Identity(12, 12)).cwiseAbs().maxCoeff() <=
        tolerance::orthonormal<double>);
  const auto size = static_cast<double>(l.vectors[0].norm());
  const auto repeat = [&](catmerge::host_const_view basis) {
    matrix_of<S> once = l.vectors[0];
    catmerge::detail::remove_directions(c, basis, basis, catmerge::view_of(once));
    matrix_of<S> twice = once;
    catmerge::detail::remove_directions(c, basis, basis, catmerge::view_of(twice));
    CHECK(static_cast<double>((once - twice).norm()) <= tolerance::idempotent<S> * size);
    CHECK(static_cast<double>((once - l.vectors[0]).norm()) > 0.01 * size);
  };
  for (const auto& b : views) repeat(b);
  repeat(joint);
  // The same basis twice spans what it spans once; more directions than there are fill the space.
  const auto doubled = catmerge::detail::joint_basis(
      c, std::vector<catmerge::host_const_view>{views[0], views[0]}, 24);
  CHECK(doubled.columns() == 4);
  const Eigen::MatrixXd identity = Eigen::MatrixXd::Identity(24, 24);
  const auto full = catmerge::detail::joint_basis(
      c, std::vector<catmerge::host_const_view>{catmerge::const_view_of(identity), views[0]}, 24);
  CHECK(full.columns() == 24);
}

TEST_CASE_TEMPLATE(
    "rescaling restores the norm, and a vector trimmed to zero stays zero and is reported", S,
    double, float) {
  const auto l = random_linear<S>(7, 12, 10, {5, 6, 4});
  for (const auto order : {trim_order::sequential, trim_order::joint})
    for (index_t i = 0; i < 3; ++i) {
      // One vector at a time: the others' experts are the base, so the merge is that vector alone,
      // and the bases of the others see it.
      auto experts = l.experts;
      for (index_t k = 0; k < 3; ++k)
        if (k != i) experts[at(k)] = l.base;
      cat_options o;
      o.alpha = 1;
      o.linear.order = order;
      o.linear.rescaling = rescale::frobenius;
      o.linear.directions = largest{3};
      o.linear.lambda = 0;
      const matrix_of<S> zero = matrix_of<S>::Zero(12, 10);
      std::vector<matrix_of<S>> alone;
      for (const auto& e : experts) alone.push_back(e - l.base);
      const auto [merged, report] = catmerge::cat_linear(zero, alone, l.features, o);
      CHECK(report.trim->energy_removed[at(i)] > 0.01);
      CHECK(static_cast<double>(merged.norm()) ==
            doctest::Approx(static_cast<double>(alone[at(i)].norm()))
                .epsilon(20 * tolerance::eps<S>));
      CHECK(report.trim->emptied.empty());
    }

  // All positive directions at lambda 0 with as many rows as outputs: nothing is left of any
  // vector.
  const auto full = random_linear<S>(8, 5, 9, {9, 9});
  for (const auto size : {rescale::none, rescale::frobenius}) {
    cat_options o;
    o.linear.directions = catmerge::all_positive{};
    o.linear.lambda = 0;
    o.linear.rescaling = size;
    const auto [merged, report] = catmerge::cat_linear(full.base, full.experts, full.features, o);
    CHECK(same_bits(merged, full.base));
    CHECK(report.trim->emptied == std::vector<index_t>{0, 1});
    CHECK(report.trim->energy_removed == std::vector<double>{1, 1});
    CHECK(report.trim->conflict_after.norm() == 0);
    for (std::size_t i = 0; i < 2; ++i) {
      const double whole =
          catmerge::feature_shift(catmerge::layer_kind::linear, full.features[i], full.vectors[i]);
      CHECK(report.trim->deviation[i] == doctest::Approx(whole).epsilon(tolerance::gram<S>(9)));
    }
  }
}

TEST_CASE_TEMPLATE("one task is Task Arithmetic, bit for bit", S, double, float, catmerge::half,
                   catmerge::bfloat16) {
  generator g(9);
  const matrix_of<S> base = g.matrix<S>(9, 7);
  const std::vector<matrix_of<S>> expert{g.matrix<S>(9, 7)}, x{g.matrix<S>(4, 7)};
  for (const auto& o : {cat_options::paper(), cat_options::port()}) {
    const auto [merged, report] = catmerge::cat_linear(base, expert, x, o);
    CHECK(same_bits(merged, catmerge::task_arithmetic(base, expert, o.alpha).merged));
    CHECK(report.trim->energy_removed[0] <=
          4 * tolerance::eps<double>);  // a norm was rooted and squared
  }
}

TEST_CASE_TEMPLATE("rank 0 is Task Arithmetic, bit for bit", S, double, float, catmerge::half) {
  generator g(10);
  for (const auto order : {trim_order::sequential, trim_order::joint}) {
    cat_options o = quick(0.3);
    o.linear.directions = largest{0};
    o.linear.order = order;
    o.scale.coordinates.count = 0;
    o.shift.count = 0;
    const matrix_of<S> base = g.matrix<S>(300, 7);
    const std::vector<matrix_of<S>> experts{g.matrix<S>(300, 7), g.matrix<S>(300, 7),
                                            g.matrix<S>(300, 7)},
        x(3, g.matrix<S>(4, 7));
    for (const auto way : {catmerge::basis_solver::dense, catmerge::basis_solver::shifts,
                           catmerge::basis_solver::automatic}) {
      o.linear.solver = way;
      CHECK(same_bits(catmerge::cat_linear(base, experts, x, o).merged,
                      catmerge::task_arithmetic(base, experts, 0.3).merged));
    }
    const vector_of<S> v = g.vector<S>(7);
    const std::vector<vector_of<S>> others{g.vector<S>(7), g.vector<S>(7), g.vector<S>(7)};
    const auto expected = catmerge::task_arithmetic(v, others, 0.3).merged;
    CHECK(same_bits(catmerge::cat_scale(v, others, x, o).merged, expected));
    CHECK(same_bits(catmerge::cat_shift(v, others, o).merged, expected));
  }
}

TEST_CASE_TEMPLATE("Task Arithmetic and weight averaging against plain sums", S, double, float,
                   catmerge::half) {
  generator g(11);
  layer<matrix_of<S>> l;
  l.base = g.matrix<S>(20, 30);
  for (int k = 0; k < 5; ++k) l.experts.push_back(g.matrix<S>(20, 30));
  using C = catmerge::compute_t<S>;
  const double size = norm(oracle::exact(l.base)) * 10 * tolerance::eps<C>;
  CHECK(distance(catmerge::task_arithmetic(l.base, l.experts, 0.7).merged,
                 arithmetic(l, real(0.7))) <= size);
  CHECK(distance(catmerge::task_arithmetic(l.base, l.experts).merged, arithmetic(l, real(0.3))) <=
        size);
  oracle::matrix mean = oracle::matrix::Zero(20, 30);
  for (const auto& e : l.experts) mean = oracle::plus(mean, real(1) / 5, oracle::exact(e));
  CHECK(distance(catmerge::weight_average(l.base, l.experts).merged, mean) <= size);
  // Experts that equal the base average to the base, exactly.
  const std::vector<matrix_of<S>> same(3, l.base);
  CHECK(same_bits(catmerge::weight_average(l.base, same).merged,
                  matrix_of<C>(l.base.template cast<C>())));
}

TEST_CASE("edge cases go through and mean what they should") {
  const auto l = random_linear<double>(12, 10, 8, {4, 5, 6});
  SUBCASE("a zero task vector changes nothing of its own and protects as the others do") {
    auto experts = l.experts;
    experts[1] = l.base;
    const auto [merged, report] = catmerge::cat_linear(l.base, experts, l.features);
    CHECK(merged.allFinite());
    CHECK(report.trim->norm[1] == 0);
    CHECK(report.trim->energy_removed[1] == 0);
    CHECK(report.trim->emptied.empty());  // it was not the trim that left it at zero
    CHECK(report.trim->deviation[1] == 0);
    CHECK(report.trim->conflict_before.col(1).norm() == 0);
  }
  SUBCASE("all task vectors zero") {
    const std::vector<Eigen::MatrixXd> experts(3, l.base);
    for (const auto way : {catmerge::basis_solver::dense, catmerge::basis_solver::shifts,
                           catmerge::basis_solver::weights}) {
      cat_options o;
      o.linear.solver = way;
      const auto [merged, report] = catmerge::cat_linear(l.base, experts, l.features, o);
      CHECK(same_bits(merged, l.base));
      for (const auto& p : report.trim->protections) CHECK(p.eigenvalues.empty());
    }
  }
  SUBCASE("zero features, and no rows at all: nothing to protect, Task Arithmetic") {
    const auto expected = catmerge::task_arithmetic(l.base, l.experts, 0.4).merged;
    for (const index_t n : {0, 3}) {
      const std::vector<Eigen::MatrixXd> x(3, Eigen::MatrixXd::Zero(n, 8));
      for (const auto way : {catmerge::basis_solver::dense, catmerge::basis_solver::shifts,
                             catmerge::basis_solver::weights})
        for (const auto rows : {row_weight::sum, row_weight::mean}) {
          cat_options o;
          o.linear.solver = way;
          o.linear.weighting = rows;
          CHECK(same_bits(catmerge::cat_linear(l.base, l.experts, x, o).merged, expected));
        }
    }
  }
  SUBCASE("one task without rows is not protected, the others are") {
    auto x = l.features;
    x[1] = Eigen::MatrixXd(0, 8);
    for (const auto way : {catmerge::basis_solver::dense, catmerge::basis_solver::shifts,
                           catmerge::basis_solver::weights})
      for (const auto rows : {row_weight::sum, row_weight::mean}) {
        cat_options o;
        o.linear.solver = way;
        o.linear.weighting = rows;
        const auto report = catmerge::cat_linear(l.base, l.experts, x, o).report;
        CHECK(report.trim->protections[1].eigenvalues.empty());
        CHECK_FALSE(report.trim->protections[0].eigenvalues.empty());
        CHECK(report.trim->conflict_before.row(1).norm() == 0);
      }
  }
  SUBCASE("one row each") {
    const auto one = random_linear<double>(13, 10, 8, {1, 1, 1});
    const auto report = catmerge::cat_linear(one.base, one.experts, one.features).report;
    for (const auto& p : report.trim->protections) {
      CHECK(p.positive >= 1);
      CHECK(p.eigenvalues.size() <= 2);  // (K - 1) n_k
    }
  }
  SUBCASE("a rank above d_out") {
    cat_options o;
    o.linear.directions = largest{50};
    CHECK(catmerge::cat_linear(l.base, l.experts, l.features, o).merged.allFinite());
    o.linear.directions = largest{50, false};
    for (const auto order : {trim_order::sequential, trim_order::joint}) {
      o.linear.order = order;
      const auto [merged, report] = catmerge::cat_linear(l.base, l.experts, l.features, o);
      CHECK(same_bits(merged, l.base));  // the whole space is removed from every vector
      CHECK(report.trim->emptied.size() == 3);
    }
    o.scale.coordinates.count = o.shift.count = 99;
    const auto v = random_vector<double>(14, 6, {3, 4});
    CHECK(same_bits(catmerge::cat_shift(v.base, v.experts, o).merged, v.base));
    CHECK(catmerge::cat_scale(v.base, v.experts, v.features, o).merged.allFinite());
  }
  SUBCASE("single outputs, single inputs, none at all") {
    for (const auto& [d_out, d_in] :
         {std::pair<index_t, index_t>{1, 1}, {1, 9}, {9, 1}, {0, 4}, {4, 0}}) {
      const auto s = random_linear<float>(15, d_out, d_in, {3, 2});
      for (const auto way : {catmerge::basis_solver::dense, catmerge::basis_solver::shifts,
                             catmerge::basis_solver::weights, catmerge::basis_solver::automatic}) {
        cat_options o;
        o.linear.solver = way;
        const auto merged = catmerge::cat_linear(s.base, s.experts, s.features, o).merged;
        CHECK(merged.rows() == d_out);
        CHECK(merged.cols() == d_in);
        CHECK(merged.allFinite());
      }
    }
  }
  SUBCASE("no experts") {
    const std::vector<Eigen::MatrixXd> none;
    CHECK_THROWS_AS(catmerge::cat_linear(l.base, none, none), catmerge::error);
    CHECK_THROWS_AS(catmerge::task_arithmetic(l.base, none), catmerge::error);
    CHECK_THROWS_AS(catmerge::weight_average(l.base, none), catmerge::error);
  }
  SUBCASE("no statistics: Task Arithmetic, and the report says so") {
    const auto [merged, report] =
        catmerge::cat_linear(l.base, l.experts, std::vector<Eigen::MatrixXd>{});
    CHECK_FALSE(report.trim.has_value());
    CHECK(same_bits(merged, catmerge::task_arithmetic(l.base, l.experts, 0.4).merged));
  }
}

TEST_CASE("what is not finite is an error that names the tensor") {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
        -std::numeric_limits<double>::infinity()})
    for (const bool diagnostics : {true, false}) {
      cat_options o;
      o.diagnostics = diagnostics;
      const auto l = random_linear<float>(16, 6, 5, {3, 4});
      const auto v = random_vector<float>(17, 6, {3, 4});
      const auto f = static_cast<float>(bad);
      const char* const expert = "the parameter: expert 'task 1' holds a value that is not finite";
      const char* const base = "the parameter: base holds a value that is not finite";
      const char* const features =
          "the parameter: features of 'task 0' hold a value that is not finite";

      auto experts = l.experts;
      experts[1](5, 4) = f;
      CHECK_THROWS_WITH_AS(catmerge::cat_linear(l.base, experts, l.features, o), expert,
                           catmerge::error);
      CHECK_THROWS_WITH_AS(catmerge::task_arithmetic(l.base, experts), expert, catmerge::error);
      CHECK_THROWS_WITH_AS(catmerge::weight_average(l.base, experts), expert, catmerge::error);
      auto w = l.base;
      w(0, 0) = f;
      CHECK_THROWS_WITH_AS(catmerge::cat_linear(w, l.experts, l.features, o), base,
                           catmerge::error);
      CHECK_THROWS_WITH_AS(catmerge::task_arithmetic(w, l.experts), base, catmerge::error);
      auto x = l.features;
      x[0](2, 1) = f;
      CHECK_THROWS_WITH_AS(catmerge::cat_linear(l.base, l.experts, x, o), features,
                           catmerge::error);

      auto others = v.experts;
      others[1](3) = f;
      CHECK_THROWS_WITH_AS(catmerge::cat_scale(v.base, others, v.features, o), expert,
                           catmerge::error);
      CHECK_THROWS_WITH_AS(catmerge::cat_shift(v.base, others, o), expert, catmerge::error);
      auto b = v.base;
      b(5) = f;
      CHECK_THROWS_WITH_AS(catmerge::cat_scale(b, v.experts, v.features, o), base, catmerge::error);
      CHECK_THROWS_WITH_AS(catmerge::cat_shift(b, v.experts, o), base, catmerge::error);
      auto y = v.features;
      y[0](2, 1) = f;
      CHECK_THROWS_WITH_AS(catmerge::cat_scale(v.base, v.experts, y, o), features, catmerge::error);
    }
  // Finite inputs whose difference is not.
  const Eigen::MatrixXf low = Eigen::MatrixXf::Constant(2, 2, -3e38F), high = -low,
                        x = Eigen::MatrixXf::Ones(1, 2);
  CHECK_THROWS_AS(catmerge::cat_linear(low, std::vector{high, high}, std::vector{x, x}),
                  catmerge::error);
}

TEST_CASE("large finite weights are merged, not taken for noise") {
  for (const double size : {1e-30, 1e30, 1e60}) {
    const auto l = random_linear<double>(18, 8, 6, {3, 4});
    auto big = l;
    big.base *= size;
    for (auto& e : big.experts) e *= size;
    const Eigen::MatrixXd expected =
        catmerge::cat_linear(l.base, l.experts, l.features).merged * size;
    const auto found = catmerge::cat_linear(big.base, big.experts, big.features);
    CHECK(found.report.trim->emptied.empty());
    CHECK((found.merged - expected).norm() <= 1e-6 * expected.norm());
  }
}

TEST_CASE("shapes that do not fit are errors that name the expert") {
  const auto l = random_linear<float>(19, 6, 5, {3, 4});
  auto experts = l.experts;
  experts[1] = Eigen::MatrixXf::Zero(5, 7);
  const char* const expert = "the parameter: expert 'task 1': expected 6 x 5, found 5 x 7";
  CHECK_THROWS_WITH_AS(catmerge::cat_linear(l.base, experts, l.features), expert, catmerge::error);
  CHECK_THROWS_WITH_AS(catmerge::task_arithmetic(l.base, experts), expert, catmerge::error);
  auto x = l.features;
  x[1] = Eigen::MatrixXf::Zero(4, 7);
  CHECK_THROWS_WITH_AS(
      catmerge::cat_linear(l.base, l.experts, x),
      "the parameter: features of 'task 1': expected rows of 5 entries, found 4 x 7",
      catmerge::error);
  x.pop_back();
  CHECK_THROWS_WITH_AS(
      catmerge::cat_linear(l.base, l.experts, x),
      "the parameter: features of 1 tasks for 2 experts: pass one for each, in the "
      "order of the experts, or none at all",
      catmerge::error);
  const auto v = random_vector<float>(20, 6, {3, 4});
  auto others = v.experts;
  others[0] = Eigen::VectorXf::Zero(7);
  CHECK_THROWS_AS(catmerge::cat_shift(v.base, others), catmerge::error);
  CHECK_THROWS_AS(catmerge::cat_scale(v.base, v.experts, l.features), catmerge::error);
  cat_options o;
  for (const double alpha :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    o.alpha = alpha;
    CHECK_THROWS_AS(catmerge::cat_shift(v.base, v.experts, o), catmerge::error);
  }
}

TEST_CASE("without diagnostics the merged bits are the same, and nothing is measured") {
  cat_options on, off;
  off.diagnostics = false;
  const auto l = random_linear<float>(21, 20, 15, {6, 3, 30});
  const auto a = catmerge::cat_linear(l.base, l.experts, l.features, on);
  const auto b = catmerge::cat_linear(l.base, l.experts, l.features, off);
  CHECK(same_bits(a.merged, b.merged));
  CHECK(a.report.trim->conflict_after.size() == 9);
  CHECK(b.report.trim->conflict_after.size() == 0);
  CHECK(b.report.trim->protections.size() == 3);
  const auto v = random_vector<float>(22, 20, {6, 3, 30});
  CHECK(same_bits(catmerge::cat_scale(v.base, v.experts, v.features, on).merged,
                  catmerge::cat_scale(v.base, v.experts, v.features, off).merged));
  CHECK(same_bits(catmerge::cat_shift(v.base, v.experts, on).merged,
                  catmerge::cat_shift(v.base, v.experts, off).merged));
}

TEST_CASE("the port's preset differs where cat_options::port says, and overlap is reported") {
  const auto port = cat_options::port();
  CHECK(port.linear.rescaling == rescale::frobenius);
  CHECK(port.scale.rescaling == rescale::frobenius);
  CHECK_FALSE(std::get<largest>(port.linear.directions).positive_only);
  CHECK_FALSE(port.scale.coordinates.positive_only);
  CHECK(port.linear.order == trim_order::sequential);
  CHECK(port.linear.weighting == row_weight::sum);
  const auto paper = cat_options::paper();
  CHECK(paper.alpha == 0.4);
  CHECK(std::get<largest>(paper.linear.directions).count == 4);
  CHECK(std::get<largest>(paper.linear.directions).positive_only);
  CHECK(paper.linear.lambda == 5);
  CHECK(paper.scale.lambda == 10);
  CHECK(paper.scale.coordinates.count == 4);
  CHECK(paper.shift.count == 4);
  CHECK(paper.linear.rescaling == rescale::none);
  CHECK(paper.fused == catmerge::fused_weights::split);

  const auto l = random_linear<double>(23, 20, 15, {6, 5, 7});
  const auto report = catmerge::cat_linear(l.base, l.experts, l.features).report;
  for (index_t k = 0; k < 3; ++k)
    for (index_t i = 0; i < 3; ++i) {
      const Eigen::MatrixXd bk = catmerge::removal_basis(k, l.vectors, l.features).basis,
                            bi = catmerge::removal_basis(i, l.vectors, l.features).basis;
      const double expected =
          (bk.transpose() * bi).squaredNorm() / static_cast<double>(std::min(bk.cols(), bi.cols()));
      CHECK(report.trim->overlap(k, i) == doctest::Approx(expected).epsilon(1e-6));
      if (k == i)
        CHECK(report.trim->overlap(k, i) ==
              doctest::Approx(1).epsilon(tolerance::orthonormal<double> * 16));
    }
}

TEST_CASE("a task vector whose squared norm overflows is an error, not noise") {
  auto l = random_linear<double>(40, 4, 3, {2, 2});
  l.experts[1](2, 1) = 1e160;  // finite; its square is not
  CHECK_THROWS_WITH_AS(
      catmerge::cat_linear(l.base, l.experts, l.features),
      "the parameter: expert 'task 1': the norm of its task vector overflows float64: divide base "
      "and experts by one power of two, and multiply what is merged by it",
      catmerge::error);
  l.base(2, 1) = l.experts[0](2, 1) = -1.5e308;
  l.experts[1](2, 1) = 1.5e308;  // both finite; their difference is not
  CHECK_THROWS_WITH_AS(catmerge::cat_linear(l.base, l.experts, l.features),
                       "the parameter: the task vector of 'task 1' overflows float64",
                       catmerge::error);
  CHECK_THROWS_WITH_AS(catmerge::with_task_vector(l.base, Eigen::MatrixXd(4, 2)),
                       "with_task_vector: vector: expected 4 x 3, found 4 x 2", catmerge::error);
  l.base(2, 1) = l.experts[0](2, 1) = 0;
  l.experts[1](2, 1) = 1e150;  // the square fits
  CHECK_NOTHROW(catmerge::cat_linear(l.base, l.experts,
                                     std::vector<Eigen::MatrixXd>(2, Eigen::MatrixXd(0, 3))));
}

TEST_CASE("of several task vectors that overflow the first is named, at any number of threads") {
  auto l = random_linear<double>(41, 4, 3, {2, 2, 2, 2, 2, 2});
  l.base(2, 1) = -1.5e308;
  for (const index_t i : {2, 3, 5}) l.experts[at(i)](2, 1) = 1.5e308;
  for (const int threads : {1, 2, 3, 8}) {
    catmerge::context<catmerge::host> c(scrambled(threads));
    for (int run = 0; run < 20; ++run)
      CHECK_THROWS_WITH_AS(catmerge::cat_linear(l.base, l.experts, l.features, {}, c),
                           "the parameter: the task vector of 'task 2' overflows float64",
                           catmerge::error);
  }
}

TEST_CASE("cat_group: every weight is merged as alone, and what does not match is an error") {
  const auto a = random_linear<float>(50, 8, 6, {4, 5}), b = random_linear<float>(51, 5, 6, {4, 5});
  using weights = std::vector<Eigen::MatrixXf>;
  const weights bases{a.base, b.base};
  const std::vector<weights> experts{{a.experts[0], b.experts[0]}, {a.experts[1], b.experts[1]}};
  const auto merged = catmerge::cat_group(bases, experts, a.features);
  REQUIRE(merged.size() == 2);
  CHECK(same_bits(merged[0].merged, catmerge::cat_linear(a.base, a.experts, a.features).merged));
  CHECK(same_bits(merged[1].merged, catmerge::cat_linear(b.base, b.experts, a.features).merged));
  const auto refused = [&](const std::vector<weights>& e, const char* message) {
    CHECK_THROWS_WITH_AS(catmerge::cat_group(bases, e, a.features), message, catmerge::error);
  };
  refused({experts[0], {a.experts[1]}}, "cat_group: expert 1 holds 1 weights and the base 2");
  refused({{a.experts[0], b.experts[0], b.base}, experts[1]},
          "cat_group: expert 0 holds 3 weights and the base 2");
  refused({}, "the parameter: there are no experts to merge");
  CHECK(catmerge::cat_group(weights{}, std::vector<weights>{{}, {}}, a.features).empty());
}

TEST_CASE("where Eq. 8's terms cancel, rounding is not taken for directions") {
  // The same features for all tasks and lambda 1: G_k = sum T_i (S - S) T_i^T is zero.
  auto l = random_linear<double>(52, 12, 9, {6, 6, 6});
  for (auto& x : l.features) x = l.features[0];
  for (const auto way : {catmerge::basis_solver::dense, catmerge::basis_solver::shifts,
                         catmerge::basis_solver::weights})
    for (index_t k = 0; k < 3; ++k) {
      catmerge::projection_options o;
      o.lambda = 1;
      o.solver = way;
      const auto found = catmerge::removal_basis(k, l.vectors, l.features, o);
      CHECK(found.eigenvalues.empty());
      CHECK(found.basis.cols() == 0);
    }
}

TEST_CASE("a method with options that make no sense merges nothing") {
  const auto v = random_vector<float>(53, 6, {3, 3});
  catmerge::cat_method method;
  method.options.shift.count = -1;
  catmerge::context<catmerge::host> c;
  catmerge::layer_problem<catmerge::context<catmerge::host>> p;
  p.kind = catmerge::layer_kind::shift;
  p.base = catmerge::const_view_of(v.base);
  for (const auto& e : v.experts) p.experts.push_back(catmerge::const_view_of(e));
  Eigen::VectorXf out(6);
  CHECK_THROWS_WITH_AS(method.merge(c, p, catmerge::view_of(out)),
                       "the number of masked coordinates cannot be negative", catmerge::error);
}
