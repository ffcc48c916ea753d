// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// then: a change of what a method has merged (merge/then.hpp).
#include <doctest/doctest.h>

#include <catmerge/catmerge.hpp>
#include <catmerge/merge/then.hpp>
#include <string>
#include <vector>

using catmerge::chain;
using catmerge::layer_kind;
using catmerge::layer_problem;
using catmerge::layer_report;
using catmerge::then;
using catmerge::vector_list;

namespace {

using host = catmerge::context<catmerge::host>;
using matrix = Eigen::MatrixXf;
using journal = std::vector<std::string>;

double first(host& c, const host::const_view& v) {
  return c.to_host(c.slice(v, 0, 1, 0, 1))(0, 0);
}

std::string text(double x) {
  return std::to_string(static_cast<int>(x));
}

/// The sum, which spoils the vectors, at a factor.
struct spoiling_sum {
  double alpha = 1;
  journal* log = nullptr;
  int passes = 0, done = 0;

  double factor() const { return alpha; }
  bool scan_wanted() const { return done < passes; }
  void scan(host&, const layer_problem<host>&, vector_list<host>) { log->push_back("sum scans"); }
  void end_scan() { ++done; }
  void combine(host& c, const layer_problem<host>&, vector_list<host> vectors,
               const host::view& tau, layer_report& report) const {
    catmerge::sum_vectors(c, vectors, tau);
    for (const auto& t : vectors) c.scale(0, t);
    report.fallback = catmerge::fallback_rule::sum;
  }
};

/// Adds the first task vector to tau.
struct plus_first {
  journal* log = nullptr;
  int passes = 0, done = 0;
  bool statistics = false, importance = false, matrices = false;

  bool needs_statistics(layer_kind) const { return statistics; }
  bool needs_importance() const { return importance; }
  bool sees_matrices() const { return matrices; }
  bool scan_wanted() const { return done < passes; }
  void scan(host& c, const layer_problem<host>&, vector_list<host> merged) {
    CHECK(merged.size() == 1);
    log->push_back("after scans " + text(first(c, merged[0])));
  }
  void end_scan() { ++done; }
  void apply(host& c, const layer_problem<host>&, vector_list<host> vectors, const host::view& tau,
             layer_report&) const {
    c.axpy(1, vectors[0], tau);
  }
};

/// Doubles tau, whatever the vectors.
struct doubled {
  static constexpr bool reads_vectors() { return false; }
  template <class Context>
  void apply(Context& c, const layer_problem<Context>&, vector_list<Context> vectors,
             const typename Context::view& tau, layer_report&) const {
    CHECK(vectors.empty());
    c.scale(2, tau);
  }
};

static_assert(catmerge::merged_transform<plus_first, host>);
static_assert(catmerge::merged_transform<doubled, host>);
static_assert(!catmerge::merged_transform<catmerge::task_weights, host>);
static_assert(catmerge::vector_method<then<spoiling_sum, doubled>, host>);

matrix merged(const auto& method, const std::vector<float>& vectors) {
  const matrix base = matrix::Constant(2, 3, 5);
  std::vector<matrix> experts;
  for (const float t : vectors) experts.push_back(base.array() + t);
  return catmerge::merge_parameter(method, layer_kind::linear, base, experts).merged.array() - 5;
}

}  // namespace

TEST_CASE("the transform sees what was merged, with its factor, and the vectors as they were") {
  // 3 (1 + 4) + 1
  CHECK(merged(then{spoiling_sum{3}, plus_first{}}, {1, 4}) == matrix::Constant(2, 3, 16));
  CHECK(merged(then{spoiling_sum{3}, doubled{}}, {1, 4}) == matrix::Constant(2, 3, 30));
  // Several, one after the other.
  CHECK(merged(then{then{spoiling_sum{3}, plus_first{}}, doubled{}}, {1, 4}) ==
        matrix::Constant(2, 3, 32));
  CHECK(merged(then{then{spoiling_sum{3}, doubled{}}, plus_first{}}, {1, 4}) ==
        matrix::Constant(2, 3, 31));
  // A transform of vectors comes before both.
  CHECK(merged(chain{catmerge::task_weights{{2, 1}}, then{spoiling_sum{3}, plus_first{}}},
               {1, 4}) == matrix::Constant(2, 3, 20));
  // Around a choice of methods.
  const auto always = [](const auto&) { return true; };
  CHECK(merged(then{catmerge::where{always, spoiling_sum{3}, spoiling_sum{1}}, plus_first{}},
               {1, 4}) == matrix::Constant(2, 3, 16));
}

TEST_CASE("scans: the method's first, then the transform's on what the method merges") {
  journal log;
  CHECK(merged(then{spoiling_sum{3, &log, 1}, plus_first{&log, 2}}, {1, 4}) ==
        matrix::Constant(2, 3, 16));
  CHECK(log == journal{"sum scans", "after scans 15", "after scans 15"});
}

TEST_CASE("it needs what one of its parts needs, and reports what the method does") {
  const then none{spoiling_sum{}, doubled{}};
  CHECK_FALSE(catmerge::needs_statistics(none, layer_kind::linear));
  CHECK_FALSE(catmerge::needs_importance(none));
  CHECK_FALSE(catmerge::sees_matrices(none));
  CHECK_FALSE(catmerge::scan_wanted(none));
  plus_first all;
  all.statistics = all.importance = all.matrices = true;
  const then some{spoiling_sum{}, all};
  CHECK(catmerge::needs_statistics(some, layer_kind::linear));
  CHECK(catmerge::wants_statistics(some, layer_problem<host>{}));
  CHECK(catmerge::needs_importance(some));
  CHECK(catmerge::sees_matrices(some));
  CHECK(catmerge::needs_statistics(then{catmerge::cat_method{}, doubled{}}, layer_kind::linear));

  const auto result = catmerge::merge_parameter(none, layer_kind::shift, matrix(matrix::Zero(2, 1)),
                                                std::vector<matrix>(2, matrix::Ones(2, 1)));
  CHECK(result.report.fallback == catmerge::fallback_rule::sum);
  CHECK(result.report.kind == layer_kind::shift);
}
