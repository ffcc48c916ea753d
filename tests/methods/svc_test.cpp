// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// SVC, against loops over singular triplets.
#include <catmerge/methods/svc.hpp>
#include <catmerge/methods/task_arithmetic.hpp>
#include <catmerge/methods/weight_average.hpp>

#include "support/backends/eigen.hpp"
#include "support/executor.hpp"
#include "support/fake_device.hpp"
#include "support/suite/methods_matrices.hpp"

using namespace test;
using catmerge::fused_weights;
using catmerge::layer_kind;
using catmerge::svc_transform;
using catmerge::task_arithmetic_method;
using catmerge::then;
using matrices::dense;

namespace {

constexpr double eps = tolerance::eps<double>;

/// The sum at a factor, then SVC. The base is zero, so what is merged is tau.
dense calibrated(const matrices::list& t, double factor, const catmerge::svc_options& o = {}) {
  return catmerge::merge_parameter(then{task_arithmetic_method{factor}, svc_transform{o}},
                                   layer_kind::linear, dense(dense::Zero(t[0].rows(), t[0].cols())),
                                   t)
      .merged;
}

matrices::list random_tasks(std::uint64_t seed, index_t rows, index_t columns, int tasks) {
  generator g(seed);
  matrices::list t;
  for (int k = 0; k < tasks; ++k) t.push_back(g.matrix(rows, columns));
  return t;
}

}  // namespace

TEST_CASE("SVC: the formula, for every shape and floor") {
  for (const auto& [rows, columns] : {std::pair<index_t, index_t>{7, 12}, {12, 7}, {9, 9}, {1, 4}})
    for (const int tasks : {1, 2, 3})
      for (const double floor : {1e-3, 0.1, 0.5, 1.0, 3.0}) {
        const auto t = random_tasks(1, rows, columns, tasks);
        const auto e = matrices::svc(matrices::sum_of(t), t, floor);
        CHECK((calibrated(t, 1, {floor}) - e.tau).norm() <= e.slack);
        // A direction grows at most 1 / floor times.
        CHECK(e.tau.norm() <= matrices::sum_of(t).norm() / floor * (1 + 1e-12));
      }
}

TEST_CASE("SVC: no alpha, as long as no task is below the floor") {
  // One direction that all share, and little beside it.
  generator g(2);
  const dense shared = g.matrix(6, 1) * g.matrix(1, 8);
  matrices::list t;
  for (int k = 0; k < 3; ++k) t.push_back((k + 1) * shared);
  const dense one = calibrated(t, 1);
  for (const double factor : {0.3, 2.0, 20.0})
    CHECK((calibrated(t, factor) - one).norm() <= 1e3 * eps * one.norm());
  // s of a factor a of the sum 6 S: 6 a / (k + 1); gamma = 3 / (6 a (1 + 1/2 + 1/3)).
  CHECK((one - 3 / (1 + 0.5 + 1.0 / 3) * shared).norm() <= 1e3 * eps * shared.norm());
  // A floor of alpha tau is a floor / alpha of tau.
  const auto r = random_tasks(3, 7, 9, 3);
  const dense a = calibrated(r, 0.3, {0.1}), b = calibrated(r, 1, {0.1 / 0.3});
  CHECK((a - b).norm() <= 1e5 * eps * b.norm());
}

TEST_CASE("SVC: one task and equal tasks are themselves; opposed ones hit the floor") {
  const auto t = random_tasks(4, 6, 9, 1);
  CHECK((calibrated(t, 1) - t[0]).norm() <= 1e4 * eps * t[0].norm());
  CHECK((calibrated({t[0], t[0], t[0]}, 1) - t[0]).norm() <= 1e4 * eps * t[0].norm());
  // 3 T - T: s = 2 / 3 and -2, which counts as 0.1.
  CHECK((calibrated({3 * t[0], -t[0]}, 1) - 2 / (2.0 / 3 + 0.1) * 2 * t[0]).norm() <=
        1e4 * eps * t[0].norm());
  // Nothing merged, and a task that responds to no direction.
  const dense zero = dense::Zero(6, 9);
  CHECK(calibrated({t[0], -t[0]}, 1) == zero);
  CHECK(calibrated({zero, zero}, 1) == zero);
  CHECK((calibrated({t[0], zero}, 1) - 2 / 1.1 * t[0]).norm() <= 1e4 * eps * t[0].norm());
}

TEST_CASE("SVC: matrices alone, whole or by their parts") {
  const auto t = random_tasks(5, 8, 7, 3);
  catmerge::context<catmerge::host> c;
  const auto merge = [&](layer_kind kind, index_t parts, const auto& method, const auto& base,
                         const auto& experts) {
    catmerge::layer_problem<catmerge::context<catmerge::host>> p;
    p.kind = kind;
    p.parts = parts;
    return catmerge::merge_parameter(method, p, base, experts, c);
  };
  const dense zero = dense::Zero(8, 7);
  const then whole{catmerge::weight_average_method{}, svc_transform{}};
  const then split{catmerge::weight_average_method{}, svc_transform{{0.1, fused_weights::split}}};
  const dense together = merge(layer_kind::linear, 2, whole, zero, t).merged;
  CHECK(same_bits(together, merge(layer_kind::other, 1, whole, zero, t).merged));
  dense parts(8, 7);
  for (const index_t part : {0, 1}) {
    matrices::list half;
    for (const auto& x : t) half.push_back(x.middleRows(4 * part, 4));
    parts.middleRows(4 * part, 4) =
        merge(layer_kind::linear, 1, whole, dense(dense::Zero(4, 7)), half).merged;
  }
  const dense apart = merge(layer_kind::linear, 2, split, zero, t).merged;
  CHECK((apart - parts).norm() <= 1e4 * eps * parts.norm());
  CHECK((apart - together).norm() > 0.01);
  // Vectors keep what the method made of them.
  const Eigen::VectorXd nothing = Eigen::VectorXd::Zero(8);
  std::vector<Eigen::VectorXd> vectors;
  for (const auto& x : t) vectors.push_back(x.col(0));
  for (const auto kind : {layer_kind::scale, layer_kind::shift, layer_kind::other})
    CHECK(merge(kind, 1, whole, nothing, vectors).merged ==
          merge(kind, 1, catmerge::weight_average_method{}, nothing, vectors).merged);
  CHECK(catmerge::sees_matrices(whole));
}

TEST_CASE("SVC: options that make no sense") {
  const auto t = random_tasks(6, 3, 4, 2);
  for (const double floor : {0.0, -1.0, std::numeric_limits<double>::infinity(),
                             std::numeric_limits<double>::quiet_NaN()})
    CHECK_THROWS_WITH_AS(calibrated(t, 1, {floor}), "SVC: floor must be a finite number above 0",
                         catmerge::error);
}

TEST_CASE_TEMPLATE("SVC on the device, and on several threads: the same bits", S, double, float) {
  const auto l = random_linear<S>(7, 90, 70, {6, 12, 9});
  std::vector<fake_tensor<2>> experts;
  for (const auto& m : l.experts) experts.push_back(fake_tensor<2>::upload(m));
  std::atomic<int> calls = 0;
  auto threads = catmerge::context<catmerge::host>(scrambled(3, &calls));
  const then method{task_arithmetic_method{1}, svc_transform{}};
  const auto on_host =
      catmerge::merge_parameter(method, layer_kind::linear, l.base, l.experts).merged;
  CHECK(same_bits(
      catmerge::merge_parameter(method, layer_kind::linear, fake_tensor<2>::upload(l.base), experts)
          .merged.template download<S>(),
      on_host));
  CHECK(same_bits(
      catmerge::merge_parameter(method, layer_kind::linear, l.base, l.experts, threads).merged,
      on_host));
  CHECK(calls > 0);
}
