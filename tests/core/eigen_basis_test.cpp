// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <Spectra/MatOp/DenseSymMatProd.h>
#include <Spectra/SymEigsSolver.h>
#include <Eigen/Eigenvalues>
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/numeric/eigen_search.hpp>
#include <catmerge/tensor/host/host.hpp>

#include <string>

#include "support/data.hpp"
#include "support/tolerance.hpp"

using namespace test;

namespace {

using host_context = catmerge::context<catmerge::host>;

struct found_pairs {
  std::vector<double> values;
  Eigen::MatrixXd vectors;
  double magnitude = 0, residual = 0;
  index_t products = 0;
  bool converged = false;
};

found_pairs largest(const Eigen::MatrixXd& g, index_t count,
                    const catmerge::eigen_options& options = {}) {
  host_context c;
  index_t columns = 0;
  auto pairs = catmerge::largest_eigenpairs(
      c, g.rows(), count,
      [&](host_context::const_view x, host_context::view y) {
        columns += c.rows(x);
        c.from_host(c.to_host(x) * g, y);
      },
      options);
  CHECK(columns == pairs.products);
  return {pairs.values,   c.to_host(pairs.vectors), pairs.magnitude,
          pairs.residual, pairs.products,           pairs.converged};
}

/// A symmetric matrix with the given eigenvalues and random eigenvectors.
Eigen::MatrixXd with_spectrum(const std::vector<double>& values, std::uint64_t seed) {
  const auto n = static_cast<index_t>(values.size());
  const Eigen::MatrixXd q = generator(seed).orthonormal(n, n);
  const Eigen::MatrixXd g =
      q * Eigen::Map<const Eigen::VectorXd>(values.data(), n).asDiagonal() * q.transpose();
  return 0.5 * (g + g.transpose());
}

/// The spectrum of G_k for tasks with similar features: the positive values are a
/// thousandth of the largest magnitude and 3 % apart, all others lie below without gaps.
std::vector<double> without_gaps(index_t positive, index_t size) {
  std::vector<double> values;
  for (index_t i = 0; i < size; ++i)
    values.push_back(i < positive ? 1e-3 * std::pow(0.97, static_cast<double>(i))
                                  : -std::pow(0.97, static_cast<double>(i - positive)));
  return values;
}

/// Residuals, orthonormality, and the very eigenvalues that the dense solver calls the largest.
void check_pairs(const Eigen::MatrixXd& g, index_t count) {
  const auto found = largest(g, count);
  const index_t n = g.rows(), expected = std::min(count, n);
  REQUIRE(found.converged);
  REQUIRE(static_cast<index_t>(found.values.size()) == expected);
  REQUIRE(found.vectors.rows() == n);
  REQUIRE(found.vectors.cols() == expected);
  if (expected == 0) return;
  const Eigen::VectorXd dense = Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(g).eigenvalues();
  const double size = dense.cwiseAbs().maxCoeff();
  // The magnitude is that of what was seen: of the leading pairs at least, of the norm at most.
  CHECK(found.magnitude <= size * (1 + tolerance::eigenvalue));
  CHECK(found.residual <= tolerance::residual);
  const Eigen::MatrixXd defect =
      found.vectors.transpose() * found.vectors - Eigen::MatrixXd::Identity(expected, expected);
  CHECK(defect.cwiseAbs().maxCoeff() <= tolerance::orthonormal<double>);
  for (index_t j = 0; j < expected; ++j) {
    CHECK(std::abs(found.values[at(j)] - dense(n - 1 - j)) <= tolerance::eigenvalue * size);
    CHECK((g * found.vectors.col(j) - found.values[at(j)] * found.vectors.col(j)).norm() <=
          (tolerance::residual + 64 * tolerance::eps<double>)*size);
    if (j > 0) CHECK(found.values[at(j)] <= found.values[at(j - 1)]);
  }
}

std::vector<double> repeated(double value, index_t count, std::vector<double> rest) {
  rest.insert(rest.end(), at(count), value);
  return rest;
}

}  // namespace

TEST_CASE("largest_eigenpairs: random matrices of many sizes and counts") {
  for (const index_t n : {1, 2, 3, 4, 5, 7, 8, 9, 16, 40, 65, 130, 200})
    for (const index_t count : {0, 1, 2, 4, 9, 300}) {
      if (count == 300 && n > 65) continue;
      CAPTURE(n);
      CAPTURE(count);
      const Eigen::MatrixXd m =
          generator(static_cast<std::uint64_t>(n * 1000 + count)).matrix(n, n);
      check_pairs(m + m.transpose(), count);
    }
}

TEST_CASE("largest_eigenpairs: spectra that are hard on a Krylov method") {
  std::uint64_t seed = 1;
  const auto spread = [](index_t n, double low, double high) {
    std::vector<double> v;
    for (index_t i = 0; i < n; ++i)
      v.push_back(low + (high - low) * static_cast<double>(i) / static_cast<double>(n));
    return v;
  };
  const auto joined = [](std::vector<double> a, const std::vector<double>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  const std::vector<double> bulk = spread(90, -1, 0.5);
  const std::vector<std::pair<const char*, std::vector<double>>> spectra{
      {"repeated, fewer than a block", repeated(2, 3, bulk)},
      {"repeated, as many as wanted", repeated(2, 4, bulk)},
      {"repeated, more than a block", repeated(2, 30, bulk)},
      {"two repeated values", repeated(2, 2, repeated(1.5, 6, bulk))},
      {"a tight cluster", joined(bulk, {1, 1 + 1e-5, 1 + 2e-5, 1 + 3e-5, 1 + 4e-5, 1 + 5e-5})},
      {"a cluster at rounding", joined(bulk, {1, 1 + 1e-14, 1 + 2e-14, 1 - 1e-14, 1 - 2e-14})},
      {"all negative", spread(100, -3, -1)},
      {"all negative and repeated", std::vector<double>(60, -2)},
      {"identity", std::vector<double>(60, 1)},
      {"zero", std::vector<double>(50, 0)},
      {"rank one", joined(std::vector<double>(80, 0), {3})},
      {"rank eight", joined(std::vector<double>(80, 0), {8, 7, 6, 5, 4, 3, 2, 1})},
      {"rank eight, all negative",
       joined(std::vector<double>(80, 0), {-8, -7, -6, -5, -4, -3, -2, -1})},
      {"rank two, mixed signs", joined(std::vector<double>(80, 0), {1, -5})},
      {"a large negative end", joined(spread(60, -1000, -1), {1, 2, 3, 4, 5, 6})},
      {"the negative end of lambda 5 with few rows",
       joined(spread(16, -50, -1),
              joined(std::vector<double>(70, 0), {9, 7, 5, 3, 1, .5, .3, .1}))},
      {"geometric decay",
       [] {
         std::vector<double> v;
         for (int i = 0; i < 100; ++i) v.push_back(std::pow(0.8, i));
         return v;
       }()},
      // (Squares of residuals must not underflow: float weights stay above 1e-90.)
      {"tiny all over", repeated(1e-140, 2, std::vector<double>(40, 1e-143))},
      {"huge all over", repeated(1e150, 2, std::vector<double>(40, 1e148))},
  };
  for (const auto& spectrum : spectra) {
    const std::string name = spectrum.first;
    CAPTURE(name);
    for (const index_t count : {1, 4}) check_pairs(with_spectrum(spectrum.second, ++seed), count);
  }
}

#ifndef EIGEN_DEFAULT_TO_ROW_MAJOR  // which Spectra itself does not reckon with
TEST_CASE("largest_eigenpairs: Spectra finds the same") {
  for (const std::uint64_t seed : seeds) {
    const index_t n = 120, count = 4;
    const Eigen::MatrixXd m = generator(seed).matrix(n, n);
    const Eigen::MatrixXd g = m + m.transpose();
    Spectra::DenseSymMatProd<double> product(g);
    Spectra::SymEigsSolver<Spectra::DenseSymMatProd<double>> spectra(product, count, 30);
    spectra.init();
    spectra.compute(Spectra::SortRule::LargestAlge, 1000, 1e-12);
    REQUIRE(spectra.info() == Spectra::CompInfo::Successful);
    const auto found = largest(g, count);
    const double size = found.magnitude;
    const Eigen::VectorXd values = spectra.eigenvalues();
    for (index_t j = 0; j < count; ++j)
      CHECK(std::abs(found.values[at(j)] - values(j)) <= tolerance::eigenvalue * size);
    const double gap = (values(count - 1) - largest(g, count + 1).values.back()) / size;
    REQUIRE(gap > 1e-3);
    const Eigen::MatrixXd theirs = spectra.eigenvectors(), ours = found.vectors;
    CHECK((ours * ours.transpose() - theirs * theirs.transpose()).norm() <=
          tolerance::subspace(gap));
  }
}
#endif

TEST_CASE("largest_eigenpairs: the same twice, another start gives the same subspace") {
  const Eigen::MatrixXd m = generator(9).matrix(90, 90);
  const Eigen::MatrixXd g = m + m.transpose();
  const auto once = largest(g, 3), again = largest(g, 3);
  CHECK(same_bits(once.values, again.values));
  CHECK(same_bits(once.vectors, again.vectors));
  catmerge::eigen_options other;
  other.seed = 12345;
  const auto elsewhere = largest(g, 3, other);
  CHECK_FALSE(same_bits(once.vectors, elsewhere.vectors));
  const double gap = (once.values[2] - largest(g, 4).values[3]) / once.magnitude;
  const Eigen::MatrixXd p = once.vectors * once.vectors.transpose(),
                        q = elsewhere.vectors * elsewhere.vectors.transpose();
  CHECK((p - q).norm() <= tolerance::subspace(gap));
}

TEST_CASE("largest_eigenpairs: a tighter tolerance is kept, a budget too small is said") {
  const Eigen::MatrixXd m = generator(10).matrix(150, 150);
  const Eigen::MatrixXd g = m + m.transpose();
  catmerge::eigen_options tight;
  tight.tolerance = 1e-12;
  const auto found = largest(g, 2, tight);
  CHECK(found.converged);
  CHECK(found.residual <= 1e-12);
  CHECK(found.products > largest(g, 2).products);
  catmerge::eigen_options poor;
  poor.products = 10;
  const auto stopped = largest(g, 2, poor);
  CHECK_FALSE(stopped.converged);
  CHECK(stopped.products <= 10 + 6);  // at most one block beyond
}

TEST_CASE("largest_eigenpairs: far cheaper than size products on a layer's spectrum") {
  // A spectrum of G_k: a few large positive values, many zeros, a longer negative end.
  std::vector<double> values(600, 0.0);
  for (index_t i = 0; i < 60; ++i) values[at(i)] = -5.0 * std::pow(0.9, static_cast<double>(i));
  for (index_t i = 0; i < 30; ++i) values[at(100 + i)] = std::pow(0.8, static_cast<double>(i));
  const auto found = largest(with_spectrum(values, 11), 4);
  CHECK(found.converged);
  CHECK(found.products < 300);
}

TEST_CASE("largest_eigenpairs: small values beside a large negative end, without gaps") {
  const auto values = without_gaps(100, 600);
  const Eigen::MatrixXd g = with_spectrum(values, 13);
  catmerge::eigen_options options;
  options.tolerance = 1e-6;
  const auto found = largest(g, 4, options);
  CHECK(found.converged);
  CHECK(found.magnitude == doctest::Approx(1).epsilon(1e-6));
  for (index_t j = 0; j < 4; ++j) {
    CHECK((g * found.vectors.col(j) - found.values[at(j)] * found.vectors.col(j)).norm() <= 1.1e-6);
    // A Ritz value is off by at most the residual's square over the gap (2.7e-5), here 4e-8.
    CHECK(std::abs(found.values[at(j)] - values[at(j)]) <= 4e-8);
  }
  CHECK(found.products < 400);  // 321; with a basis of 96 vectors 1760
}

TEST_CASE("eigen_search: what it has can be looked at after every step, restarts among them") {
  host_context c;
  const Eigen::MatrixXd g = with_spectrum(without_gaps(50, 320), 15);
  catmerge::eigen_options options;
  options.tolerance = 1e-13;
  options.products = 600;
  catmerge::eigen_search<host_context> search(c, 320, 4, options);
  while (!search.done()) {
    c.from_host(c.to_host(search.block()) * g, search.product());
    search.advance();
    const auto found = search.result();
    const Eigen::MatrixXd v = c.to_host(found.vectors), kept = c.to_host(search.kept());
    const index_t n = v.cols(), k = kept.rows();
    REQUIRE(k >= n);
    CHECK((v.transpose() * v - Eigen::MatrixXd::Identity(n, n)).norm() <= 1e-12);
    CHECK((kept * kept.transpose() - Eigen::MatrixXd::Identity(k, k)).norm() <= 1e-11);
    for (index_t j = 0; j < n; ++j) {
      const double left = (g * v.col(j) - found.values[at(j)] * v.col(j)).norm();
      CHECK(left <= (found.residual + 1e-13) * found.magnitude * 1.01);
    }
  }
  CHECK(search.products() > 256);  // there has been a restart
}

TEST_CASE("eigen_search: what a restart keeps is a start that loses little, and fits in any size") {
  host_context c;
  for (const index_t n : {index_t(300), index_t(41), index_t(6), index_t(3)}) {
    std::vector<double> values;
    for (index_t i = 0; i < n; ++i) values.push_back(std::pow(0.95, static_cast<double>(i)) - 0.5);
    const Eigen::MatrixXd g = with_spectrum(values, 14);
    catmerge::eigen_options options;
    options.tolerance = 1e-5;
    catmerge::eigen_search<host_context> first(c, n, 4, options);
    const auto run = [&](catmerge::eigen_search<host_context>& search) {
      while (!search.done()) {
        c.from_host(c.to_host(search.block()) * g, search.product());
        search.advance();
      }
    };
    run(first);
    const auto kept = first.kept();
    CAPTURE(n);
    CHECK(c.rows(kept) <= n);
    CHECK(c.rows(kept) >= std::min<index_t>(n, 4));
    options.tolerance = 1e-10;
    catmerge::eigen_search<host_context> second(c, n, 4, options, catmerge::host_const_view(kept),
                                                first.magnitude());
    run(second);
    catmerge::eigen_search<host_context> alone(c, n, 4, options);
    run(alone);
    const auto found = second.result();
    CHECK(found.converged);
    CHECK(found.residual <= 1e-10);
    for (index_t j = 0; j < std::min<index_t>(4, n); ++j)
      CHECK(std::abs(found.values[at(j)] - values[at(j)]) <= 1e-10);
    if (n < 300) {
      CHECK(alone.products() <= n);  // the whole space, without a restart
    } else {
      CHECK(c.rows(kept) > 4);
      CHECK(found.products < alone.result().products);
    }
  }
}

TEST_CASE("eigen_search: side by side, or from a given start, searches find what they find alone") {
  host_context c;
  std::vector<Eigen::MatrixXd> matrices;
  for (const std::uint64_t seed : seeds) {
    const Eigen::MatrixXd m = generator(seed).matrix(100, 100);
    matrices.push_back(m + m.transpose());
  }
  catmerge::eigen_options options;
  std::vector<catmerge::eigen_search<host_context>> together;
  for (std::size_t i = 0; i < matrices.size(); ++i) together.emplace_back(c, 100, 3, options);
  const auto multiply = [&](catmerge::eigen_search<host_context>& search,
                            const Eigen::MatrixXd& g) {
    c.from_host(c.to_host(search.block()) * g, search.product());
    search.advance();
  };
  for (bool any = true; any;) {
    any = false;
    for (std::size_t i = 0; i < matrices.size(); ++i)
      if (!together[i].done()) multiply(together[i], matrices[i]), any = true;
  }
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const auto alone = largest(matrices[i], 3);
    const auto found = together[i].result();
    CHECK(same_bits(found.values, alone.values));
    CHECK(same_bits(c.to_host(found.vectors), alone.vectors));
    CHECK(found.products == alone.products);
    // From what was found, one product tells that it is right.
    const auto start = together[i].leading();
    catmerge::eigen_search<host_context> again(c, 100, 3, options,
                                               catmerge::host_const_view(start));
    multiply(again, matrices[i]);
    CHECK(again.done());
    CHECK(again.result().converged);
    CHECK(again.result().products == 3);
  }
}

TEST_CASE("orthonormalise: independent directions stay, dependent ones go") {
  host_context c;
  generator g(12);
  const index_t n = 50;
  const Eigen::MatrixXd basis = g.orthonormal(n, 5);
  Eigen::MatrixXd block = g.matrix(n, 6);
  block.col(1) = block.col(0) * 1e-3 + basis.col(2);      // in the span of others and of the basis
  block.col(4) = basis * Eigen::VectorXd::Ones(5) * 1e6;  // in the basis alone
  block.col(5) *= 1e-30;                                  // small, but a direction of its own
  const Eigen::MatrixXd before = block, basis_rows = basis.transpose();
  Eigen::MatrixXd rows = block.transpose();
  const index_t kept = catmerge::detail::orthonormalise(c, catmerge::const_view_of(basis_rows), 5,
                                                        catmerge::view_of(rows));
  block = rows.transpose();
  REQUIRE(kept == 4);
  Eigen::MatrixXd all(n, 9);
  all << basis, block.leftCols(4);
  CHECK((all.transpose() * all - Eigen::MatrixXd::Identity(9, 9)).cwiseAbs().maxCoeff() <=
        tolerance::orthonormal<double>);
  const Eigen::MatrixXd left = before - all * (all.transpose() * before);
  for (index_t j = 0; j < 6; ++j) CHECK(left.col(j).norm() <= 1e-6 * before.col(j).norm());

  Eigen::MatrixXd zero = Eigen::MatrixXd::Zero(3, n);
  CHECK(catmerge::detail::orthonormalise(c, catmerge::const_view_of(basis_rows), 5,
                                         catmerge::view_of(zero)) == 0);
}
