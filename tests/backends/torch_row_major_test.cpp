// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// libtorch's tensors under Eigen's macros for other defaults, which the build sets for this file:
// what crosses between the device and the host stays where it is. And const handles of the context.
#include "support/backends/torch.hpp"
// libtorch has a macro CHECK, which doctest then replaces.
#include <doctest/doctest.h>

#include <catmerge/adapt/eigen.hpp>
#include <catmerge/methods/cat.hpp>

#include "support/data.hpp"

static_assert(Eigen::MatrixXd::IsRowMajor);

using namespace test;
using torch_context = catmerge::context<catmerge::torch_domain>;
using doubles = torch_backend<double>;

TEST_CASE("what crosses between context and host stays where it is") {
  generator g(3);
  torch_context c;
  for (const auto& [rows, columns] :
       {std::pair<index_t, index_t>{2, 3}, {5, 1}, {1, 7}, {40, 33}}) {
    const Eigen::MatrixXd x = g.matrix(rows, columns);
    const at::Tensor t = doubles::matrix(x);
    CHECK(Eigen::MatrixXd(c.to_host(catmerge::const_view_of(t))) == x);
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < columns; ++j) CHECK(t[i][j].item<double>() == x(i, j));
    at::Tensor back = t.new_zeros(t.sizes());
    c.from_host(x, catmerge::view_of(back));
    CHECK(back.equal(t));
  }
}

TEST_CASE("cat_linear: what it is on Eigen's tensors") {
  const auto l = random_linear<double>(5, 14, 11, {20, 2, 9, 5});
  std::vector<at::Tensor> experts, features;
  for (const auto& e : l.experts) experts.push_back(doubles::matrix(e));
  for (const auto& x : l.features) features.push_back(doubles::matrix(x));
  for (const auto way : {catmerge::basis_solver::dense, catmerge::basis_solver::weights}) {
    catmerge::cat_options o;
    o.linear.solver = way;
    const auto expected = catmerge::cat_linear(l.base, l.experts, l.features, o);
    const auto found = catmerge::cat_linear(doubles::matrix(l.base), experts, features, o);
    CHECK((doubles::to_eigen(found.merged) - expected.merged).norm() <=
          1e-7 * (expected.merged - l.base).norm());
    CHECK((found.report.trim->overlap - expected.report.trim->overlap).norm() <= 1e-7);
    CHECK((found.report.trim->conflict_after - expected.report.trim->conflict_after).norm() <=
          1e-7 * expected.report.trim->conflict_after.norm());
  }
}

TEST_CASE("steps in place take const views of the context") {
  generator g(4);
  torch_context c;
  const Eigen::MatrixXd b = g.orthonormal(6, 2), t = g.matrix(6, 4);
  at::Tensor basis = doubles::matrix(b), owner = doubles::matrix(t);
  const torch_context::view handle = catmerge::view_of(owner);
  const torch_context::const_view read = catmerge::const_view_of(basis);
  catmerge::project_out(read, handle, c);
  CHECK((doubles::to_eigen(owner) - (t - b * (b.transpose() * t))).norm() <= 1e-14 * t.norm());
}
