// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <Eigen/QR>
#include <catmerge/catmerge.hpp>
#include <catmerge/merge/mean_of.hpp>
#include <catmerge/methods/fisher.hpp>
#include <catmerge/methods/lot.hpp>
#include <catmerge/methods/lot_around.hpp>
#include <catmerge/methods/refit.hpp>
#include <catmerge/methods/ties.hpp>
#include <catmerge/methods/tsv_m.hpp>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "support/data.hpp"
#include "support/executor.hpp"
#include "support/fake_device.hpp"

// LOT around a prior, against least squares by an orthogonal decomposition.

using namespace test;
using catmerge::const_view_of;
using catmerge::layer_kind;
using catmerge::lot_around;
using catmerge::lot_around_options;
using catmerge::statistics_form;
using catmerge::task_arithmetic_method;

namespace {

using host = catmerge::context<catmerge::host>;
using dense = Eigen::MatrixXd;
using exact = Eigen::Matrix<long double, Eigen::Dynamic, Eigen::Dynamic>;
using list = std::vector<dense>;

/// Task vectors and features. The base is zero, so that what is merged is tau.
struct given {
  dense base;
  list t, x;

  given(std::uint64_t seed, index_t d_out, index_t d_in, const std::vector<index_t>& rows)
      : base(dense::Zero(d_out, d_in)) {
    generator g(seed);
    for (const index_t n : rows) t.push_back(g.matrix(d_out, d_in)), x.push_back(g.matrix(n, d_in));
  }
  dense sum() const {
    dense all = base;
    for (const auto& task : t) all += task;
    return all;
  }
};

/// argmin sum_k w_k ||X_k (tau - T_k)^T||^2 + mu ||tau - P||^2 as one system of equations, one
/// above the other; for mu = 0 the solution nearest to P.
dense oracle(const given& l, const dense& prior, double ridge) {
  const index_t d_in = l.base.cols(), d_out = l.base.rows();
  index_t all = 0;
  for (const auto& x : l.x) all += x.rows();
  exact system = exact::Zero(all + d_in, d_in), target = exact::Zero(all + d_in, d_out);
  long double trace = 0;
  for (index_t k = 0, row = 0; k < std::ssize(l.t); ++k) {
    const exact x = l.x[at(k)].cast<long double>(), t = l.t[at(k)].cast<long double>(),
                shift = x * t.transpose();
    const long double weight = shift.norm() > 0 ? 1 / shift.squaredNorm() : 0;
    system.middleRows(row, x.rows()) = std::sqrt(weight) * x;
    target.middleRows(row, x.rows()) =
        std::sqrt(weight) * (shift - x * prior.cast<long double>().transpose());
    trace += weight * x.squaredNorm();
    row += x.rows();
  }
  system.bottomRows(d_in).diagonal().setConstant(
      std::sqrt(static_cast<long double>(ridge) * trace / static_cast<long double>(d_in)));
  const exact change = system.completeOrthogonalDecomposition().solve(target);
  return prior + change.transpose().cast<double>();
}

/// The Gram matrices of all tasks as statistics.
struct grams {
  list matrices;
  std::vector<catmerge::statistics_view<>> views;

  explicit grams(const list& x) {
    for (const auto& rows : x) matrices.push_back(rows.transpose() * rows);
    for (std::size_t k = 0; k < x.size(); ++k)
      views.push_back(
          {statistics_form::gram, const_view_of(matrices[k]), static_cast<double>(x[k].rows())});
  }
};

template <class Method, class Features>
dense merged(const Method& method, const given& l, const Features& features) {
  return catmerge::merge_parameter(method, layer_kind::linear, l.base, l.t, features).merged;
}

/// A prior that is given.
struct fixed {
  dense tau0;
  double times = 1;

  double factor() const { return times; }
  template <class Context>
  void combine(Context& c, const catmerge::layer_problem<Context>&,
               catmerge::vector_list<Context> vectors, const typename Context::view& tau,
               catmerge::layer_report&) const {
    for (const auto& t : vectors) c.scale(0, t);  // a method may change its vectors
    c.from_host(tau0, tau);
  }
};

// Solved in double by Gram matrices, whose condition is the square of the rows' (below 1e4 here).
bool near(const dense& found, const dense& expected) {
  return (found - expected).norm() <= 1e-8 * (1 + expected.norm());
}

}  // namespace

TEST_CASE("LOT around a prior: least squares, by rows and by Gram matrices") {
  const struct {
    index_t d_out, d_in;
    std::vector<index_t> rows;
  } shapes[] = {
      {5, 9, {2, 3}}, {7, 6, {5, 4, 8}}, {4, 12, {12}}, {3, 8, {1, 1, 1}}, {1, 1, {3, 2}}};
  for (const auto& shape : shapes)
    for (const auto seed : seeds)
      for (const double gain : {0.0, 1.0, 2.0, -0.5})
        for (const double ridge : {0.0, 0.05, 1.0, 30.0}) {
          CAPTURE(shape.d_in);
          CAPTURE(gain);
          CAPTURE(ridge);
          const given l(seed, shape.d_out, shape.d_in, shape.rows);
          const lot_around method{task_arithmetic_method{0.3}, lot_around_options{gain, ridge}};
          const dense expected = oracle(l, gain * 0.3 * l.sum(), ridge);
          CHECK(near(merged(method, l, l.x), expected));
          CHECK(near(merged(method, l, grams(l.x).views), expected));
          std::vector<catmerge::feature_statistics<>> gathered(l.x.size());
          for (std::size_t k = 0; k < l.x.size(); ++k) gathered[k].update(l.x[k]);
          CHECK(near(merged(method, l, gathered), expected));
        }
}

TEST_CASE("LOT around a prior: the prior is the limit of a large ridge, and stays unseen") {
  const given l(1, 6, 10, {2, 2});
  const dense prior = generator(5).matrix(6, 10);
  const auto around = [&](double gain, double ridge) {
    return merged(lot_around{fixed{prior, 0.5}, {gain, ridge}}, l, l.x);
  };
  CHECK((around(3, 1e12) - 1.5 * prior).norm() <= 1e-10 * prior.norm());
  // Four rows of ten columns: the change lies in their span.
  dense x(4, 10);
  x << l.x[0], l.x[1];
  const dense change = around(2, 0) - prior;
  const dense outside =
      dense::Identity(10, 10) - x.completeOrthogonalDecomposition().pseudoInverse() * x;
  CHECK(change.norm() > 0.1);
  CHECK((change * outside).norm() <= 1e-9 * change.norm());
  // No inputs at all.
  const list zero{dense::Zero(3, 10), dense::Zero(2, 10)};
  CHECK((merged(lot_around{fixed{prior}}, l, zero) - 2 * prior).norm() <= 1e-14 * prior.norm());
}

TEST_CASE("LOT around a prior: a task without a shift has no say") {
  given l(2, 6, 9, {4, 5, 20});
  l.t[2].setZero();
  given two = l;
  two.t.pop_back(), two.x.pop_back();
  const lot_around method{fixed{generator(6).matrix(6, 9)}};
  CHECK(near(merged(method, l, l.x), merged(method, two, two.x)));
  CHECK(near(merged(method, l, grams(l.x).views), merged(method, two, two.x)));
}

TEST_CASE("LOT around a prior is the refit with Z = X, no outputs and the gain in the prior") {
  for (const auto& rows : {std::vector<index_t>{3, 2}, {9, 14}}) {
    const given l(3, 7, 11, rows);
    const dense prior = generator(7).matrix(7, 11), longer = 1.5 * prior;
    for (const double ridge : {0.0, 0.2, 5.0}) {
      const list none;
      const dense expected =
          catmerge::refit(l.base, l.t, catmerge::refit_data{l.x, none, l.x, &longer}, {ridge, 0})
              .merged;
      CHECK(near(merged(lot_around{fixed{prior}, {1.5, ridge}}, l, l.x), expected));
      CHECK(near(merged(lot_around{fixed{prior}, {1.5, ridge}}, l, grams(l.x).views), expected));
    }
  }
}

namespace {

/// A source, statistics and a sink of parameters in double.
struct network {
  struct entry {
    layer_kind kind;
    dense base;
    list experts, features;
  };
  std::map<std::string, entry> entries{};
  std::map<std::string, dense> merged{};

  std::vector<std::string> tasks() const { return {"a", "b"}; }
  std::vector<catmerge::parameter_group> groups() const {
    std::vector<catmerge::parameter_group> all;
    for (const auto& [name, e] : entries) all.push_back({{name, e.kind}});
    return all;
  }
  const dense& base(const catmerge::parameter_info& p) const { return entries.at(p.name).base; }
  const dense& expert(index_t k, const catmerge::parameter_info& p) const {
    return entries.at(p.name).experts[at(k)];
  }
  std::optional<catmerge::statistics_view<>> get(index_t k,
                                                 const catmerge::parameter_info& p) const {
    const auto& x = entries.at(p.name).features;
    if (x.empty()) return std::nullopt;
    return catmerge::statistics_of(x[at(k)]);
  }
  void release(const catmerge::parameter_group&) {}
  void put(const catmerge::parameter_info& p, dense value) { merged[p.name] = std::move(value); }

  void add(const std::string& name, layer_kind kind, const given& l, bool known) {
    entries[name] = {kind, l.base, l.t, known ? l.x : list{}};
  }
  template <class Method>
  std::map<std::string, bool> missing(const Method& method) {
    std::map<std::string, bool> told;
    for (const auto& r : catmerge::merge_stream(method, *this, *this, *this))
      told[r.name] = r.missing_statistics;
    return told;
  }
};

network varied() {
  network n;
  n.add("known", layer_kind::linear, given(11, 5, 7, {3, 9}), true);
  n.add("unknown", layer_kind::linear, given(12, 4, 6, {3, 3}), false);
  n.add("table", layer_kind::other, given(13, 6, 3, {1, 1}), false);
  n.add("shift", layer_kind::shift, given(14, 5, 1, {1, 1}), false);
  n.add("scale", layer_kind::scale, given(15, 5, 1, {1, 1}), false);
  return n;
}

}  // namespace

TEST_CASE("LOT around a prior in a stream: a prior with scans, and linears without statistics") {
  const auto check = [](const auto& prior) {
    network alone = varied(), around = varied();
    alone.missing(prior);
    const auto told = around.missing(lot_around{prior, {3, 0.4}});
    for (const auto& [name, missing] : told)
      CHECK(missing == (name == "unknown" ||
                        catmerge::needs_statistics(prior, varied().entries.at(name).kind)));
    CHECK(near(around.merged.at("unknown"), alone.merged.at("unknown")));
    for (const char* name : {"table", "shift", "scale"})
      CHECK(near(around.merged.at(name), 3 * alone.merged.at(name)));
    given l(11, 5, 7, {3, 9});
    CHECK(near(around.merged.at("known"), oracle(l, 3 * alone.merged.at("known"), 0.4)));
  };
  check(task_arithmetic_method{0.4});
  check(catmerge::ties_method{});
  check(catmerge::mean_of{catmerge::ties_method{}, catmerge::tsv_m_method{}});
}

TEST_CASE("LOT around a prior: what the prior needs, and the report it makes") {
  using catmerge::needs_statistics;
  const auto around = [](const auto& prior) { return lot_around{prior}; };
  CHECK(needs_statistics(around(task_arithmetic_method{}), layer_kind::linear));
  CHECK_FALSE(needs_statistics(around(task_arithmetic_method{}), layer_kind::scale));
  CHECK(needs_statistics(around(catmerge::lot_method{}), layer_kind::scale));
  CHECK(catmerge::sees_matrices(around(catmerge::tsv_m_method{})));
  CHECK(catmerge::needs_whole_tables(around(catmerge::tsv_m_method{})));
  CHECK_FALSE(catmerge::sees_matrices(around(task_arithmetic_method{})));
  CHECK(catmerge::needs_importance(around(catmerge::fisher_method{})));
  CHECK_FALSE(catmerge::needs_importance(around(task_arithmetic_method{})));
  CHECK(catmerge::scan_wanted(around(catmerge::ties_method{})));
  CHECK_FALSE(catmerge::scan_wanted(around(task_arithmetic_method{})));
  const given l(4, 5, 6, {4, 4});
  CHECK(catmerge::merge_parameter(around(catmerge::cat_method{}), layer_kind::linear, l.base, l.t,
                                  l.x)
            .report.trim);
  const auto scale = [](const auto& prior) {
    const given one(5, 4, 1, {2, 2});
    return catmerge::merge_parameter(lot_around{prior}, layer_kind::scale, one.base, one.t)
        .report.fallback;
  };
  CHECK(scale(catmerge::lot_method{}) == catmerge::fallback_rule::mean);
  CHECK(scale(task_arithmetic_method{}) == catmerge::fallback_rule::none);
}

TEST_CASE_TEMPLATE("LOT around a prior: the same bits on the device and on several threads", S,
                   double, float) {
  const auto upload = [](const auto& all) {
    std::vector<fake_tensor<2>> there;
    for (const auto& m : all) there.push_back(fake_tensor<2>::upload(m));
    return there;
  };
  for (const auto& rows : {std::vector<index_t>{6, 12}, {50, 90}}) {
    const auto l = random_linear<S>(8, 70, 80, rows);
    const lot_around method{catmerge::tsv_m_method{}};
    const matrix_of<S> expected =
        catmerge::merge_parameter(method, layer_kind::linear, l.base, l.experts, l.features).merged;
    host threads(scrambled(3));
    CHECK(same_bits(catmerge::merge_parameter(method, layer_kind::linear, l.base, l.experts,
                                              l.features, threads)
                        .merged,
                    expected));
    CHECK(same_bits(
        catmerge::merge_parameter(method, layer_kind::linear, fake_tensor<2>::upload(l.base),
                                  upload(l.experts), upload(l.features))
            .merged.template download<S>(),
        expected));
  }
}

TEST_CASE("LOT around a prior: settings and statistics that do not fit are refused by name") {
  const given l(9, 4, 6, {3, 2});
  const auto message = [&](const lot_around_options& o, const list& x) {
    try {
      merged(lot_around{task_arithmetic_method{}, o}, l, x);
    } catch (const catmerge::error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  constexpr double infinity = std::numeric_limits<double>::infinity();
  CHECK(message({infinity, 1}, l.x) == "LOT: gain must be a finite number");
  CHECK(message({1, -1}, l.x) == "LOT: ridge must be a finite number, 0 or more");
  CHECK(message({1, infinity}, l.x) == "LOT: ridge must be a finite number, 0 or more");
  list x = l.x;
  x[1](0, 0) = infinity;
  CHECK(message({}, x) == "the parameter: features of 'task 1' hold a value that is not finite");
  x[1](0, 0) = 1e200;
  CHECK(message({}, x) == "the parameter: the shift of 'task 1' overflows float64");
  x[1] = dense::Zero(2, 5);
  CHECK(message({}, x).starts_with("the parameter: features of 'task 1': expected"));
}
