// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// DC-Merge, against loops over the entries of its cores.
#include "support/backends/eigen.hpp"
#include "support/executor.hpp"
#include "support/fake_device.hpp"
#include "support/suite/methods_matrices.hpp"

using namespace test;
using catmerge::fallback_rule;
using catmerge::layer_kind;
using matrices::dense;

namespace {

constexpr double eps = tolerance::eps<double>;

matrices::list random_tasks(std::uint64_t seed, index_t rows, index_t columns, int tasks) {
  generator g(seed);
  matrices::list t;
  for (int k = 0; k < tasks; ++k) t.push_back(g.matrix(rows, columns));
  return t;
}

dense merged(const matrices::list& t, const catmerge::dc_merge_options& o) {
  return catmerge::dc_merge(dense(dense::Zero(t[0].rows(), t[0].cols())), t, o).merged;
}

}  // namespace

TEST_CASE("DC-Merge: the formula, for every shape and share") {
  for (const auto& [rows, columns] : {std::pair<index_t, index_t>{7, 12}, {12, 7}, {9, 9}})
    for (const int tasks : {1, 2, 3})
      for (const auto& [share, count] :
           {std::pair<double, double>{0.001, 1}, {0.1, 0.1 * 49}, {0.5, 0.5 * 49}}) {
        const auto t = random_tasks(1, rows, columns, tasks);
        const double r = static_cast<double>(std::min(rows, columns));
        const auto kept =
            static_cast<index_t>(std::max(1.0, std::floor(r == 7 ? count : share * r * r)));
        const index_t n = std::min(rows, columns) / tasks, size = n * tasks;
        const auto e = matrices::dc_merge(t, std::min(kept, size * size));
        CHECK((merged(t, {1, share}) - e.tau).norm() <= e.slack + 10 * eps * e.tau.norm());
        CHECK((merged(t, {0.5, share}) - 0.5 * e.tau).norm() <= e.slack + 10 * eps * e.tau.norm());
      }
}

TEST_CASE("DC-Merge: all entries of one task are the task; of tasks apart the tasks") {
  const auto one = random_tasks(2, 6, 9, 1);
  CHECK((merged(one, {1, 1}) - one[0]).norm() <= 1e4 * eps * one[0].norm());
  // Diagonal tasks apart: n = 2 directions each. Of the one largest entry only that.
  dense a = dense::Zero(4, 4), b = a;
  a(0, 0) = 5, a(1, 1) = 2, b(2, 2) = 4, b(3, 3) = -3;
  CHECK((merged({a, b}, {1, 1}) - a - b).norm() <= 1e3 * eps);
  dense largest = dense::Zero(4, 4);
  largest(0, 0) = 5, largest(2, 2) = 4;
  CHECK((merged({a, b}, {1, 0.001}) - largest).norm() <= 1e3 * eps);
  // Nothing, and one of rank one where two directions are asked for.
  const dense zero = dense::Zero(4, 4);
  CHECK(merged({zero, zero}, {}) == zero);
  CHECK((merged({a, zero}, {1, 1}) - a).norm() <= 1e3 * eps);
  b(3, 3) = 0;
  CHECK((merged({a, b}, {1, 1}) - a - b).norm() <= 1e3 * eps);
}

TEST_CASE("DC-Merge: the mean where there is no matrix, or one too small; errors of options") {
  const auto t = random_tasks(3, 2, 5, 3);  // r = 2 < K = 3
  const auto small = catmerge::dc_merge(dense(dense::Zero(2, 5)), t);
  CHECK((small.merged - matrices::sum_of(t) / 3).norm() <= 100 * eps);
  CHECK(small.report.fallback == fallback_rule::mean);
  std::vector<Eigen::VectorXd> vectors;
  for (const auto& x : t) vectors.push_back(x.row(0).transpose());
  const auto vector = catmerge::merge_parameter(catmerge::dc_merge_method{}, layer_kind::other,
                                                Eigen::VectorXd(Eigen::VectorXd::Zero(5)), vectors);
  CHECK(vector.report.fallback == fallback_rule::mean);
  CHECK(catmerge::sees_matrices(catmerge::dc_merge_method{}));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH_AS(merged(t, {nan}), "DC-Merge: alpha must be a finite number",
                       catmerge::error);
  for (const double share : {nan, 0.0, 1.1})
    CHECK_THROWS_WITH_AS(merged(t, {1, share}), "DC-Merge: share must be above 0 and at most 1",
                         catmerge::error);
}

TEST_CASE_TEMPLATE("DC-Merge on the device, and on several threads: the same bits", S, double,
                   float) {
  const auto l = random_linear<S>(7, 90, 70, {6, 12, 9});
  std::vector<fake_tensor<2>> experts;
  for (const auto& m : l.experts) experts.push_back(fake_tensor<2>::upload(m));
  std::atomic<int> calls = 0;
  auto threads = catmerge::context<catmerge::host>(scrambled(3, &calls));
  const auto on_host = catmerge::dc_merge(l.base, l.experts).merged;
  CHECK(same_bits(
      catmerge::dc_merge(fake_tensor<2>::upload(l.base), experts).merged.template download<S>(),
      on_host));
  CHECK(same_bits(catmerge::dc_merge(l.base, l.experts, {}, threads).merged, on_host));
  CHECK(calls > 0);
}
