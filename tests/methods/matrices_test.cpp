// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include "support/backends/eigen.hpp"
#include "support/executor.hpp"
#include "support/fake_device.hpp"
#include "support/suite/methods_matrices.hpp"

// LOT, RegMean, TSV-M, Iso, WUDI, SWUDI and ASWUDI on matrices of every shape and rank, and the
// kernels below them.

using namespace test;
using catmerge::fused_weights;
using catmerge::iso_variant;
using catmerge::layer_kind;
using catmerge::statistics_form;
using matrices::dense;
using matrices::expected;

namespace {

using problem_type = catmerge::layer_problem<catmerge::context<catmerge::host>>;
constexpr double eps = tolerance::eps<double>;
constexpr catmerge::lot_options without_ridge{1, 0};  // LOT without a ridge

/// Task vectors, and features, in double: the base is zero, so what is merged is tau.
struct given {
  dense base;
  matrices::list t, x;

  given(std::uint64_t seed, index_t d_out, index_t d_in, const std::vector<index_t>& rows)
      : base(dense::Zero(d_out, d_in)) {
    generator g(seed);
    for (const index_t n : rows) t.push_back(g.matrix(d_out, d_in)), x.push_back(g.matrix(n, d_in));
  }
};

void check(const dense& found, const expected& e) {
  CHECK((found - e.tau).norm() <= e.slack + 4 * eps * e.tau.norm());
}

/// Matrices of these singular values.
dense with_values(generator& g, index_t rows, index_t columns, const std::vector<double>& s) {
  const index_t n = std::ssize(s);
  const dense u = g.orthonormal(rows, n), v = g.orthonormal(columns, n);
  return u * Eigen::Map<const Eigen::VectorXd>(s.data(), n).asDiagonal() * v.transpose();
}

dense random_of_rank(generator& g, index_t rows, index_t columns, index_t rank) {
  return g.matrix(rows, rank) * g.matrix(rank, columns);
}

template <class Method>
auto merge(const Method& method, const problem_type& p) {
  catmerge::context<catmerge::host> c;
  dense out(p.base.rows, p.base.columns);
  const auto report = catmerge::merge_problem(method, c, p, catmerge::view_of(out));
  return std::pair(out, report);
}

problem_type problem_of(layer_kind kind, const dense& base, const matrices::list& experts) {
  problem_type p;
  p.kind = kind;
  p.base = catmerge::const_view_of(base);
  for (const auto& e : experts) p.experts.push_back(catmerge::const_view_of(e));
  return p;
}

dense mean_of(const matrices::list& t) {
  return matrices::sum_of(t) / static_cast<double>(t.size());
}

/// sum_k ||X_k (tau - T_k)^T||^2, entry by entry.
double drift(const dense& tau, const matrices::list& t, const matrices::list& x) {
  double sum = 0;
  for (std::size_t k = 0; k < t.size(); ++k)
    for (index_t i = 0; i < x[k].rows(); ++i)
      for (index_t o = 0; o < tau.rows(); ++o) {
        double y = 0;
        for (index_t j = 0; j < tau.cols(); ++j) y += x[k](i, j) * (tau(o, j) - t[k](o, j));
        sum += y * y;
      }
  return sum;
}

}  // namespace

TEST_CASE("thin_svd: factors are orthonormal and give the matrix back, whatever the spectrum") {
  catmerge::context<catmerge::host> c;
  for (const auto& [rows, columns] : {std::pair<index_t, index_t>{12, 30}, {30, 12}, {12, 12}}) {
    generator g(1);
    for (const auto& spectrum : std::vector<std::vector<double>>{
             {1}, {3, 3, 3}, {1, .5, .5, 1e-1, 1e-2}, {1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6}}) {
      const dense a = with_values(g, rows, columns, spectrum);
      for (const index_t count : {index_t{1}, index_t{2}, std::min(rows, columns)}) {
        const auto svd = catmerge::detail::leading_singular(c, catmerge::const_view_of(a), count);
        const auto n = std::min<index_t>(count, std::ssize(spectrum));
        REQUIRE(std::ssize(svd.values) == n);  // and no more, though rounding has more
        const dense u = c.to_host(svd.left), v = c.to_host(svd.right);
        const dense one = dense::Identity(n, n);
        CHECK((u.transpose() * u - one).norm() <= 100 * eps);
        CHECK((v.transpose() * v - one).norm() <= 100 * eps);
        dense rest = a;
        for (index_t j = 0; j < n; ++j) {
          const double s = svd.values[at(j)], exact = spectrum[at(n - 1 - j)];
          CHECK(std::abs(s - exact) <= 30 * eps * spectrum[0] * spectrum[0] / exact);
          rest -= s * u.col(j) * v.col(j).transpose();
        }
        // An error of eps (sigma_1 / sigma)^2 in a vector is one of eps sigma_1^2 / sigma in A.
        const double left = n < std::ssize(spectrum) ? spectrum[at(n)] : 0;
        CHECK(Eigen::JacobiSVD<dense>(rest).singularValues()(0) <=
              left + 100 * eps * spectrum[0] * spectrum[0] / spectrum[at(n - 1)]);
      }
    }
  }
}

TEST_CASE("thin_svd: what counts as zero") {
  catmerge::context<catmerge::host> c;
  generator g(2);
  const auto count = [&](const dense& a, double floor) {
    return std::ssize(
        catmerge::detail::leading_singular(c, catmerge::const_view_of(a), 99, floor).values);
  };
  CHECK(count(dense::Zero(4, 6), 0) == 0);
  CHECK(count(dense(0, 6), 0) == 0);
  CHECK(count(dense(6, 0), 0) == 0);
  const double cut = std::sqrt(catmerge::detail::gram_cut(20));
  CHECK(count(with_values(g, 20, 9, {1, 2 * cut}), 0) == 2);
  CHECK(count(with_values(g, 20, 9, {1, cut / 2}), 0) == 1);
  CHECK(count(with_values(g, 20, 9, {1, 1e-3}), 2e-3) == 1);
  CHECK(count(with_values(g, 20, 9, {1, 1e-3}), 2) == 0);
  for (const index_t rank : {1, 5, 11}) CHECK(count(random_of_rank(g, 40, 60, rank), 0) == rank);
  CHECK_THROWS_WITH_AS(count(dense::Constant(3, 3, 1e200), 0), "a Gram matrix overflows float64",
                       catmerge::error);
}

TEST_CASE("polar_factor: nearest orthonormal columns, partial where the rank is") {
  catmerge::context<catmerge::host> c;
  generator g(3);
  for (const dense& m : {dense(g.matrix(9, 5)), dense(g.matrix(5, 9)), dense(g.matrix(7, 7)),
                         random_of_rank(g, 9, 6, 3), with_values(g, 9, 4, {1, 1, 1e-3, 1e-5}),
                         dense(dense::Constant(1, 1, -3))}) {
    const auto exact = matrices::polar_of(m);
    const dense found = c.to_host(catmerge::detail::polar_factor(c, catmerge::const_view_of(m)));
    CHECK((found - exact.polar).norm() <= 30 * eps * exact.condition);
    // P P^T P = P: singular values of 0 and 1, to rounding, however bad the condition.
    CHECK((found * found.transpose() * found - found).norm() <= 100 * eps);
  }
}

TEST_CASE("LOT: least drift, of all of these the smallest task vector") {
  for (const auto& rows : std::vector<std::vector<index_t>>{
           {9, 12, 30}, {2, 3, 1}, {4, 3, 0}, {20, 0, 0}, {8}, {3}, {1, 1, 1, 1, 1, 1, 1, 1, 1}}) {
    const given l(4, 5, 8, rows);
    const auto [tau, report] = catmerge::lot_linear(l.base, l.t, l.x, without_ridge);
    check(tau, matrices::least_squares(l.x, l.t));
    CHECK(report.fallback == catmerge::fallback_rule::none);
    CHECK(report.kind == layer_kind::linear);

    // No other tau drifts less.
    generator g(5);
    const double least = drift(tau, l.t, l.x);
    for (int i = 0; i < 20; ++i)
      CHECK(drift(tau + g.matrix(5, 8, 1e-3), l.t, l.x) >= least * (1 - 1e-12));
    if (rows.size() > 1) CHECK(drift(mean_of(l.t), l.t, l.x) >= least * (1 - 1e-12));
  }
}

TEST_CASE(
    "LOT: a single task keeps what its inputs see; alpha scales; the order of tasks is free") {
  given one(6, 5, 8, {11});
  check(catmerge::lot_linear(one.base, one.t, one.x, without_ridge).merged,
        {one.t[0], matrices::least_squares(one.x, one.t).slack});
  const given few(6, 5, 8, {3});
  const Eigen::HouseholderQR<dense> qr(few.x[0].transpose());
  const dense q = qr.householderQ() * dense::Identity(8, 3);
  check(catmerge::lot_linear(few.base, few.t, few.x, without_ridge).merged,
        {few.t[0] * q * q.transpose(), matrices::least_squares(few.x, few.t).slack});

  const given l(7, 5, 8, {4, 9, 6});
  const auto e = matrices::least_squares(l.x, l.t);
  check(catmerge::lot_linear(l.base, l.t, l.x, {1.5, 0}).merged, {1.5 * e.tau, 1.5 * e.slack});
  check(catmerge::lot_linear(l.base, matrices::list{l.t[2], l.t[0], l.t[1]},
                             matrices::list{l.x[2], l.x[0], l.x[1]}, without_ridge)
            .merged,
        e);
  // Equal vectors that the inputs see all of.
  check(catmerge::lot_linear(l.base, matrices::list(3, l.t[0]), l.x, without_ridge).merged,
        {l.t[0], e.slack});
}

TEST_CASE("LOT: rows, factors and Gram matrices are the same inputs, one form beside the other") {
  for (const auto& rows : std::vector<std::vector<index_t>>{{2, 3, 1}, {3, 2, 40}, {9, 30, 12}}) {
    const given l(8, 5, 8, rows);
    const auto e = matrices::least_squares(l.x, l.t);
    std::vector<dense> grams, factors;
    for (const auto& x : l.x) {
      grams.push_back(x.transpose() * x);
      const Eigen::HouseholderQR<dense> qr(x);
      const dense r = qr.matrixQR().topRows(std::min<index_t>(x.rows(), 8));
      factors.push_back(r.triangularView<Eigen::Upper>());
    }
    const auto statistics = [&](statistics_form form, std::size_t k) {
      const dense& data = form == statistics_form::rows   ? l.x[k]
                          : form == statistics_form::gram ? grams[k]
                                                          : factors[k];
      return catmerge::statistics_view<>{form, catmerge::const_view_of(data),
                                         static_cast<double>(l.x[k].rows())};
    };
    const statistics_form forms[] = {statistics_form::rows, statistics_form::factor,
                                     statistics_form::gram};
    for (const auto& a : forms)
      for (const auto& b : forms) {
        const std::vector<catmerge::statistics_view<>> mixed{statistics(a, 0), statistics(b, 1),
                                                             statistics(a, 2)};
        check(catmerge::lot_linear(l.base, l.t, mixed, without_ridge).merged, e);
        check(catmerge::regmean_linear(l.base, l.t, mixed).merged,
              matrices::regmean(l.t, l.x, 0.9));
      }
  }
}

TEST_CASE(
    "LOT: dependent rows, and a Gram matrix of few rows in float, bring no direction of noise") {
  generator g(9);
  given l(9, 6, 40, {30, 30});
  for (auto& x : l.x) x = random_of_rank(g, 30, 40, 4);
  const auto e = matrices::least_squares(l.x, l.t);
  const dense tau = catmerge::lot_linear(l.base, l.t, l.x, without_ridge).merged;
  check(tau, e);
  // Storing X^T X in float moves it by some eps_float of its norm; what it has no rows for is then
  // not zero, and must not come back divided by next to nothing.
  std::vector<Eigen::MatrixXf> stored;
  std::vector<catmerge::statistics_view<>> views;
  double norms = 0;
  for (const auto& x : l.x) {
    stored.push_back((x.transpose() * x).cast<float>());
    norms += stored.back().cast<double>().norm();
  }
  for (const auto& s : stored)
    views.push_back({statistics_form::gram, catmerge::const_view_of(s), 30});
  dense all(60, 40);
  all << l.x[0], l.x[1];
  const auto s = Eigen::JacobiSVD<dense>(all).singularValues();
  const double moved = tolerance::eps<float> * norms / (s(7) * s(7));
  REQUIRE(moved < 1e-3);
  CHECK((catmerge::lot_linear(l.base, l.t, views, without_ridge).merged - tau).norm() <=
        2 * moved * (l.t[0].norm() + l.t[1].norm()));
}

TEST_CASE("LOT's ridge: a dense solve, on few rows, on many, on factors and Gram matrices") {
  for (const auto& rows : std::vector<std::vector<index_t>>{
           {9, 12, 30}, {2, 3, 1}, {4, 3, 0}, {20, 0, 0}, {3}, {1, 1, 1, 1, 1, 1, 1, 1, 1}})
    for (const double ridge : {1e-6, 1e-3, 0.1, 10.0}) {
      const given l(40, 5, 8, rows);
      std::vector<dense> grams;
      std::vector<catmerge::statistics_view<>> formed, mixed;
      for (const auto& x : l.x) grams.push_back(x.transpose() * x);
      for (std::size_t k = 0; k < l.x.size(); ++k) {
        const double n = static_cast<double>(l.x[k].rows());
        formed.push_back({statistics_form::gram, catmerge::const_view_of(grams[k]), n});
        mixed.push_back(k % 2 == 0
                            ? formed.back()
                            : catmerge::statistics_view<>{statistics_form::rows,
                                                          catmerge::const_view_of(l.x[k]), n});
      }
      const auto e = matrices::ridged(grams, l.t, mean_of(l.t), ridge);
      const auto [tau, report] = catmerge::lot_linear(l.base, l.t, l.x, {1, ridge});
      check(tau, e);
      CHECK(report.fallback == catmerge::fallback_rule::none);
      check(catmerge::lot_linear(l.base, l.t, formed, {1, ridge}).merged, e);
      check(catmerge::lot_linear(l.base, l.t, mixed, {1, ridge}).merged, e);
      check(catmerge::lot_linear(l.base, l.t, l.x, {1.5, ridge}).merged,
            {1.5 * e.tau, 1.5 * e.slack});
    }
  CHECK(catmerge::lot_options{}.ridge == 1e-3);
}

TEST_CASE("LOT's ridge: from the published method to the mean of the task vectors") {
  for (const auto& rows : std::vector<std::vector<index_t>>{{9, 12, 30}, {2, 3, 1}}) {
    const given l(41, 5, 8, rows);
    const dense mean = mean_of(l.t);
    CHECK((catmerge::lot_linear(l.base, l.t, l.x, {1, 1e12}).merged - mean).norm() <=
          1e-11 * mean.norm());
    // Without a ridge the directions that no row covers are the base's, with the smallest the
    // mean's; the covered ones are the same.
    const dense none = catmerge::lot_linear(l.base, l.t, l.x, without_ridge).merged;
    const dense least = catmerge::lot_linear(l.base, l.t, l.x, {1, 1e-10}).merged;
    dense all(0, 8);
    for (const auto& x : l.x) {
      all.conservativeResize(all.rows() + x.rows(), Eigen::NoChange);
      all.bottomRows(x.rows()) = x;
    }
    Eigen::JacobiSVD<dense> svd(all, Eigen::ComputeThinU | Eigen::ComputeFullV);
    const dense v = svd.matrixV().leftCols(svd.rank());
    const dense outside = dense::Identity(8, 8) - v * v.transpose();
    CHECK((none * outside).norm() <= 1e-10 * none.norm());
    CHECK(((least - none) * v).norm() <= 1e-6 * none.norm());
    CHECK(((least - mean) * outside).norm() <= 1e-6 * mean.norm());
    // Equal vectors are kept, whatever the rows.
    check(catmerge::lot_linear(l.base, matrices::list(3, l.t[0]), l.x).merged,
          {l.t[0], 100 * eps * l.t[0].norm()});
  }
}

TEST_CASE("a prior of one's own, with weights and diagonals") {
  using solver = catmerge::detail::gram_solver<catmerge::context<catmerge::host>>;
  catmerge::context<catmerge::host> c;
  for (const bool diagonal : {false, true}) {
    given l(42, 5, 8, {2, 3, 1});
    const dense prior = generator(43).matrix(5, 8);
    const double weights[] = {0.5, 2, 0};
    std::vector<catmerge::detail::weighted_gram<catmerge::context<catmerge::host>>> terms;
    matrices::list grams;
    for (std::size_t k = 0; k < 3; ++k) {
      terms.push_back({catmerge::const_view_of(l.x[k]), false, weights[k]});
      grams.push_back(weights[k] * l.x[k].transpose() * l.x[k]);
      if (diagonal) {
        terms.back().diagonal = {1, 2, 3, 4, 5, 6, 7, 0};
        for (index_t j = 0; j < 8; ++j) grams[k](j, j) += terms.back().diagonal[at(j)];
      }
    }
    std::vector<catmerge::host_view> vectors;
    for (auto& t : l.t) vectors.push_back(catmerge::view_of(t));
    dense tau = dense::Zero(5, 8);
    CHECK(solver(c, vectors, terms)
              .add_with_ridge(catmerge::const_view_of(prior), 0.01, catmerge::view_of(tau)));
    check(tau, matrices::ridged(grams, l.t, prior, 0.01));
  }
}

TEST_CASE("LOT: scales by their inputs' energies; a coordinate that is never seen by the mean") {
  generator g(10);
  const index_t d = 7;
  const matrices::list t{g.matrix(d, 1), g.matrix(d, 1), g.matrix(d, 1)};
  matrices::list x{g.matrix(5, d), g.matrix(3, d), g.matrix(0, d)};
  for (auto& rows : x) rows.col(2).setZero();
  x[0].col(4).setZero();
  const dense base = dense::Zero(d, 1);
  dense tau(d, 1);
  for (index_t j = 0; j < d; ++j) {
    double sum = 0, total = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      double q = 0;
      for (index_t i = 0; i < x[k].rows(); ++i) q += x[k](i, j) * x[k](i, j);
      sum += q * t[k](j, 0), total += q;
    }
    tau(j, 0) = total > 0 ? sum / total : (t[0](j, 0) + t[1](j, 0) + t[2](j, 0)) / 3;
  }
  std::vector<Eigen::VectorXd> vectors;
  for (const auto& v : t) vectors.push_back(v);
  const Eigen::VectorXd zero = base;
  const auto rows = catmerge::lot_scale(zero, vectors, x);
  CHECK((rows.merged - tau).norm() <= 20 * eps * tau.norm());
  CHECK(rows.report.fallback == catmerge::fallback_rule::none);
  std::vector<catmerge::statistics_view<>> moments;
  std::vector<dense> means;
  for (const auto& m : x)
    means.push_back(m.colwise().squaredNorm().transpose() /
                    std::max(1.0, static_cast<double>(m.rows())));
  for (std::size_t k = 0; k < 3; ++k)
    moments.push_back({statistics_form::second_moment, catmerge::const_view_of(means[k]),
                       static_cast<double>(x[k].rows())});
  CHECK((catmerge::lot_scale(zero, vectors, moments).merged - tau).norm() <= 20 * eps * tau.norm());

  const matrices::list none(3, dense(0, d));
  const auto unseen = catmerge::lot_scale(zero, vectors, none);
  CHECK((unseen.merged - mean_of(t)).norm() <= 4 * eps * mean_of(t).norm());
  CHECK(unseen.report.fallback == catmerge::fallback_rule::mean);
}

TEST_CASE("LOT and RegMean: the mean where there is nothing to weigh by") {
  const given l(11, 5, 8, {0, 0});
  const dense mean = mean_of(l.t);
  for (const auto kind : {layer_kind::linear, layer_kind::scale, layer_kind::other}) {
    const auto [tau, report] = merge(catmerge::lot_method{}, problem_of(kind, l.base, l.t));
    CHECK((tau - mean).norm() <= 4 * eps * mean.norm());
    CHECK(report.fallback == catmerge::fallback_rule::mean);
    const auto [again, why] = merge(catmerge::regmean_method{}, problem_of(kind, l.base, l.t));
    CHECK(same_bits(again, tau));
    CHECK(why.fallback == catmerge::fallback_rule::mean);
  }
  const auto [shift, report] =
      merge(catmerge::lot_method{}, problem_of(layer_kind::shift, l.base, l.t));
  CHECK((shift - mean).norm() <= 4 * eps * mean.norm());
  CHECK(report.fallback == catmerge::fallback_rule::none);  // that is LOT's rule for shifts

  for (const auto& x : {l.x, matrices::list(2, dense::Zero(3, 8))}) {
    const auto lot = catmerge::lot_linear(l.base, l.t, x);
    CHECK((lot.merged - mean).norm() <= 4 * eps * mean.norm());
    CHECK(lot.report.fallback == catmerge::fallback_rule::mean);
    const dense base = dense::Ones(5, 8);
    const auto regmean = catmerge::regmean_linear(base, l.t, x);
    CHECK((regmean.merged - mean).norm() <= 8 * eps * (mean.norm() + base.norm()));
    CHECK(regmean.report.fallback == catmerge::fallback_rule::mean);
  }
}

TEST_CASE("RegMean: the regression of all experts' outputs") {
  for (const auto& rows : std::vector<std::vector<index_t>>{{9, 12, 30}, {2, 3, 1}, {20, 5}, {3}})
    for (const double a : {0.0, 0.1, 0.9, 1.0}) {
      const given l(12, 5, 8, rows);
      generator g(13);
      const dense base = g.matrix(5, 8);
      matrices::list experts;
      for (const auto& t : l.t) experts.push_back(base + t);
      const auto e = matrices::regmean(experts, l.x, a);
      const auto [merged, report] = catmerge::regmean_linear(base, experts, l.x, {a});
      CHECK((merged - e.tau).norm() <= e.slack + 4 * eps * (e.tau.norm() + base.norm()));
      CHECK(report.fallback == catmerge::fallback_rule::none);
      if (a < 1 && rows.size() == 1)
        CHECK((merged - experts[0]).norm() <= e.slack + 4 * eps * (e.tau.norm() + base.norm()));
      if (a > 0) continue;
      // Diagonal matrices: a weighted mean of each column.
      for (index_t j = 0; j < 8; ++j) {
        double total = 0;
        Eigen::VectorXd sum = Eigen::VectorXd::Zero(5);
        for (std::size_t k = 0; k < experts.size(); ++k) {
          const double q = l.x[k].col(j).squaredNorm() / static_cast<double>(rows[k]);
          sum += q * experts[k].col(j);
          total += q;
        }
        CHECK((merged.col(j) - sum / total).norm() <= 100 * eps * (1 + base.norm()));
      }
    }
}

TEST_CASE("RegMean: the base and LOT, where a = 1, rows are as many and all directions seen") {
  const given l(14, 5, 8, {20, 20, 20});
  generator g(15);
  const dense base = g.matrix(5, 8);
  matrices::list experts;
  for (const auto& t : l.t) experts.push_back(base + t);
  const double slack = matrices::least_squares(l.x, l.t).slack;
  CHECK((catmerge::regmean_linear(base, experts, l.x, {1.0}).merged -
         catmerge::lot_linear(base, experts, l.x, without_ridge).merged)
            .norm() <= 2 * slack + 8 * eps * (base.norm() + l.t[0].norm()));
}

TEST_CASE("RegMean: what no input sees is zero, the base's weights too; LOT leaves it") {
  given l(16, 5, 8, {20, 20});
  for (auto& x : l.x) x.col(3).setZero();
  const dense base = dense::Ones(5, 8);
  matrices::list experts;
  for (const auto& t : l.t) experts.push_back(base + t);
  for (const double a : {0.5, 1.0})
    CHECK(catmerge::regmean_linear(base, experts, l.x, {a}).merged.col(3).norm() <= 100 * eps);
  const dense least = catmerge::lot_linear(base, experts, l.x, without_ridge).merged;
  CHECK((least.col(3) - base.col(3)).norm() <= 100 * eps);
  // With its ridge it takes the mean there.
  const dense ridged = catmerge::lot_linear(base, experts, l.x).merged;
  CHECK((ridged.col(3) - base.col(3) - mean_of(l.t).col(3)).norm() <= 100 * eps);
}

TEST_CASE("TSV-M: the formula, for every shape") {
  for (const auto& [d_out, d_in] : {std::pair<index_t, index_t>{7, 12}, {12, 7}, {9, 9}, {3, 4}})
    for (const std::size_t tasks : {1U, 2U, 3U}) {
      const given l(17, d_out, d_in, std::vector<index_t>(tasks, 1));
      const auto [tau, report] = catmerge::tsv_m(l.base, l.t);
      const auto e = matrices::tsv_m(l.t);
      check(tau, e);
      CHECK(report.fallback == catmerge::fallback_rule::none);
      if (tasks == 1) check(tau, {l.t[0], e.slack});
      const matrices::list backwards(l.t.rbegin(), l.t.rend());
      check(catmerge::tsv_m(l.base, backwards, {2.0}).merged, {2 * e.tau, 2 * e.slack});
      matrices::list larger;
      for (const auto& t : l.t) larger.push_back(1e3 * t);
      check(catmerge::tsv_m(l.base, larger).merged, {1e3 * e.tau, 1e3 * e.slack});
    }
}

TEST_CASE("TSV-M: tasks apart are added, equal ones taken once, missing ones bring nothing") {
  generator g(18);
  const dense zero = dense::Zero(8, 10);
  dense a = zero, b = zero;
  a.topLeftCorner(4, 5) = with_values(g, 4, 5, {4, 3, 2, 1});
  b.bottomRightCorner(4, 5) = with_values(g, 4, 5, {5, 3, 2, 1});
  check(catmerge::tsv_m(zero, matrices::list{a, b}).merged, {a + b, 1e3 * eps});
  // n = 4 of the eight directions of each, then of both.
  const dense c = with_values(g, 8, 10, {8, 7, 6, 5, 4, 3, 2, 1});
  const Eigen::JacobiSVD<dense> svd(c, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const dense leading = svd.matrixU().leftCols(4) * svd.singularValues().head(4).asDiagonal() *
                        svd.matrixV().leftCols(4).transpose();
  check(catmerge::tsv_m(zero, matrices::list{c, c}).merged, {leading, 1e3 * eps});
  check(catmerge::tsv_m(zero, matrices::list{c, zero}).merged, {leading, 1e3 * eps});
  CHECK(catmerge::tsv_m(zero, matrices::list{zero, zero}).merged == zero);
  // Of rank one each, where four directions are asked for: no vectors of zero singular value.
  const dense p = random_of_rank(g, 8, 10, 1), q = random_of_rank(g, 8, 10, 1);
  matrices::triplets both(8, 10);
  both.append(p, 1), both.append(q, 1);
  check(catmerge::tsv_m(zero, matrices::list{p, q}).merged, both.sum(both.s));
}

TEST_CASE("Iso-C: all singular values are their mean") {
  for (const auto& [d_out, d_in] : {std::pair<index_t, index_t>{7, 12}, {12, 7}, {9, 9}, {3, 4}})
    for (const std::size_t tasks : {1U, 3U}) {
      const given l(19, d_out, d_in, std::vector<index_t>(tasks, 1));
      const auto e = matrices::iso(l.t, 0);
      const auto [tau, report] = catmerge::iso(l.base, l.t);
      check(tau, e);
      CHECK(report.fallback == catmerge::fallback_rule::none);
      const auto s = Eigen::JacobiSVD<dense>(tau).singularValues();
      const auto before = Eigen::JacobiSVD<dense>(matrices::sum_of(l.t)).singularValues();
      CHECK((s.array() - before.mean()).matrix().norm() <= e.slack + 100 * eps * s(0));
      // Of the sum alone, and linear in its size.
      check(catmerge::iso(l.base, matrices::list{matrices::sum_of(l.t) * 3}).merged,
            {3 * e.tau, 3 * e.slack});
      check(catmerge::iso(l.base, l.t, {iso_variant::c, 1.5}).merged, {1.5 * e.tau, 1.5 * e.slack});
    }
  generator g(20);
  // Three of six directions: the others stay zero and count in the mean, (3 + 2 + 1) / 6.
  const dense low = with_values(g, 6, 9, {3, 2, 1}), zero = dense::Zero(6, 9);
  const dense tau = catmerge::iso(zero, matrices::list{low}).merged;
  CHECK((tau - matrices::polar_of(low).polar).norm() <= 1e3 * eps);
  CHECK(catmerge::iso(zero, matrices::list{low, -low}).merged == zero);
}

TEST_CASE("Iso-CTS: the formula, and where it is Iso-C") {
  const auto cts = [](double common) {
    catmerge::iso_options o;
    o.variant = iso_variant::cts;
    o.common = common;
    return o;
  };
  for (const auto& [d_out, d_in] : {std::pair<index_t, index_t>{10, 12}, {12, 10}, {10, 10}}) {
    const given l(21, d_out, d_in, {1, 1, 1}), two(22, d_out, d_in, {1, 1});
    // r = 10: round(6 / 3), round(10 / 3), round(2 / 3), round(1 / 3) and none for three tasks.
    for (const auto& [common, own] :
         {std::pair<double, index_t>{0.4, 2}, {0.0, 3}, {0.8, 1}, {0.9, 0}, {1.0, 0}})
      check(catmerge::iso(l.base, l.t, cts(common)).merged, matrices::iso(l.t, own));
    // Halves go to the even number, as in Python: 1 / 2, 3 / 2, 5 / 2.
    for (const auto& [common, own] : {std::pair<double, index_t>{0.9, 0}, {0.7, 2}, {0.5, 2}})
      check(catmerge::iso(two.base, two.t, cts(common)).merged, matrices::iso(two.t, own));
    // One task has no direction of its own beside the common ones.
    const matrices::list one{l.t[0]};
    const auto e = matrices::iso(one, 0);
    check(catmerge::iso(l.base, one, cts(0.8)).merged, {e.tau, 10 * e.slack});
  }
  // 3 / 2 rounds to 2, and 2 * 2 > 3: one for each, and one common one.
  const given small(23, 3, 5, {1, 1});
  check(catmerge::iso(small.base, small.t, cts(0)).merged, matrices::iso(small.t, 1));
}

TEST_CASE("Iso-CTS: a task that lies in the common space has no remainder but rounding") {
  generator g(24);
  // Two tasks of rank 2 in 10 dimensions; the common space (six directions) holds both.
  const matrices::list t{random_of_rank(g, 10, 12, 2), random_of_rank(g, 10, 12, 2)};
  catmerge::iso_options o;
  o.variant = iso_variant::cts;
  o.common = 0.6;
  const dense zero = dense::Zero(10, 12);
  const dense tau = catmerge::iso(zero, t, o).merged;
  const auto e = matrices::iso(t, 0);
  REQUIRE(Eigen::JacobiSVD<dense>(tau).setThreshold(1e-6).rank() == 4);
  check(tau, {matrices::polar_of(matrices::sum_of(t)).polar *
                  (Eigen::JacobiSVD<dense>(matrices::sum_of(t)).singularValues().sum() / 10),
              e.slack + 1e3 * eps});
}

namespace {

double wudi_loss(const dense& tau, const matrices::list& t) {
  double loss = 0;
  for (const auto& x : t) loss += ((tau - x) * x.transpose()).squaredNorm() / x.squaredNorm();
  return loss;
}

dense wudi_gradient(const dense& tau, const matrices::list& t) {
  dense g = dense::Zero(tau.rows(), tau.cols());
  for (const auto& x : t) g += 2 * (tau - x) * x.transpose() * x / x.squaredNorm();
  return g;
}

/// Gradient descent from the sum of the vectors, whose rows span all that the loss sees; the step
/// is the inverse of the largest curvature.
dense wudi_descent(const matrices::list& t) {
  dense curvature = dense::Zero(t[0].cols(), t[0].cols());
  for (const auto& x : t) curvature += 2 * x.transpose() * x / x.squaredNorm();
  const double step = 1 / Eigen::JacobiSVD<dense>(curvature).singularValues()(0);
  dense tau = matrices::sum_of(t);
  for (int i = 0; i < 200000; ++i) {
    const dense g = wudi_gradient(tau, t);
    if (g.norm() <= 1e-14 * tau.norm()) break;
    tau -= step * g;
  }
  return tau;
}

/// As published: 300 steps of Adam, learning rate 1e-5.
dense wudi_adam(const matrices::list& t) {
  dense tau = matrices::sum_of(t), m = dense::Zero(tau.rows(), tau.cols()), v = m;
  for (int i = 1; i <= 300; ++i) {
    const dense g = wudi_gradient(tau, t);
    m = 0.9 * m + 0.1 * g;
    v = 0.999 * v + 0.001 * g.cwiseAbs2();
    const dense root = (v / (1 - std::pow(0.999, i))).cwiseSqrt();
    tau -= 1e-5 * (m / (1 - std::pow(0.9, i)))
                      .cwiseQuotient(root + dense::Constant(m.rows(), m.cols(), 1e-8));
  }
  return tau;
}

}  // namespace

TEST_CASE("WUDI: where the iteration ends that the authors begin") {
  for (const auto& [d_out, d_in] : {std::pair<index_t, index_t>{8, 5}, {3, 12}, {6, 6}}) {
    const given l(25, d_out, d_in, {1, 1, 1});
    const auto [tau, report] = catmerge::wudi(l.base, l.t);
    CHECK(report.fallback == catmerge::fallback_rule::none);
    const auto e = matrices::wudi(l.t);
    check(tau, e);
    const dense end = wudi_descent(l.t);
    // Both are as near to the minimum as their gradients are small, relative to the curvature.
    CHECK((tau - end).norm() <= 1e-7 * end.norm());
    CHECK(wudi_gradient(tau, l.t).norm() <= 1e3 * eps * tau.norm() + e.slack);
    const double least = wudi_loss(tau, l.t);
    generator g(26);
    for (int i = 0; i < 20; ++i)
      CHECK(wudi_loss(tau + g.matrix(d_out, d_in, 1e-3), l.t) >= least * (1 - 1e-12));

    // The published method moves from the sum towards it, and stops early.
    matrices::list small;
    for (const auto& t : l.t) small.push_back(0.01 * t);
    const dense published = wudi_adam(small), sum = matrices::sum_of(small);
    // A step of Adam is at most (1 - 0.9) / sqrt(1 - 0.999) times the learning rate (Kingma & Ba,
    // ICLR 2015, section 2.1).
    CHECK((published - sum).cwiseAbs().maxCoeff() <= 300 * 1e-5 * 0.1 / std::sqrt(0.001));
    CHECK(wudi_loss(published, small) < wudi_loss(sum, small));
    CHECK(wudi_loss(catmerge::wudi(l.base, small).merged, small) < wudi_loss(published, small));
  }
}

TEST_CASE("WUDI: one task is itself, equal ones too, zero ones have no say") {
  for (const auto& [d_out, d_in] : {std::pair<index_t, index_t>{8, 5}, {3, 12}, {1, 1}}) {
    const given l(27, d_out, d_in, {1, 1});
    const matrices::list one{l.t[0]}, both{l.t[0], dense::Zero(d_out, d_in)}, twice{l.t[0], l.t[0]};
    const double slack = matrices::wudi(one).slack;
    check(catmerge::wudi(l.base, one).merged, {l.t[0], slack});
    check(catmerge::wudi(l.base, both).merged, {l.t[0], slack});
    check(catmerge::wudi(l.base, twice).merged, {l.t[0], slack});
    check(catmerge::wudi(l.base, matrices::list{1e-3 * l.t[0], 2e3 * l.t[1]}, {0.5}).merged, [&] {
      auto e = matrices::wudi({1e-3 * l.t[0], 2e3 * l.t[1]});
      e.tau *= 0.5;
      return e;
    }());
    const matrices::list none(2, dense::Zero(d_out, d_in));
    CHECK(catmerge::wudi(l.base, none).merged == l.base);
    CHECK(catmerge::wudi(l.base, none).report.fallback == catmerge::fallback_rule::none);
  }
}

namespace {

catmerge::wudi_options swudi_options(double time, double share) {
  catmerge::wudi_options o;
  o.variant = catmerge::wudi_variant::swudi;
  o.time = time;
  o.share = share;
  return o;
}

catmerge::wudi_options aswudi_options(double alpha = 1) {
  catmerge::wudi_options o;
  o.variant = catmerge::wudi_variant::aswudi;
  o.alpha = alpha;
  return o;
}

/// The gradient flow of half of WUDI's objective from the sum, by Runge and Kutta's fourth order.
dense wudi_flow(const matrices::list& t, double time, int steps) {
  dense tau = matrices::sum_of(t);
  const double h = time / steps;
  const auto slope = [&](const dense& at) { return dense(-0.5 * wudi_gradient(at, t)); };
  for (int i = 0; i < steps; ++i) {
    const dense a = slope(tau), b = slope(tau + h / 2 * a), c = slope(tau + h / 2 * b),
                d = slope(tau + h * c);
    tau += h / 6 * (a + 2 * b + 2 * c + d);
  }
  return tau;
}

}  // namespace

TEST_CASE("SWUDI: the gradient flow, and the formula for a share of the directions") {
  for (const auto& [d_out, d_in] : {std::pair<index_t, index_t>{8, 5}, {3, 12}, {6, 6}}) {
    const given l(40, d_out, d_in, {1, 1, 1});
    for (const double time : {0.5, 3.0, 20.0}) {
      const auto [tau, report] = catmerge::wudi(l.base, l.t, swudi_options(time, 1));
      CHECK(report.fallback == catmerge::fallback_rule::none);
      check(tau, matrices::swudi(l.t, time, d_in));
      const dense flow = wudi_flow(l.t, time, 4000);
      CHECK((tau - flow).norm() <= 1e-9 * flow.norm());
      for (const double share : {0.01, 0.3, 0.65, 0.8})
        check(catmerge::wudi(l.base, l.t, swudi_options(time, share)).merged,
              matrices::swudi(l.t, time,
                              static_cast<index_t>(std::ceil(share * static_cast<double>(d_in)))));
    }
    // A short flow stays at the sum; a long one comes to WUDI.
    const dense sum = matrices::sum_of(l.t);
    CHECK((catmerge::wudi(l.base, l.t, swudi_options(1e-9, 1)).merged - sum).norm() <=
          1e-7 * sum.norm());
    const auto e = matrices::wudi(l.t);
    check(catmerge::wudi(l.base, l.t, swudi_options(1e9, 1)).merged, e);
  }
}

TEST_CASE("SWUDI: the share is rounded as in the authors' code") {
  // Orthogonal rows: eigenvalue and direction are clear. 0.55 of 20 is 11, not 12, though the
  // product of doubles is above 11.
  const index_t d = 20;
  dense t = dense::Zero(d, d);
  for (index_t j = 0; j < d; ++j) t(j, j) = static_cast<double>(d - j);
  const matrices::list twice{t, t};  // the sum is 2 T, the minimiser T
  const dense tau =
      catmerge::wudi(dense(dense::Zero(d, d)), twice, swudi_options(1e9, 0.55)).merged;
  for (index_t j = 0; j < d; ++j)
    CHECK(tau(j, j) == doctest::Approx(j < 11 ? t(j, j) : 2 * t(j, j)).epsilon(1e-12));
}

TEST_CASE("ASWUDI: the minimiser where the spectrum is, the sum elsewhere") {
  for (const auto& [d_out, d_in] : {std::pair<index_t, index_t>{8, 5}, {3, 12}, {6, 6}, {1, 1}})
    for (const std::size_t tasks : {1U, 2U, 3U}) {
      if (std::cmp_less((std::min)(d_out, d_in), tasks)) continue;  // a vector
      const given l(41, d_out, d_in, std::vector<index_t>(tasks, 1));
      const auto [tau, report] = catmerge::wudi(l.base, l.t, aswudi_options());
      CHECK(report.fallback == catmerge::fallback_rule::none);
      auto e = matrices::aswudi(l.t);
      check(tau, e);
      if (tasks == 1) check(tau, {l.t[0], e.slack});
      check(catmerge::wudi(l.base, l.t, aswudi_options(0.5)).merged, {0.5 * e.tau, e.slack});
      // Every task's vector counts by its direction alone where the minimiser is taken.
      matrices::list larger;
      for (const auto& t : l.t) larger.push_back(1e3 * t);
      check(catmerge::wudi(l.base, larger, aswudi_options()).merged, {1e3 * e.tau, 1e3 * e.slack});
    }
  // A flat spectrum keeps all of its directions: WUDI. A steep one keeps few: here two of four,
  // (1 + .1 + .01 + .001)^2 / (1 + .01 + ...) = 1.22.
  dense flat = dense::Identity(4, 4), steep = flat;
  for (index_t j = 0; j < 4; ++j) steep(j, j) = std::pow(0.1, static_cast<double>(j));
  const dense zero = dense::Zero(4, 4);
  CHECK((catmerge::wudi(zero, matrices::list{flat, flat}, aswudi_options()).merged - flat).norm() <=
        1e3 * eps);
  dense expected = 2 * steep;
  expected.topLeftCorner(2, 2) = steep.topLeftCorner(2, 2);
  CHECK((catmerge::wudi(zero, matrices::list{steep, steep}, aswudi_options()).merged - expected)
            .norm() <= 1e3 * eps);
  // Nothing at all; and a zero vector has no say.
  CHECK(catmerge::wudi(zero, matrices::list{zero, zero}, aswudi_options()).merged == zero);
  CHECK((catmerge::wudi(zero, matrices::list{flat, zero}, aswudi_options()).merged - flat).norm() <=
        1e3 * eps);
}

TEST_CASE("ACTMat: the minimiser that large tasks pull to") {
  catmerge::wudi_options o;
  o.variant = catmerge::wudi_variant::actmat;
  for (const auto& [d_out, d_in] : {std::pair<index_t, index_t>{8, 5}, {3, 12}, {6, 6}}) {
    given l(42, d_out, d_in, {1, 1, 1});
    l.t[1] *= 10;
    const auto [tau, report] = catmerge::wudi(l.base, l.t, o);
    CHECK(report.fallback == catmerge::fallback_rule::none);
    check(tau, matrices::actmat(l.t));
    CHECK((tau - l.t[1]).norm() < (catmerge::wudi(l.base, l.t).merged - l.t[1]).norm());
    // Of one size they are WUDI's.
    for (auto& t : l.t) t /= t.norm();
    auto e = matrices::wudi(l.t);
    check(catmerge::wudi(l.base, l.t, o).merged, {e.tau, 2 * e.slack});
  }
  // Linears alone; the mean of all else. A zero vector has no say.
  const given l(43, 4, 3, {1, 1});
  const auto p = problem_of(layer_kind::other, l.base, l.t);
  const auto [merged, report] = merge(catmerge::wudi_method{o}, p);
  CHECK((merged - mean_of(l.t)).norm() <= 10 * eps);
  CHECK(report.fallback == catmerge::fallback_rule::mean);
  CHECK_FALSE(catmerge::sees_matrices(catmerge::wudi_method{o}));
  const matrices::list none(2, l.base);
  CHECK(catmerge::wudi(l.base, none, o).merged == l.base);
}

TEST_CASE("what is no matrix, or too small for the number of tasks") {
  generator g(28);
  const dense base = g.matrix(6, 1), table = g.matrix(6, 4);
  matrices::list vectors, tables;
  for (int k = 0; k < 3; ++k) {
    vectors.push_back(base + g.matrix(6, 1));
    tables.push_back(table + g.matrix(6, 4));
  }
  const auto is_mean = [](const auto& result, const matrices::list& experts) {
    const dense mean = mean_of(experts);
    CHECK((result.first - mean).norm() <= 10 * eps * mean.norm() * 3);
    CHECK(result.second.fallback == catmerge::fallback_rule::mean);
  };
  for (const auto kind : {layer_kind::scale, layer_kind::shift, layer_kind::other}) {
    const auto p = problem_of(kind, base, vectors);
    is_mean(merge(catmerge::tsv_m_method{}, p), vectors);
    is_mean(merge(catmerge::iso_method{}, p), vectors);
    is_mean(merge(catmerge::wudi_method{swudi_options(300, 0.65)}, p), vectors);
    is_mean(merge(catmerge::wudi_method{aswudi_options()}, p), vectors);
    const auto [merged, report] = merge(catmerge::wudi_method{}, p);
    CHECK(same_bits(merged, base));
    CHECK(report.fallback == catmerge::fallback_rule::base);
    CHECK(report.kind == kind);
  }
  // A table of kind `other` is a matrix for all but WUDI.
  const auto p = problem_of(layer_kind::other, table, tables);
  CHECK(same_bits(merge(catmerge::tsv_m_method{}, p).first, catmerge::tsv_m(table, tables).merged));
  CHECK(merge(catmerge::tsv_m_method{}, p).second.fallback == catmerge::fallback_rule::none);
  CHECK(same_bits(merge(catmerge::iso_method{}, p).first, catmerge::iso(table, tables).merged));
  CHECK(same_bits(merge(catmerge::wudi_method{}, p).first, table));
  CHECK(same_bits(merge(catmerge::wudi_method{aswudi_options()}, p).first,
                  catmerge::wudi(table, tables, aswudi_options()).merged));
  CHECK_FALSE(catmerge::sees_matrices(catmerge::wudi_method{}));
  CHECK(catmerge::sees_matrices(catmerge::wudi_method{aswudi_options()}));

  // r < K: rows, columns, linears and tables are vectors for the methods of singular
  // directions. (As matrices a row and a column would get alpha times the sum from Iso-C.)
  catmerge::iso_options cts;
  cts.variant = iso_variant::cts;
  const std::vector<std::pair<index_t, index_t>> thin{{2, 5}, {5, 2}, {1, 6}, {6, 1}};
  for (const auto& [d_out, d_in] : thin)
    for (const auto kind : {layer_kind::linear, layer_kind::other}) {
      const given l(29, d_out, d_in, {1, 1, 1});
      const auto few = problem_of(kind, l.base, l.t);
      is_mean(merge(catmerge::tsv_m_method{}, few), l.t);
      is_mean(merge(catmerge::iso_method{}, few), l.t);
      is_mean(merge(catmerge::iso_method{cts}, few), l.t);
      is_mean(merge(catmerge::dc_merge_method{}, few), l.t);
      is_mean(merge(catmerge::wudi_method{aswudi_options()}, few), l.t);
      const auto [longer, report] = merge(catmerge::iso_method{{iso_variant::c, 2.5}}, few);
      CHECK((longer - 2.5 * mean_of(l.t)).norm() <= 30 * eps * mean_of(l.t).norm());
    }
  // r = K is enough for a matrix, and so is one row for one task.
  const given enough(30, 3, 5, {1, 1, 1}), row(30, 1, 5, {1});
  for (const auto& l : {enough, row}) {
    const auto fit = problem_of(layer_kind::linear, l.base, l.t);
    CHECK(merge(catmerge::tsv_m_method{}, fit).second.fallback == catmerge::fallback_rule::none);
    CHECK(merge(catmerge::iso_method{}, fit).second.fallback == catmerge::fallback_rule::none);
  }
  // Two parts of two rows, three tasks: four rows are enough for one matrix, two are not.
  const given fused(31, 4, 7, {1, 1, 1});
  auto parts = problem_of(layer_kind::linear, fused.base, fused.t);
  parts.parts = 2;
  catmerge::iso_options split;
  split.fused = fused_weights::split;
  is_mean(merge(catmerge::iso_method{split}, parts), fused.t);
  is_mean(merge(catmerge::tsv_m_method{{1, fused_weights::split}}, parts), fused.t);
  CHECK(merge(catmerge::iso_method{}, parts).second.fallback == catmerge::fallback_rule::none);
}

TEST_CASE("fused weights: as one matrix by default, or each alone") {
  const given q(31, 4, 7, {3, 4}), k(32, 4, 7, {3, 4});
  given fused(33, 8, 7, {3, 4});
  for (std::size_t i = 0; i < 2; ++i) fused.t[i] << q.t[i], k.t[i];
  auto p = problem_of(layer_kind::linear, fused.base, fused.t);
  p.parts = 2;
  const auto is_split = [&](auto method, const auto& call) {
    CHECK(same_bits(merge(method, p).first, dense(call(fused.base, fused.t).merged)));
    method.options.fused = fused_weights::split;
    dense both(8, 7);
    both << call(q.base, q.t).merged, call(k.base, k.t).merged;
    CHECK((merge(method, p).first - both).norm() <= 10 * eps * both.norm());
  };
  is_split(catmerge::tsv_m_method{}, catmerge::tsv_m);
  is_split(catmerge::iso_method{}, catmerge::iso);
  is_split(catmerge::wudi_method{}, catmerge::wudi);
  // Linears of one input come out of LOT and RegMean as they would alone.
  for (const auto& x : fused.x)
    p.statistics.push_back(
        {statistics_form::rows, catmerge::const_view_of(x), static_cast<double>(x.rows())});
  dense both(8, 7);
  both << catmerge::lot_linear(q.base, q.t, fused.x).merged,
      catmerge::lot_linear(k.base, k.t, fused.x).merged;
  CHECK((merge(catmerge::lot_method{}, p).first - both).norm() <= 1e3 * eps * both.norm());
}

TEST_CASE("options that make no sense, and values that are not finite") {
  const given l(34, 4, 5, {3, 3});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto refuses = [](const auto& call, const char* why) {
    CHECK_THROWS_WITH_AS(call(), why, catmerge::error);
  };
  refuses([&] { catmerge::lot_linear(l.base, l.t, l.x, {nan}); },
          "LOT: alpha must be a finite number");
  for (const double ridge : {nan, -1e-3, std::numeric_limits<double>::infinity()})
    refuses(
        [&] {
          catmerge::lot_linear(l.base, l.t, l.x, {1, ridge});
        },
        "LOT: ridge must be a finite number, 0 or more");
  refuses([&] { catmerge::tsv_m(l.base, l.t, {nan}); }, "TSV-M: alpha must be a finite number");
  refuses(
      [&] {
        catmerge::iso(l.base, l.t, {iso_variant::c, nan});
      },
      "Iso: alpha must be a finite number");
  refuses([&] { catmerge::wudi(l.base, l.t, {nan}); }, "WUDI: alpha must be a finite number");
  for (const double time : {nan, 0.0, -1.0, std::numeric_limits<double>::infinity()})
    refuses([&] { catmerge::wudi(l.base, l.t, swudi_options(time, 0.5)); },
            "SWUDI: time must be a finite number above 0");
  for (const double share : {nan, 0.0, 1.1})
    refuses([&] { catmerge::wudi(l.base, l.t, swudi_options(300, share)); },
            "SWUDI: share must be above 0 and at most 1");
  for (const double a : {nan, -0.1, 1.1}) {
    refuses([&] { catmerge::regmean_linear(l.base, l.t, l.x, {a}); },
            "RegMean: off_diagonal must be from 0 to 1");
    refuses(
        [&] {
          catmerge::iso(l.base, l.t, {iso_variant::cts, 1, a});
        },
        "Iso: common must be from 0 to 1");
  }
  auto x = l.x;
  x[1](0, 0) = nan;
  const char* features = "the parameter: features of 'task 1' hold a value that is not finite";
  refuses([&] { catmerge::lot_linear(l.base, l.t, x); }, features);
  refuses([&] { catmerge::regmean_linear(l.base, l.t, x); }, features);
  auto t = l.t;
  t[1](0, 0) = 1e200;
  refuses([&] { catmerge::wudi(l.base, t); },
          "the parameter: expert 'task 1': the squared norm of its task vector overflows float64");
  refuses([&] { catmerge::iso(l.base, t); }, "a Gram matrix overflows float64");
  const std::vector<catmerge::statistics_view<>> moments(
      2, {statistics_form::second_moment, catmerge::const_view_of(l.base), 1});
  CHECK_THROWS_AS(catmerge::lot_linear(l.base, l.t, moments), catmerge::error);
  CHECK_THROWS_AS(catmerge::lot_linear(l.base, l.t, matrices::list{l.x[0]}), catmerge::error);
}

TEST_CASE_TEMPLATE("on every storage type", B, eigen_backend<double>, eigen_backend<float>,
                   eigen_backend<catmerge::half>, eigen_backend<catmerge::bfloat16>) {
  suite::matrix_methods<B>();
}

TEST_CASE_TEMPLATE("on the device, and on several threads: the same bits", S, double, float) {
  using device_matrix = fake_tensor<2>;
  using device_vector = fake_tensor<1>;
  const auto l = random_linear<S>(35, 300, 280, {6, 12, 290});
  const auto upload = [](const auto& all) {
    std::vector<device_matrix> list;
    for (const auto& m : all) list.push_back(device_matrix::upload(m));
    return list;
  };
  const auto base = device_matrix::upload(l.base);
  const auto experts = upload(l.experts), features = upload(l.features);
  const std::vector<matrix_of<S>> two{l.experts[0], l.experts[1]},
      rows{l.features[0], l.features[1]};
  const auto d_two = upload(two), d_rows = upload(rows);
  std::atomic<int> calls = 0;
  auto threads = catmerge::context<catmerge::host>(scrambled(3, &calls));
  const auto same = [&](const auto& on_device, const auto& on_host, const auto& on_threads) {
    CHECK(same_bits(on_device.merged.template download<S>(), on_host.merged));
    CHECK(same_bits(on_threads.merged, on_host.merged));
  };
  same(catmerge::lot_linear(base, experts, features),
       catmerge::lot_linear(l.base, l.experts, l.features),
       catmerge::lot_linear(l.base, l.experts, l.features, {}, threads));
  for (const auto& options : {catmerge::lot_options{}, without_ridge})
    same(catmerge::lot_linear(base, d_two, d_rows, options),
         catmerge::lot_linear(l.base, two, rows, options),
         catmerge::lot_linear(l.base, two, rows, options, threads));
  for (const double a : {0.9, 1.0})
    same(catmerge::regmean_linear(base, d_two, d_rows, {a}),
         catmerge::regmean_linear(l.base, two, rows, {a}),
         catmerge::regmean_linear(l.base, two, rows, {a}, threads));
  same(catmerge::tsv_m(base, experts), catmerge::tsv_m(l.base, l.experts),
       catmerge::tsv_m(l.base, l.experts, {}, threads));
  for (const auto variant : {iso_variant::c, iso_variant::cts})
    same(catmerge::iso(base, experts, {variant}), catmerge::iso(l.base, l.experts, {variant}),
         catmerge::iso(l.base, l.experts, {variant}, threads));
  same(catmerge::wudi(base, experts), catmerge::wudi(l.base, l.experts),
       catmerge::wudi(l.base, l.experts, {}, threads));
  for (const auto& o : {swudi_options(300, 0.65), aswudi_options()})
    same(catmerge::wudi(base, experts, o), catmerge::wudi(l.base, l.experts, o),
         catmerge::wudi(l.base, l.experts, o, threads));

  const auto v = random_vector<S>(36, 30, {6, 12});
  std::vector<device_vector> scales;
  for (const auto& e : v.experts) scales.push_back(device_vector::upload(e));
  same(catmerge::lot_scale(device_vector::upload(v.base), scales, upload(v.features)),
       catmerge::lot_scale(v.base, v.experts, v.features),
       catmerge::lot_scale(v.base, v.experts, v.features, {}, threads));
  CHECK(calls > 0);
}
