// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// Under EIGEN_USE_BLAS, which the build sets for this file: products of many rows are the BLAS's,
// and results are what they are without it, within rounding.
#include <doctest/doctest.h>

#include <Eigen/Eigenvalues>
#include <catmerge/catmerge.hpp>

#include "support/data.hpp"
#include "support/tolerance.hpp"

#ifndef EIGEN_USE_BLAS
#error "this test is about EIGEN_USE_BLAS"
#endif

using namespace test;
using catmerge::op;

TEST_CASE_TEMPLATE("products of many rows, for every storage order", S, float, double) {
  generator g(5);
  catmerge::context<catmerge::host> c;
  for (const auto& [m, k, n] : {std::array<index_t, 3>{129, 70, 40}, {300, 600, 270}}) {
    const matrix_of<S> a = g.matrix<S>(m, k), b = g.matrix<S>(k, n);
    const row_major_of<S> a_rows = a, b_rows = b;
    // (lazyProduct is Eigen's own loop, whatever the BLAS.)
    const Eigen::MatrixXd expected =
        a.template cast<double>().lazyProduct(b.template cast<double>());
    const Eigen::MatrixXd absolutes =
        a.cwiseAbs().template cast<double>().lazyProduct(b.cwiseAbs().template cast<double>());
    const auto check = [&, m = m, n = n, k = k](const auto& left, const auto& right) {
      row_major_of<S> y(m, n);
      c.multiply(1, catmerge::const_view_of(left), op::none, catmerge::const_view_of(right),
                 op::none, 0, catmerge::view_of(y));
      const Eigen::MatrixXd off = (y.template cast<double>() - expected).cwiseAbs();
      CHECK((off.array() / absolutes.array()).maxCoeff() <=
            tolerance::product<S>(static_cast<double>(k), 1));
    };
    check(a, b);
    check(a_rows, b_rows);
    check(a, b_rows);
    check(a_rows, b);
  }
}

TEST_CASE("removal bases belong to the largest eigenvalues of G_k") {
  constexpr index_t d_out = 200, d_in = 180;
  const auto l = random_linear<float>(7, d_out, d_in, {150, 160, 170});
  const catmerge::projection_options defaults;
  for (const auto way : {catmerge::basis_solver::shifts, catmerge::basis_solver::weights,
                         catmerge::basis_solver::dense}) {
    catmerge::projection_options options;
    options.solver = way;
    const auto found = catmerge::removal_basis(0, l.vectors, l.features, options);
    Eigen::MatrixXd gram = Eigen::MatrixXd::Zero(d_out, d_out);
    const auto square = [](const Eigen::MatrixXd& x) {
      return Eigen::MatrixXd(x.transpose().lazyProduct(x));
    };
    const Eigen::MatrixXd own = square(l.features[0].cast<double>());
    for (const std::size_t i : {std::size_t{1}, std::size_t{2}}) {
      const Eigen::MatrixXd t = l.vectors[i].cast<double>(),
                            s = own - defaults.lambda * square(l.features[i].cast<double>());
      gram += t.lazyProduct(s.lazyProduct(t.transpose()).eval());
    }
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(gram);
    const auto& all = solver.eigenvalues();
    const double size = std::max(std::abs(all(0)), std::abs(all(d_out - 1)));
    const Eigen::MatrixXd b = found.basis.cast<double>();
    REQUIRE(b.cols() == 4);
    for (index_t j = 0; j < 4; ++j) {
      // A residual of 1e-6 moves an eigenvalue by no more; b is rounded to float.
      const Eigen::VectorXd image = gram.lazyProduct(b.col(j));
      CHECK((image - found.eigenvalues[at(j)] * b.col(j)).norm() <= 2e-6 * size);
      CHECK(std::abs(found.eigenvalues[at(j)] - all(d_out - 1 - j)) <= 2e-6 * size);
    }
  }
}
