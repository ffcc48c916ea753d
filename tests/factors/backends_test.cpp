// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/factors/cat.hpp>
#include <catmerge/factors/conflict.hpp>
#include <catmerge/factors/core_merges.hpp>
#include <catmerge/factors/lot.hpp>

#include "support/backends/archetypes.hpp"
#include "support/backends/eigen.hpp"
#include "support/backends/flat.hpp"
#include "support/factors.hpp"
#include "support/fake_device.hpp"
#ifdef CATMERGE_TEST_XTENSOR
#include "support/backends/xtensor.hpp"
#endif
#ifdef CATMERGE_TEST_ARMADILLO
#include "support/backends/armadillo.hpp"
#endif

// Every function of factors/ on tensors of other libraries, and on a device that reads no memory of
// the host: the same bits as on Eigen's matrices.

using namespace test;
using catmerge::index_t;

namespace {

/// The fake device as a backend.
template <class S>
struct fake_backend {
  using scalar = S;
  fake_tensor<2> matrix(const matrix_of<S>& m) { return fake_tensor<2>::upload(m); }
  template <class T>
  static auto to_eigen(const T& t) {
    return t.template download<catmerge::compute_t<S>>();
  }
};

template <class B, class Vector, class Expected>
void same_factors(const Vector& found, const Expected& expected) {
  CHECK(same_bits(B::to_eigen(found.b), expected.b));
  CHECK(same_bits(B::to_eigen(found.a), expected.a));
  CHECK(found.scale == expected.scale);
}

template <class B>
void all_functions() {
  using S = typename B::scalar;
  const adapters<S> in(17, 30, 26, {4, 2, 5}, {9, 12, 7});
  B backend;
  using tensor = decltype(backend.matrix(in.features[0]));
  std::vector<catmerge::factored_vector<tensor, tensor>> vectors;
  std::vector<tensor> features;
  for (const auto& v : in.vectors)
    vectors.push_back({backend.matrix(v.b), backend.matrix(v.a), v.scale});
  for (const auto& x : in.features) features.push_back(backend.matrix(x));

  const auto trimmed = catmerge::trim_factors(vectors, features);
  const auto expected = catmerge::trim_factors(in.vectors, in.features);
  for (std::size_t i = 0; i < vectors.size(); ++i)
    same_factors<B>(trimmed.vectors[i], expected.vectors[i]);
  CHECK(same_bits(trimmed.report.trim->conflict_after, expected.report.trim->conflict_after));
  CHECK(same_bits(trimmed.report.trim->deviation, expected.report.trim->deviation));

  same_factors<B>(catmerge::cat_factors(vectors, features).merged,
                  catmerge::cat_factors(in.vectors, in.features).merged);
  same_factors<B>(catmerge::lot_factors(vectors, features).merged,
                  catmerge::lot_factors(in.vectors, in.features).merged);
  same_factors<B>(catmerge::tsv_m_factors(vectors).merged,
                  catmerge::tsv_m_factors(in.vectors).merged);
  same_factors<B>(catmerge::core_iso(vectors).merged, catmerge::core_iso(in.vectors).merged);
  same_factors<B>(catmerge::concatenate(vectors, {1, 2, 3}),
                  catmerge::concatenate(in.vectors, {1, 2, 3}));
  const auto short_one = catmerge::compress(vectors[2], 3);
  const auto short_expected = catmerge::compress(in.vectors[2], 3);
  same_factors<B>(short_one.vector, short_expected.vector);
  CHECK(short_one.error == short_expected.error);

  CHECK(same_bits(catmerge::factored_conflict_matrix(features, vectors),
                  catmerge::factored_conflict_matrix(in.features, in.vectors)));
  CHECK(catmerge::factored_shift(features[0], vectors[1]) ==
        catmerge::factored_shift(in.features[0], in.vectors[1]));
  const auto whole = catmerge::dense_vector(vectors[0]);
  CHECK(same_bits(B::to_eigen(whole), catmerge::dense_vector(in.vectors[0])));
  auto theta = catmerge::dense_vector(vectors[0]);
  catmerge::add_factors(theta, vectors[0], -1);
  CHECK(B::to_eigen(theta).norm() <= 1e-5);
}

}  // namespace

TEST_CASE_TEMPLATE("factors of host tensors", B, eigen_block_backend<double>,
                   eigen_backend<float, Eigen::RowMajor>, eigen_backend<catmerge::half>,
                   flat_backend<catmerge::bfloat16>, strided_backend<float>) {
  all_functions<B>();
}

TEST_CASE_TEMPLATE("factors on a device", B, fake_backend<double>, fake_backend<float>,
                   fake_backend<catmerge::half>) {
  all_functions<B>();
}

TEST_CASE("what crosses between a device and the host is small") {
  const adapters<float> in(3, 400, 300, {4, 4, 4}, {8, 8, 8});
  fake_backend<float> backend;
  std::vector<catmerge::factored_vector<fake_tensor<2>, fake_tensor<2>>> vectors;
  std::vector<fake_tensor<2>> features;
  for (const auto& v : in.vectors)
    vectors.push_back({backend.matrix(v.b), backend.matrix(v.a), v.scale});
  for (const auto& x : in.features) features.push_back(backend.matrix(x));
  fake_traffic() = {};
  (void)catmerge::cat_factors(vectors, features);
  CHECK(fake_traffic().largest <= 12 * 12 * sizeof(double));
}

#ifdef CATMERGE_TEST_XTENSOR
TEST_CASE_TEMPLATE("factors of xtensor's", B, xtensor_backend<float>, xview_backend<double>) {
  all_functions<B>();
}
#endif

#ifdef CATMERGE_TEST_ARMADILLO
TEST_CASE_TEMPLATE("factors of Armadillo's", B, armadillo_part_backend<float>) {
  all_functions<B>();
}
#endif
