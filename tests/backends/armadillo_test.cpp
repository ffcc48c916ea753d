// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include "support/backends/armadillo.hpp"
#include "support/suite/algorithms.hpp"

using namespace test;

static_assert(catmerge::any_matrix<arma::fmat> && !catmerge::any_vector<arma::fmat>);
static_assert(catmerge::any_vector<arma::vec> && catmerge::any_vector<arma::frowvec>);
static_assert(catmerge::any_matrix<arma::mat::fixed<2, 3>>);
static_assert(!catmerge::any_tensor<arma::imat>);
static_assert(!catmerge::any_tensor<arma::cx_mat>);
static_assert(!catmerge::any_tensor<decltype(arma::mat() + arma::mat())>);
static_assert(std::is_same_v<catmerge::result_t<arma::subview<float>>, arma::fmat>);
static_assert(std::is_same_v<catmerge::result_t<arma::subview_row<double>>, arma::rowvec>);

TEST_CASE_TEMPLATE("Armadillo: Mat and Col, subviews", B, armadillo_backend<double>,
                   armadillo_backend<float>, armadillo_part_backend<float>) {
  suite::everything<B>();
}

TEST_CASE("Armadillo: nothing is copied, and nothing beside a subview is written") {
  arma::fmat big(6, 7);
  big.fill(1);
  const auto& constant = big;
  auto part = big.submat(1, 2, 3, 5);
  const auto seen = catmerge::const_view_of(constant.submat(1, 2, 3, 5));
  CHECK(seen.data == &big(1, 2));
  CHECK(seen.rows == 3);
  CHECK(seen.columns == 4);
  CHECK(seen.column_stride == 6);
  arma::fmat t(3, 4);
  t.fill(2);
  catmerge::add_task_vector(part, t);
  CHECK(arma::accu(big) == doctest::Approx(42 + 24));
  auto column = big.col(3);
  CHECK(catmerge::const_view_of(column).data == big.colptr(3));
  auto row = big.row(2);
  const auto window = catmerge::const_view_of(row);
  CHECK(window.rows == 7);
  CHECK(window.row_stride == 6);
  const arma::frowvec r = catmerge::task_vector(row, row);
  CHECK(r.n_cols == 7);
  arma::mat::fixed<2, 3> fixed(arma::fill::ones), other(arma::fill::zeros);
  const arma::mat difference = catmerge::task_vector(fixed, other);
  CHECK(arma::accu(difference) == -6);
}
