// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/factors/cat.hpp>
#include <catmerge/factors/conflict.hpp>
#include <catmerge/features/conflict.hpp>
#include <catmerge/methods/cat.hpp>

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
