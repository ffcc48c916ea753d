// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <Spectra/MatOp/DenseSymMatProd.h>
#include <Spectra/SymEigsSolver.h>
#include <catmerge/catmerge.hpp>

#include "support/data.hpp"
#include "support/gram.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace test;
using catmerge::basis_solver;
using catmerge::largest;
using catmerge::projection_options;
using catmerge::row_weight;
using catmerge::statistics_form;
using oracle::real;

namespace {

constexpr basis_solver every_way[] = {basis_solver::dense, basis_solver::shifts,
                                      basis_solver::weights};

/// A problem and its exact copy.
template <class S>
struct problem {
  layer<matrix_of<S>> data;
  std::vector<oracle::matrix> vectors, features;

  problem(std::uint64_t seed, index_t d_out, index_t d_in, const std::vector<index_t>& rows)
      : data(random_linear<S>(seed, d_out, d_in, rows)),
        vectors(oracle::exact_all(data.vectors)),
        features(oracle::exact_all(data.features)) {}

  index_t tasks() const { return static_cast<index_t>(vectors.size()); }

  real objective(index_t k, real lambda, const oracle::matrix& basis, bool mean = false) const {
    return oracle::eq8_of_basis(k, vectors, features, lambda, basis, mean);
  }
};

projection_options with(catmerge::direction_rule rule, double lambda,
                        basis_solver way = basis_solver::automatic) {
  projection_options o;
  o.directions = rule;
  o.lambda = lambda;
  o.solver = way;
  return o;
}

double orthonormal_defect(const Eigen::MatrixXd& b) {
  if (b.cols() == 0) return 0;
  return (b.transpose() * b - Eigen::MatrixXd::Identity(b.cols(), b.cols())).cwiseAbs().maxCoeff();
}

real norm_of(const oracle::spectrum& s) {
  return std::max(std::abs(s.values.front()), std::abs(s.values.back()));
}

}  // namespace

TEST_CASE(
    "the oracle's G_k: both layouts' formulas agree, and Eq. 8 is a constant minus tr(B^T G B)") {
  const problem<double> p(1, 7, 5, {4, 6, 3});
  std::vector<oracle::matrix> paper;
  for (const auto& t : p.vectors) paper.push_back(oracle::flip(t));
  generator g(2);
  for (index_t k = 0; k < 3; ++k) {
    const auto stored = oracle::gram(k, p.vectors, p.features, 3);
    const real size = std::sqrt(oracle::energy(stored));
    CHECK(std::sqrt(oracle::energy(oracle::minus(
              stored, oracle::gram_paper_layout(k, paper, p.features, 3)))) <= 1e-16L * size);
    const oracle::matrix none(7, 0);
    for (const bool mean : {false, true}) {
      const auto gram = oracle::gram(k, p.vectors, p.features, 3, mean);
      const auto b = oracle::exact(g.orthonormal(7, 2));
      const real trace = oracle::times(oracle::flip(b), oracle::times(gram, b)).trace();
      const real lost = p.objective(k, 3, none, mean) - p.objective(k, 3, b, mean);
      CHECK(std::abs(lost - trace) <=
            tolerance::reordered * static_cast<double>(std::abs(trace) + 1));
    }
  }
}

TEST_CASE_TEMPLATE("removal basis: orthonormal, and Eq. 8 as low as the oracle's, in every way", S,
                   double, float) {
  struct size {
    index_t d_out, d_in;
    std::vector<index_t> rows;
  };
  for (const auto& s : {size{12, 9, {3, 3, 3}}, size{9, 12, {5, 1, 8}}, size{30, 20, {4, 30}},
                        size{25, 30, {40, 50, 45}}, size{40, 11, {6, 6, 6, 6}}}) {
    const problem<S> p(3, s.d_out, s.d_in, s.rows);
    for (const double lambda : {0.0, 1.0, 5.0})
      for (const auto rows : {row_weight::sum, row_weight::mean})
        for (index_t k = 0; k < p.tasks(); ++k) {
          const bool mean = rows == row_weight::mean;
          const auto spectrum =
              oracle::decompose(oracle::gram(k, p.vectors, p.features, real(lambda), mean));
          const auto best = oracle::leading(spectrum, 3);
          const real least = p.objective(k, real(lambda), best, mean);
          const real size_of_g = norm_of(spectrum);
          for (const auto way : every_way) {
            auto options = with(largest{3}, lambda, way);
            options.weighting = rows;
            const auto found = catmerge::removal_basis(k, p.data.vectors, p.data.features, options);
            CAPTURE(k);
            CAPTURE(lambda);
            CHECK(found.solver == way);
            REQUIRE(found.basis.rows() == s.d_out);
            CAPTURE(s.d_out);
            CAPTURE(s.d_in);
            CAPTURE(static_cast<int>(way));
            REQUIRE(found.basis.cols() == best.cols());
            CHECK(static_cast<index_t>(found.eigenvalues.size()) == best.cols());
            CHECK(orthonormal_defect(found.basis.template cast<double>()) <=
                  tolerance::orthonormal<S>);
            const real value = p.objective(k, real(lambda), oracle::exact(found.basis), mean);
            // Relative to ||G||: what Eq. 8 is a sum of. Each of 3 directions may be off.
            const double off = static_cast<double>((value - least) / size_of_g);
            const double allowed = std::is_same_v<S, double>
                                       ? tolerance::objective * 10
                                       : 3 * tolerance::gram<S>(static_cast<double>(s.d_in));
            CHECK(std::abs(off) <= allowed);
            for (index_t j = 0; j < best.cols(); ++j)
              CHECK(std::abs(found.eigenvalues[at(j)] -
                             static_cast<double>(spectrum.values[at(j)])) <=
                    static_cast<double>(size_of_g) *
                        (tolerance::eigenvalue + tolerance::gram<S>(static_cast<double>(s.d_in))));
          }
        }
  }
}

namespace {

/// Statistics of features, in a form, with what they look at.
template <class S>
struct described {
  std::vector<matrix_of<S>> data;
  std::vector<catmerge::statistics_view<>> views;

  described(const std::vector<matrix_of<S>>& features, catmerge::statistics_form form) {
    for (const auto& x : features) {
      data.push_back(x);
      if (form == catmerge::statistics_form::gram) data.back() = (x.transpose() * x).eval();
    }
    for (std::size_t k = 0; k < features.size(); ++k)
      views.push_back(
          {form, catmerge::const_view_of(data[k]), static_cast<double>(features[k].rows())});
  }
};

}  // namespace

TEST_CASE_TEMPLATE("G_k: products of several tasks together, both ways, in float and in double", S,
                   double, float) {
  using context = catmerge::context<catmerge::host>;
  using gram = catmerge::detail::conflict_gram<context>;
  using test::gram_way;
  context c;
  generator g(8);
  for (const auto& rows : {std::vector<index_t>{5, 9, 3, 6}, {4, 30}, {7}}) {
    const problem<S> p(4, 37, 21, rows);
    std::vector<catmerge::host_const_view> vectors;
    for (const auto& t : p.data.vectors) vectors.push_back(catmerge::const_view_of(t));
    for (const auto form : {catmerge::statistics_form::rows, catmerge::statistics_form::gram})
      for (const auto way : {gram_way::shifts, gram_way::weights})
        for (const bool mean : {false, true}) {
          if (form == catmerge::statistics_form::gram && way == gram_way::shifts) continue;
          const described<S> statistics(p.data.features, form);
          std::vector<index_t> tasks;
          for (index_t k = p.tasks() - 1; k >= 0; k -= 2) tasks.push_back(k);
          const auto several = test::make_gram<context>(
              way, c,
              {vectors, statistics.views, 2.5, mean ? row_weight::mean : row_weight::sum, tasks});
          for (const auto arithmetic : {catmerge::scalar_type::f32, catmerge::scalar_type::f64}) {
            std::vector<row_major_of<double>> x, y;
            std::vector<typename gram::task_product> list;
            for (const index_t k : tasks) {
              x.push_back(g.matrix(2 + k, 37)), y.push_back(g.matrix(2 + k, 37));
            }
            for (std::size_t j = 0; j < tasks.size(); ++j)
              list.push_back({tasks[j], catmerge::const_view_of(x[j]), catmerge::view_of(y[j])});
            several->apply(list, arithmetic);
            for (std::size_t j = 0; j < tasks.size(); ++j) {
              const auto exact = oracle::gram(tasks[j], p.vectors, p.features, real(2.5), mean);
              const auto expected = oracle::times(oracle::exact(x[j]), exact);
              const auto found = oracle::exact(y[j]);
              // Sums of d_out, d_in and n products, one within the other, relative to the sizes of
              // what they are made of: for each pair of tasks ||T||^2 ||X||^2 ||x||.
              real size = 0;
              for (index_t i = 0; i < p.tasks(); ++i)
                if (i != tasks[j])
                  size += oracle::energy(p.vectors[at(i)]) *
                          (oracle::energy(p.features[at(tasks[j])]) +
                           real(2.5) * oracle::energy(p.features[at(i)]));
              const real eps = std::is_same_v<S, double> && arithmetic == catmerge::scalar_type::f64
                                   ? real(tolerance::eps<double>)
                                   : real(tolerance::eps<float>);
              const real off = std::sqrt(oracle::energy(oracle::minus(found, expected)));
              CHECK(off <= 2 * (37 + 21 + 30) * eps * size *
                               std::sqrt(oracle::energy(oracle::exact(x[j]))));
              if (arithmetic == catmerge::scalar_type::f64 && std::is_same_v<S, double>)
                CHECK(off <= 1e-13L * std::max(size, real(1)));
            }
          }
        }
  }
}

TEST_CASE("removal basis: the units of weights and features change nothing in float") {
  auto p = random_linear<float>(5, 120, 90, {70, 80, 75});
  auto options = with(largest{3}, 5, basis_solver::weights);
  const auto expected = catmerge::removal_basis(1, p.vectors, p.features, options);
  for (auto& t : p.vectors) t *= 0x1p-90F;
  for (auto& x : p.features) x *= 0x1p+45F;
  const auto found = catmerge::removal_basis(1, p.vectors, p.features, options);
  REQUIRE(expected.basis.cols() == 3);
  CHECK(same_bits(found.basis, expected.basis));
  for (auto& t : p.vectors) t *= 0x1p+70F, t *= 0x1p+70F;
  CHECK(
      same_bits(catmerge::removal_basis(1, p.vectors, p.features, options).basis, expected.basis));
}

TEST_CASE("removal basis: float asks double where it cannot tell a sign") {
  // G_0 = T_1 (S_0 - S_1) T_1^T with eigenvalues -1 and 1e-6 or none, which float's rounding of the
  // one may be taken for (60 times 1.2e-7).
  const index_t d = 60;
  const Eigen::MatrixXf q = generator(3).orthonormal(d, d).cast<float>();
  const std::vector<Eigen::MatrixXf> vectors{Eigen::MatrixXf::Zero(d, d), q};
  for (const float size : {1e-3F, 0.0F, 1.0F})
    for (const auto way : {basis_solver::shifts, basis_solver::weights}) {
      std::vector<Eigen::MatrixXf> features(2, Eigen::MatrixXf::Zero(1, d));
      features[0](0, 1) = size;
      features[1](0, 0) = 1;
      const auto found = catmerge::removal_basis(0, vectors, features, with(largest{1}, 1, way));
      CHECK(found.solver == way);
      REQUIRE(found.basis.cols() == (size > 0 ? 1 : 0));
      if (size > 0) CHECK(std::abs(found.basis.col(0).dot(q.col(1))) >= 1 - 1e-3F);
    }
}

TEST_CASE("removal basis: the tolerance decides what products are made in") {
  const auto p = random_linear<float>(6, 200, 150, {60, 60, 60, 60});
  for (const auto way : {basis_solver::shifts, basis_solver::weights}) {
    auto options = with(largest{4}, 2, way);
    const auto usual = catmerge::removal_basis(2, p.vectors, p.features, options);
    CHECK(usual.solver == way);
    CHECK(usual.residual <= catmerge::default_tolerance(catmerge::scalar_type::f32));
    options.eigen.tolerance = 1e-11;  // far below what float reaches
    const auto tight = catmerge::removal_basis(2, p.vectors, p.features, options);
    CHECK(tight.solver == way);
    CHECK(tight.residual <= 1e-11);
    const double gap = (tight.spectrum[3] - tight.spectrum[4]) / tight.magnitude;
    REQUIRE(gap > 1e-3);
    const Eigen::MatrixXd b = usual.basis.cast<double>(), e = tight.basis.cast<double>();
    // Davis & Kahan, for the residual asked for and what float adds to it; B itself is in float.
    CHECK((b * b.transpose() - e * e.transpose()).norm() <=
          4 * (1e-6 + 16 * tolerance::eps<float>) / gap);
  }
}

TEST_CASE("removal basis: nothing among thousands of bases does better on Eq. 8") {
  const problem<double> p(4, 10, 8, {5, 7, 6});
  generator g(5);
  for (const double lambda : {0.5, 5.0})
    for (index_t k = 0; k < 3; ++k) {
      const auto found =
          catmerge::removal_basis(k, p.data.vectors, p.data.features, with(largest{2}, lambda));
      const index_t c = found.basis.cols();
      REQUIRE(c >= 1);
      // By brute force on features for ours; G's trace for the many, which the first test has tied
      // to Eq. 8.
      const Eigen::MatrixXd gram =
          oracle::gram(k, p.vectors, p.features, real(lambda)).cast<double>();
      const auto removed = [&](const Eigen::MatrixXd& b) {
        return (b.transpose() * gram * b).trace();
      };
      const double ours = removed(found.basis);
      const double slack = tolerance::objective * gram.norm();
      index_t better = 0;
      double nearest = 0;
      for (int trial = 0; trial < 2000; ++trial) {
        better += removed(g.orthonormal(10, g.integer(1, c))) > ours + slack;
        // Small perturbations of B_k, orthonormalised again.
        const double step = std::pow(10, -1 - 5 * g.uniform());
        const Eigen::MatrixXd moved = found.basis + step * g.matrix(10, c);
        const Eigen::MatrixXd q = Eigen::HouseholderQR<Eigen::MatrixXd>(moved).householderQ() *
                                  Eigen::MatrixXd::Identity(10, c);
        better += removed(q) > ours + slack;
        nearest = std::max(nearest, removed(q) / ours);
      }
      CHECK(better == 0);
      CHECK(nearest >
            0.999);  // the perturbations came close: a false optimum would have been found
      const real by_force = p.objective(k, real(lambda), oracle::exact(found.basis));
      const real untrimmed = p.objective(k, real(lambda), oracle::matrix(10, 0));
      CHECK(by_force < untrimmed);
    }
}

TEST_CASE("removal basis: the smallest eigenvalues would be the wrong ones") {
  const problem<double> p(6, 12, 10, {5, 6});
  for (const auto way : every_way)
    for (index_t k = 0; k < 2; ++k) {
      const auto gram = oracle::gram(k, p.vectors, p.features, 5);
      const auto spectrum = oracle::decompose(gram);
      const auto found = catmerge::removal_basis(k, p.data.vectors, p.data.features,
                                                 with(largest{2, false}, 5, way));
      REQUIRE(found.basis.cols() == 2);
      const real untrimmed = p.objective(k, 5, oracle::matrix(12, 0));
      const real with_smallest = p.objective(k, 5, oracle::matrix(spectrum.vectors.rightCols(2)));
      const real ours = p.objective(k, 5, oracle::exact(found.basis));
      CHECK(with_smallest > untrimmed);
      CHECK(ours < untrimmed);
      CHECK(found.eigenvalues[0] > 0);
      CHECK(std::abs(found.eigenvalues[0] - static_cast<double>(spectrum.values[0])) <=
            tolerance::eigenvalue * static_cast<double>(norm_of(spectrum)));
    }
}

TEST_CASE_TEMPLATE("removal basis: rows, a factor and a Gram matrix give the same projector", S,
                   double, float) {
  const index_t d_out = 20, d_in = 9, n = 30;
  const problem<S> p(7, d_out, d_in, {n, n, n});
  std::vector<Eigen::MatrixXd> grams, factors;
  std::vector<catmerge::statistics_view<catmerge::host>> by_gram, by_factor;
  for (const auto& x : p.data.features) {
    const Eigen::MatrixXd wide = x.template cast<double>();
    grams.push_back(wide.transpose() * wide);
    const Eigen::HouseholderQR<Eigen::MatrixXd> qr(wide);
    factors.push_back(
        Eigen::MatrixXd(qr.matrixQR().topRows(d_in)).template triangularView<Eigen::Upper>());
  }
  for (std::size_t i = 0; i < 3; ++i) {
    by_gram.push_back({statistics_form::gram, catmerge::const_view_of(grams[i]), double(n)});
    by_factor.push_back({statistics_form::factor, catmerge::const_view_of(factors[i]), double(n)});
  }
  for (const auto rows : {row_weight::sum, row_weight::mean})
    for (index_t k = 0; k < 3; ++k) {
      const auto spectrum =
          oracle::decompose(oracle::gram(k, p.vectors, p.features, 1, rows == row_weight::mean));
      const auto best = oracle::leading(spectrum, 2);
      const double gap = oracle::gap(spectrum, 2);
      REQUIRE(gap > 1e-3);
      const Eigen::MatrixXd expected = oracle::onto(best);
      const double allowed = tolerance::subspace(gap) + tolerance::gram<S>(9) / gap;
      for (const auto way : every_way) {
        auto options = with(largest{2}, 1, way);
        options.weighting = rows;
        const auto look = [&](const auto& found) {
          const Eigen::MatrixXd b = found.basis.template cast<double>();
          CHECK((b * b.transpose() - expected).norm() <= allowed);
          CHECK(found.solver == way);
        };
        look(catmerge::removal_basis(k, p.data.vectors, p.data.features, options));
        look(catmerge::removal_basis(k, p.data.vectors, by_factor, options));
        if (way == basis_solver::shifts)
          CHECK_THROWS_AS(catmerge::removal_basis(k, p.data.vectors, by_gram, options),
                          catmerge::error);
        else
          look(catmerge::removal_basis(k, p.data.vectors, by_gram, options));
      }
    }
}

#ifndef EIGEN_DEFAULT_TO_ROW_MAJOR  // which Spectra itself does not reckon with
TEST_CASE("removal basis: Spectra finds the same subspace of G_k") {
  const problem<double> p(8, 60, 30, {12, 15, 10});
  for (index_t k = 0; k < 3; ++k) {
    const Eigen::MatrixXd gram = oracle::gram(k, p.vectors, p.features, 5).cast<double>();
    Spectra::DenseSymMatProd<double> product(gram);
    Spectra::SymEigsSolver<Spectra::DenseSymMatProd<double>> spectra(product, 4, 30);
    spectra.init();
    spectra.compute(Spectra::SortRule::LargestAlge, 1000, 1e-12);
    REQUIRE(spectra.info() == Spectra::CompInfo::Successful);
    const double gap = oracle::gap(oracle::decompose(oracle::exact(gram)), 4);
    REQUIRE(gap > 1e-4);
    const Eigen::MatrixXd theirs = spectra.eigenvectors();
    for (const auto way : every_way) {
      const auto b =
          catmerge::removal_basis(k, p.data.vectors, p.data.features, with(largest{4}, 5, way))
              .basis;
      CHECK((b * b.transpose() - theirs * theirs.transpose()).norm() <= tolerance::subspace(gap));
    }
  }
}
#endif

TEST_CASE_TEMPLATE("removal basis: what is not positive is never taken", S, double, float) {
  // Rank-deficient: G_k of 40 x 40 has rank at most 2 * 2 + 2 * 2 with many zeros of either sign.
  const problem<S> p(9, 40, 6, {2, 2, 2});
  for (const auto way : every_way)
    for (const double lambda : {0.0, 1.0, 5.0})
      for (index_t k = 0; k < 3; ++k) {
        const auto spectrum =
            oracle::decompose(oracle::gram(k, p.vectors, p.features, real(lambda)));
        index_t positive = 0;
        while (spectrum.values[at(positive)] > 1e-6L * norm_of(spectrum)) ++positive;
        REQUIRE(positive >= 1);
        REQUIRE(positive <= 4);
        const auto many = catmerge::removal_basis(k, p.data.vectors, p.data.features,
                                                  with(largest{30}, lambda, way));
        CHECK(many.basis.cols() == positive);
        CHECK(many.positive == positive);
        for (const double value : many.eigenvalues) CHECK(value > 0);
        const auto all = catmerge::removal_basis(k, p.data.vectors, p.data.features,
                                                 with(catmerge::all_positive{}, lambda, way));
        CHECK(all.basis.cols() == positive);
        // The port's preset takes the number asked for, whatever the sign.
        const auto port = catmerge::removal_basis(k, p.data.vectors, p.data.features,
                                                  with(largest{30, false}, lambda, way));
        CHECK(port.basis.cols() == 30);
        CHECK(port.positive == positive);
        CHECK(orthonormal_defect(port.basis.template cast<double>()) <= tolerance::orthonormal<S>);
        if (lambda > 0) CHECK(port.eigenvalues.back() <= 1e-6 * port.magnitude);
      }
}

TEST_CASE("removal basis: all_positive takes at most min(d_out, (K - 1) n_k)") {
  generator g(10);
  for (int trial = 0; trial < 40; ++trial) {
    const index_t tasks = g.integer(2, 4), d_out = g.integer(1, 14), d_in = g.integer(1, 14);
    std::vector<index_t> rows;
    for (index_t k = 0; k < tasks; ++k) rows.push_back(g.integer(0, 4));
    const problem<double> p(100 + static_cast<std::uint64_t>(trial), d_out, d_in, rows);
    for (const double lambda : {0.0, 1.0})
      for (index_t k = 0; k < tasks; ++k) {
        const auto found = catmerge::removal_basis(k, p.data.vectors, p.data.features,
                                                   with(catmerge::all_positive{}, lambda));
        CHECK(found.basis.cols() <= std::min(d_out, (tasks - 1) * rows[at(k)]));
        if (lambda == 0)  // then G_k is a sum of squares of full rank, almost surely
          CHECK(found.basis.cols() == std::min(d_out, (tasks - 1) * std::min(rows[at(k)], d_in)));
      }
  }
}

TEST_CASE("removal basis: a huge lambda removes nothing where every direction costs something") {
  const problem<double> p(11, 8, 10, {4, 20, 20});  // G_k's second part has full rank
  for (const auto way : every_way)
    for (index_t k = 0; k < 3; ++k) {
      const auto found =
          catmerge::removal_basis(k, p.data.vectors, p.data.features, with(largest{4}, 1e6, way));
      CHECK(found.basis.cols() == 0);
      CHECK(found.basis.rows() == 8);
      CHECK(found.positive == 0);
      const auto free =
          catmerge::removal_basis(k, p.data.vectors, p.data.features, with(largest{4}, 0, way));
      CHECK(free.basis.cols() == 4);
    }
}

TEST_CASE("removal basis: a large lambda with few rows still finds what costs nothing") {
  // Directions that task i's own rows do not see are free: positive whatever lambda is.
  const problem<double> p(12, 30, 20, {3, 4});
  for (const double lambda : {1e2, 1e4}) {
    const auto spectrum = oracle::decompose(oracle::gram(0, p.vectors, p.features, real(lambda)));
    const auto best = oracle::leading(spectrum, 3);
    REQUIRE(best.cols() == 3);
    const real least = p.objective(0, real(lambda), best),
               untrimmed = p.objective(0, real(lambda), oracle::matrix(30, 0));
    for (const auto way : every_way) {
      const auto found = catmerge::removal_basis(0, p.data.vectors, p.data.features,
                                                 with(largest{3}, lambda, way));
      REQUIRE(found.basis.cols() == 3);
      const real value = p.objective(0, real(lambda), oracle::exact(found.basis));
      CAPTURE(lambda);
      // Of what can be gained at all, not of ||G||, which lambda blows up.
      CHECK(static_cast<double>((value - least) / (untrimmed - least)) <= 1e-6);
    }
  }
}

TEST_CASE("removal basis: shares of energy") {
  const problem<double> p(13, 20, 15, {6, 6});
  const auto spectrum = oracle::decompose(oracle::gram(0, p.vectors, p.features, 1));
  std::vector<real> squares;
  real total = 0;
  for (const real v : spectrum.values)
    if (v > 1e-9L * norm_of(spectrum)) squares.push_back(v * v), total += v * v;
  REQUIRE(squares.size() >= 4);
  for (const double share : {0.0, 0.3, 0.5, 0.9, 0.99, 1.0}) {
    // Smallest number that reaches the share; as many as have a cumulated share below it.
    index_t reach = 0, below = 0;
    real sum = 0;
    for (const real s : squares) {
      if (sum < share * total * (1 - 1e-15L)) ++reach;
      sum += s;
      if (sum < share * total * (1 - 1e-15L)) ++below;
    }
    using bound = catmerge::energy_share::bound;
    const auto taken = [&](bound stop) {
      return catmerge::removal_basis(0, p.data.vectors, p.data.features,
                                     with(catmerge::energy_share{share, stop}, 1))
          .basis.cols();
    };
    CAPTURE(share);
    CHECK(taken(bound::reach) == reach);
    CHECK(taken(bound::below) == below);
    CHECK(below <= reach);
  }
}

TEST_CASE("removal basis: means are sums with scaled rows") {
  const problem<double> p(14, 15, 12, {3, 9, 20});
  std::vector<Eigen::MatrixXd> scaled;
  for (const auto& x : p.data.features)
    scaled.push_back(x / std::sqrt(static_cast<double>(x.rows())));
  for (const auto way : every_way)
    for (index_t k = 0; k < 3; ++k) {
      auto mean = with(largest{2}, 5, way);
      mean.weighting = row_weight::mean;
      const auto a = catmerge::removal_basis(k, p.data.vectors, p.data.features, mean);
      const auto b = catmerge::removal_basis(k, p.data.vectors, scaled, with(largest{2}, 5, way));
      REQUIRE(a.basis.cols() == b.basis.cols());
      const double gap = oracle::gap(
          oracle::decompose(oracle::gram(k, p.vectors, p.features, 5, true)), a.basis.cols());
      const Eigen::MatrixXd pa = a.basis * a.basis.transpose(), pb = b.basis * b.basis.transpose();
      CHECK((pa - pb).norm() <= tolerance::subspace(gap));
      const auto sums =
          catmerge::removal_basis(k, p.data.vectors, p.data.features, with(largest{2}, 5, way));
      const Eigen::MatrixXd ps = sums.basis * sums.basis.transpose();
      CHECK((pa - ps).norm() > 1e-3);  // and they are not plain sums
    }
}

TEST_CASE(
    "removal basis: the cheapest way is one of the three, and a budget that is spent is said") {
  const problem<double> p(15, 30, 20, {3, 4});
  auto options = with(largest{2}, 5, basis_solver::shifts);
  options.eigen.products = 2;
  const auto found = catmerge::removal_basis(0, p.data.vectors, p.data.features, options);
  CHECK(found.solver == basis_solver::dense);
  const auto best =
      oracle::leading(oracle::decompose(oracle::gram(0, p.vectors, p.features, 5)), 2);
  const auto b = found.basis;
  CHECK((b * b.transpose() - oracle::onto(best)).norm() <= 1e-9);
  CHECK(catmerge::removal_basis(0, p.data.vectors, p.data.features).solver !=
        basis_solver::automatic);
}

TEST_CASE("removal basis: where float stalls, double goes on from what it has") {
  // Features that differ by a hundredth between tasks, and lambda 1: what is left of G_k's sums is
  // some hundredth of them, and products in float leave more than the tolerance of it.
  auto l = random_linear<float>(18, 400, 300, {80, 80, 80});
  generator noise(19);
  for (auto& x : l.features) {
    if (&x != &l.features[0]) x = l.features[0];
    x += noise.matrix<float>(80, 300, 0.01);
  }
  Eigen::MatrixXd gram = Eigen::MatrixXd::Zero(400, 400);
  const auto add = [&](double factor, index_t k, index_t i) {
    const Eigen::MatrixXd shifts =
        l.features[at(k)].cast<double>() * l.vectors[at(i)].cast<double>().transpose();
    gram += factor * shifts.transpose() * shifts;
  };
  for (const index_t i : {1, 2}) add(1, 0, i), add(-1, i, i);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(gram);
  const Eigen::VectorXd& values = solver.eigenvalues();  // ascending
  const double magnitude = std::max(values(399), -values(0)),
               gap = (values(396) - values(395)) / magnitude;
  REQUIRE(gap > 1e-3);
  const Eigen::MatrixXd best = solver.eigenvectors().rightCols(4);
  const auto found =
      catmerge::removal_basis(0, l.vectors, l.features, with(largest{4}, 1, basis_solver::weights));
  CHECK(found.solver == basis_solver::weights);
  CHECK(found.residual <= 1e-6);
  CHECK(found.products > 100);  // that a stall takes, and not half of the budget, 2000
  CHECK(found.products < 500);
  const Eigen::MatrixXd b = found.basis.cast<double>();
  REQUIRE(b.cols() == 4);
  // Davis and Kahan: sin of the angles <= residuals / gap; B is rounded to float besides.
  CHECK((b * b.transpose() - best * best.transpose()).norm() <= std::sqrt(8.0) * 1e-6 / gap + 1e-6);
}

TEST_CASE_TEMPLATE("removal basis: a search that is given up ends at the dense solver's result", S,
                   double, float) {
  const problem<S> p(20, 30, 20, {3, 4, 5});
  using host_context = catmerge::context<catmerge::host>;
  host_context c;
  const auto views = catmerge::detail::read_all<host_context>(p.data.vectors);
  auto statistics = catmerge::detail::as_statistics_list(p.data.features);
  std::vector<Eigen::MatrixXd> squares;
  for (const matrix_of<S>& x : p.data.features) {
    const Eigen::MatrixXd wide = x.template cast<double>();
    squares.push_back(wide.transpose() * wide);
  }
  std::vector<catmerge::statistics_view<catmerge::host>> grams;
  for (std::size_t k = 0; k < squares.size(); ++k)
    grams.push_back({statistics_form::gram, catmerge::const_view_of(std::as_const(squares[k])),
                     static_cast<double>(p.data.features[k].rows())});
  const std::vector<index_t> tasks{0, 2};
  for (const bool rows : {true, false})
    for (const auto way : {basis_solver::shifts, basis_solver::weights}) {
      if (!rows && way == basis_solver::shifts) continue;
      const auto options = with(largest{2}, 5, way);
      catmerge::detail::gram_problem<catmerge::context<catmerge::host>> given{
          views, rows ? statistics : grams};
      given.wanted = tasks;
      auto [g, plan] = catmerge::detail::make_gram(c, given, options);
      CHECK(plan.solver == way);
      CHECK(plan.products == options.eigen.products);  // a way that was asked for keeps its budget
      plan.products = 6;
      const auto found = catmerge::detail::find_bases(c, *g, tasks, options, plan);
      for (std::size_t j = 0; j < tasks.size(); ++j) {
        CHECK(found[j].solver == basis_solver::dense);
        CHECK(found[j].products >= 6);
        CHECK(found[j].products < 16);
        const auto best =
            oracle::leading(oracle::decompose(oracle::gram(tasks[j], p.vectors, p.features, 5)), 2);
        const Eigen::MatrixXd b = c.to_host(found[j].basis);
        // Shifts of floats are rounded to float, relative to some gap of 1e-2 at least.
        const bool rounded = std::is_same_v<S, float> && way == basis_solver::shifts;
        CHECK((b * b.transpose() - oracle::onto(best)).norm() <= (rounded ? 1e-4 : 1e-9));
      }
    }
}

TEST_CASE(
    "removal basis: left to itself, a search's products cost at most twice the dense solver") {
  using host_context = catmerge::context<catmerge::host>;
  host_context c;
  for (const index_t rows : {4, 200}) {
    const auto l = random_linear<float>(21, 300, 250, {rows, rows, rows});
    const auto views = catmerge::detail::read_all<host_context>(l.vectors);
    const auto statistics = catmerge::detail::as_statistics_list(l.features);
    auto options = with(largest{4}, 5);
    options.eigen.products = 1'000'000;
    const auto plan = catmerge::detail::plan_bases(c, views, statistics, {0, 1, 2}, options);
    const auto costs =
        catmerge::detail::cost_of_solvers(c, views, statistics, {0, 1, 2}, options.directions);
    REQUIRE(plan.solver == (rows == 4 ? basis_solver::shifts : basis_solver::weights));
    const double one =
        plan.solver == basis_solver::shifts ? costs.shifts_product : costs.weights_product;
    CHECK(static_cast<double>(plan.products) * one <= 2 * costs.dense);
    CHECK(static_cast<double>(plan.products + 1) * one > 2 * costs.dense);
    options.eigen.products = 7;
    CHECK(catmerge::detail::plan_bases(c, views, statistics, {0, 1, 2}, options).products == 7);
  }
}

TEST_CASE("removal basis and project_out: errors") {
  const problem<double> p(16, 6, 5, {3, 4});
  const auto& v = p.data.vectors;
  const auto& x = p.data.features;
  const auto basis = [&](index_t k, const auto& vectors, const auto& features,
                         const projection_options& o = {}) {
    return catmerge::removal_basis(k, vectors, features, o);
  };
  CHECK_THROWS_AS(basis(2, v, x), catmerge::error);
  CHECK_THROWS_AS(basis(-1, v, x), catmerge::error);
  CHECK_THROWS_AS(basis(0, std::vector<Eigen::MatrixXd>{}, x), catmerge::error);
  CHECK_THROWS_AS(basis(0, v, std::vector<Eigen::MatrixXd>{x[0]}), catmerge::error);
  CHECK_THROWS_WITH_AS(basis(0, v, std::vector<Eigen::MatrixXd>{x[0], Eigen::MatrixXd::Ones(4, 7)}),
                       "removal_basis: features 1: expected rows of 5 entries, found 4 x 7",
                       catmerge::error);
  CHECK_THROWS_WITH_AS(basis(0, std::vector<Eigen::MatrixXd>{v[0], Eigen::MatrixXd::Ones(6, 4)}, x),
                       "removal_basis: task vector 1: expected 6 x 5, found 6 x 4",
                       catmerge::error);
  auto bad = v;
  bad[1](2, 3) = std::numeric_limits<double>::infinity();
  CHECK_THROWS_WITH_AS(basis(0, bad, x),
                       "removal_basis: task vector 1 holds a value that is not finite",
                       catmerge::error);
  auto worse = x;
  worse[0](1, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH_AS(basis(0, v, worse),
                       "removal_basis: features 0 hold a value that is not finite",
                       catmerge::error);
  for (const double lambda :
       {-1.0, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()})
    CHECK_THROWS_AS(basis(0, v, x, with(largest{1}, lambda)), catmerge::error);
  CHECK_THROWS_AS(basis(0, v, x, with(largest{-1}, 1)), catmerge::error);
  for (const double share : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()})
    CHECK_THROWS_AS(basis(0, v, x, with(catmerge::energy_share{share}, 1)), catmerge::error);
  projection_options o;
  o.eigen.tolerance = -1e-9;
  CHECK_THROWS_AS(basis(0, v, x, o), catmerge::error);
  // Second moments are not enough for a linear layer, even where their shape would do.
  const std::vector<Eigen::MatrixXd> thin{Eigen::MatrixXd::Ones(3, 1), Eigen::MatrixXd::Ones(3, 1)};
  const Eigen::VectorXd moment = Eigen::VectorXd::Ones(1);
  const catmerge::statistics_view<catmerge::host> s{statistics_form::second_moment,
                                                    catmerge::const_view_of(moment), 1};
  CHECK_THROWS_AS(basis(0, thin, std::vector{s, s}), catmerge::error);

  Eigen::MatrixXd t = v[0];
  CHECK_THROWS_AS(catmerge::project_out(Eigen::MatrixXd::Zero(5, 2).eval(), t), catmerge::error);
  CHECK(same_bits(t, v[0]));
}

TEST_CASE_TEMPLATE("project_out: P^2 = P, nothing left along B, the rest untouched", S, double,
                   float) {
  const problem<S> p(17, 30, 20, {5, 6, 7});
  for (const index_t c : {0, 1, 4}) {
    const auto b =
        catmerge::removal_basis(0, p.data.vectors, p.data.features, with(largest{c}, 1)).basis;
    REQUIRE(b.cols() == c);
    matrix_of<S> once = p.data.vectors[1];
    catmerge::project_out(b, once);
    const double size = static_cast<double>(p.data.vectors[1].norm());
    const oracle::matrix expected =
        oracle::times(oracle::projector(oracle::exact(b)), p.vectors[1]);
    CHECK(static_cast<double>(std::sqrt(oracle::energy(
              oracle::minus(oracle::exact(once), expected)))) <= tolerance::idempotent<S> * size);
    if (c > 0)
      CHECK(static_cast<double>((b.transpose() * once).norm()) <= tolerance::removed<S> * size);
    matrix_of<S> twice = once;
    catmerge::project_out(b, twice);
    CHECK(static_cast<double>((twice - once).norm()) <= tolerance::idempotent<S> * size);
    if (c == 0) CHECK(same_bits(once, p.data.vectors[1]));
  }
}

TEST_CASE("eigenvalues below the tolerance are told from nothing") {
  // G_0 is diagonal: four entries of 1e-7 to 4e-7, many of minus a little less, and large negative
  // ones. To a residual of 1e-6, which float may stop at, the small ones are one heap.
  constexpr index_t d = 120;
  matrix_of<float> zero = matrix_of<float>::Zero(d, d), one = matrix_of<float>::Identity(d, d),
                   gains = zero, losses = zero;
  std::vector<double> expected;
  for (index_t j = 0; j < 4; ++j) {
    gains(j, j) = std::sqrt(static_cast<float>(4 - j) * 1e-7F);
    expected.push_back(std::pow(static_cast<double>(gains(j, j)), 2));
  }
  for (index_t j = 4; j < 80; ++j) losses(j, j) = std::sqrt(static_cast<float>(j) * 4e-9F);
  for (index_t j = 80; j < d; ++j) losses(j, j) = std::sqrt(static_cast<float>(j) / d);
  const std::vector<matrix_of<float>> vectors{zero, one}, features{gains, losses};
  // The default, a tolerance that float reaches, and one for which products are made in double.
  for (const double tolerance : {0.0, 1e-6, 3e-7})
    for (const auto way : {catmerge::basis_solver::shifts, catmerge::basis_solver::weights}) {
      CAPTURE(tolerance);
      catmerge::projection_options options;
      options.solver = way;
      options.lambda = 1;
      options.eigen.tolerance = tolerance;
      const auto found = catmerge::removal_basis(0, vectors, features, options);
      CHECK(found.solver == way);
      REQUIRE(found.eigenvalues.size() == 4);
      // A residual of 1e-8 moves an eigenvalue by no more.
      for (std::size_t j = 0; j < 4; ++j)
        CHECK(std::abs(found.eigenvalues[j] - expected[j]) <= 1e-8 * found.magnitude);
    }
}
