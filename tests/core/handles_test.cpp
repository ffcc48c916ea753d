// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/adapt/eigen.hpp>
#include <catmerge/adapt/span.hpp>
#include <catmerge/cat/mask.hpp>
#include <catmerge/cat/projection.hpp>
#include <catmerge/merge/method.hpp>
#include <catmerge/merge/task_vector.hpp>

#include "support/data.hpp"
#include "support/fake_device.hpp"

// Steps that change a tensor in place, on what transforms have in hand: const views of any context,
// whether there are tensor_traits for them (the host's) or not (the fake device's).

using namespace test;
using host_context = catmerge::context<catmerge::host>;
using device_context = catmerge::context<fake_device>;
using catmerge::scalar_type;

namespace {

template <class Context>
typename Context::matrix moved(Context& c, const Eigen::MatrixXd& m) {
  auto there = c.make(scalar_type::f64, m.rows(), m.cols());
  c.from_host(m, there);
  return there;
}

}  // namespace

TEST_CASE_TEMPLATE("steps in place take const views of a context", Context, host_context,
                   device_context) {
  generator g(1);
  Context c;
  const Eigen::MatrixXd b = g.orthonormal(7, 2), base = g.matrix(7, 5), v = g.vector(6);
  const std::vector<Eigen::MatrixXd> t{g.matrix(7, 5), g.matrix(7, 5)};
  std::vector<typename Context::matrix> owners;
  for (const auto& each : t) owners.push_back(moved(c, each));
  const std::vector<typename Context::view> views(owners.begin(), owners.end());
  const catmerge::vector_list<Context> list(views);
  const auto holds = [&](std::size_t i, const Eigen::MatrixXd& expected) {
    return (c.to_host(owners[i]) - expected).norm() <= 1e-14 * expected.norm();
  };

  const typename Context::matrix basis = moved(c, b), subtracted = moved(c, base);
  for (const auto& each : list) catmerge::project_out(basis, each, c);
  for (std::size_t i = 0; i < 2; ++i) CHECK(holds(i, t[i] - b * (b.transpose() * t[i])));
  for (const auto& each : list) c.from_host(t[0], each);

  for (const auto& each : list) catmerge::subtract_base(subtracted, each, c);
  CHECK(holds(0, t[0] - base));
  CHECK(holds(1, t[0] - base));
  catmerge::add_task_vector(list[1], list[0], 0.5, c);
  CHECK(holds(1, 1.5 * (t[0] - base)));
  catmerge::add_task_vector(owners[0], subtracted, 1, c);  // an owner that is not const, too
  CHECK(holds(0, t[0]));

  auto vector = moved(c, v);
  const typename Context::view handle = vector;
  const std::vector<index_t> mask{1, 4};
  catmerge::mask_out(mask, handle, c);
  Eigen::VectorXd masked = v;
  masked(1) = masked(4) = 0;
  CHECK(c.to_host(vector) == Eigen::MatrixXd(masked));
  CHECK_THROWS_AS(catmerge::mask_out(mask, list[0], c), catmerge::error);       // 7 x 5: no vector
  CHECK_THROWS_AS(catmerge::project_out(vector, list[0], c), catmerge::error);  // 6 x 1 for 7 rows
}

TEST_CASE("const handles of host memory are written to without a context, too") {
  generator g(2);
  const Eigen::MatrixXf b = g.orthonormal(4, 1).cast<float>(), t = g.matrix<float>(4, 3);
  Eigen::MatrixXf expected = t, by_window = t, by_view = t;
  catmerge::project_out(b, expected);
  const catmerge::strided_view<float> window{by_window.data(), 4, 3, by_window.rowStride(),
                                             by_window.colStride()};
  catmerge::project_out(b, window);
  CHECK(same_bits(by_window, expected));
  const catmerge::host_view view = catmerge::view_of(by_view);
  catmerge::project_out(b, view);
  CHECK(same_bits(by_view, expected));

  std::vector<float> values{1, 2, 3};
  const std::span<float> span(values);
  catmerge::mask_out(std::vector<index_t>{1}, span);
  catmerge::add_task_vector(span, std::vector<float>{1, 1, 1}, 2);
  CHECK(values == std::vector<float>{3, 2, 5});
}
