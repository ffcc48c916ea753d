// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <atomic>
#include <limits>
#include <optional>
#include <set>

#include "support/backends/eigen.hpp"
#include "support/executor.hpp"
#include "support/fake_device.hpp"
#include "support/suite/methods_entries.hpp"

// The methods that go entry by entry: whole models against the papers' formulas, identities, edge
// cases and errors.

using namespace test;
using catmerge::bfloat16;
using catmerge::half;
using catmerge::layer_kind;
using catmerge::parameter_info;
using entries::flat;
using entries::flats;
using suite::as;
using suite::compute;
using suite::matrix_type;

namespace {

/// The fake device for the suite.
template <class S>
struct fake_backend {
  using scalar = S;
  static constexpr bool same_bits = true;
  fake_tensor<2> matrix(const matrix_of<S>& m) { return fake_tensor<2>::upload(m); }
  fake_tensor<1> vector(const vector_of<S>& v) { return fake_tensor<1>::upload(v); }
  template <class T>
  static auto to_eigen(const T& t) {
    return t.template download<catmerge::compute_t<S>>();
  }
};

/// A whole model in memory: source, statistics and sink of merge_stream.
template <class B>
struct model {
  using S = typename B::scalar;
  using tensor = matrix_type<B>;
  struct parameter {
    parameter_info info;
    matrix_of<S> base;
    std::vector<matrix_of<S>> experts, importance;
    std::vector<tensor> tensors{}, importance_tensors{};  // base and experts
  };

  B backend{};
  std::vector<parameter> parameters{};
  std::vector<catmerge::result_t<tensor>> merged{};
  index_t scanned_parameters = 0;

  void add(const std::string& name, layer_kind kind, const matrix_of<S>& base,
           const std::vector<matrix_of<S>>& experts,
           const std::vector<matrix_of<S>>& importance = {}) {
    parameters.push_back({{name, kind}, base, experts, importance});
    auto& p = parameters.back();
    p.tensors.push_back(backend.matrix(base));
    for (const auto& e : experts) p.tensors.push_back(backend.matrix(e));
    for (const auto& x : importance) p.importance_tensors.push_back(backend.matrix(x));
  }
  const parameter& find(const parameter_info& i) const {
    for (const auto& p : parameters)
      if (p.info.name == i.name) return p;
    throw std::logic_error(i.name);
  }

  std::vector<std::string> tasks() const { return std::vector<std::string>{"a", "b", "c"}; }
  std::vector<catmerge::parameter_group> groups() const {
    std::vector<catmerge::parameter_group> all;
    for (const auto& p : parameters) all.push_back({p.info});
    return all;
  }
  const tensor& base(const parameter_info& i) const { return find(i).tensors[0]; }
  const tensor& expert(index_t k, const parameter_info& i) const {
    return find(i).tensors[at(k + 1)];
  }
  std::optional<catmerge::statistics_view<suite::domain<B>>> get(index_t,
                                                                 const parameter_info&) const {
    return std::nullopt;
  }
  std::optional<typename catmerge::context<suite::domain<B>>::const_view> importance(
      index_t k, const parameter_info& i) const {
    const auto& p = find(i);
    if (at(k) >= p.importance_tensors.size()) return std::nullopt;
    return catmerge::const_view_of(p.importance_tensors[at(k)]);
  }
  void release(const catmerge::parameter_group&) {}
  void put(const parameter_info&, catmerge::result_t<tensor> t) { merged.push_back(std::move(t)); }

  /// Counts what passes scans.
  struct counter {
    model& m;
    void operator()(const catmerge::parameter_report&) const {}
    void scanned(const parameter_info&) const { ++m.scanned_parameters; }
  };

  template <class Method>
  std::vector<catmerge::parameter_report> merge(const Method& method) {
    merged.clear();
    scanned_parameters = 0;
    catmerge::context<suite::domain<B>> c;
    return catmerge::merge_stream(method, *this, *this, *this, c, counter{*this});
  }

  /// How often the whole model passed a scan.
  index_t passes() const { return scanned_parameters / std::ssize(parameters); }

  flat flat_base() const {
    flat all;
    for (const auto& p : parameters) append(all, entries::values(p.base));
    return all;
  }
  flats flat_vectors() const {
    flats all(3);
    for (const auto& p : parameters)
      for (std::size_t k = 0; k < 3; ++k)
        append(all[k], entries::difference<compute<B>>(p.experts[k], p.base));
    return all;
  }
  flats flat_importance() const {
    flats all(3);
    for (const auto& p : parameters)
      for (std::size_t k = 0; k < 3; ++k) append(all[k], entries::values(p.importance[k]));
    return all;
  }
  flat flat_merged() const {
    flat all;
    for (const auto& t : merged) append(all, entries::values(B::to_eigen(t)));
    return all;
  }

 private:
  static void append(flat& all, const flat& more) {
    all.insert(all.end(), more.begin(), more.end());
  }
};

/// Matrices, a vector, a single number, and a parameter without entries; some entries of every task
/// are exactly the base's, one entry cancels between two tasks.
template <class B>
model<B> example(std::uint64_t seed) {
  using S = typename B::scalar;
  generator g(seed);
  model<B> m;
  const auto add = [&](const std::string& name, layer_kind kind, index_t rows, index_t columns,
                       double size) {
    const matrix_of<S> base = g.matrix<S>(rows, columns);
    std::vector<matrix_of<S>> experts, importance;
    for (int k = 0; k < 3; ++k) {
      matrix_of<S> e = as<S>(
          matrix_of<compute<B>>(as<compute<B>>(base) + g.matrix<compute<B>>(rows, columns, size)));
      for (index_t i = 0; i < rows; ++i)
        for (index_t j = 0; j < columns; ++j)
          if (g.uniform() < 0.15) e(i, j) = base(i, j);
      experts.push_back(e);
      importance.push_back(entries::importance<S>(g, rows, columns));
    }
    m.add(name, kind, base, experts, importance);
  };
  add("weight", layer_kind::linear, 9, 17, 0.1);
  add("bias", layer_kind::shift, 9, 1, 0.3);
  add("number", layer_kind::other, 1, 1, 0.1);
  add("nothing", layer_kind::other, 0, 5, 0.1);
  add("table", layer_kind::other, 23, 6, 0.05);
  matrix_of<S> base = g.matrix<S>(2, 3);
  base(0, 0) = S(0.5F);
  std::vector<matrix_of<S>> experts(3, base), importance(3, entries::importance<S>(g, 2, 3));
  experts[0](0, 0) = S(1.0F), experts[1](0, 0) = S(0.0F);
  m.add("cancelling", layer_kind::linear, base, experts, importance);
  return m;
}

/// Merges small whole numbers around a base of zero, in exact arithmetic.
flats merged_entries(const flats& vectors, const catmerge::ties_options& o) {
  const auto n = static_cast<index_t>(vectors[0].size());
  std::vector<Eigen::VectorXd> experts;
  for (const auto& x : vectors) experts.push_back(Eigen::Map<const Eigen::VectorXd>(x.data(), n));
  const auto merged = catmerge::ties(Eigen::VectorXd::Zero(n).eval(), experts, o).merged;
  return {entries::values(merged)};
}

/// A method that wants all there is, and leaves nothing of the vectors.
struct demanding : catmerge::weight_average_method {
  static bool needs_statistics(layer_kind kind) { return kind == layer_kind::scale; }
  static bool needs_importance() { return true; }
  template <class Context>
  void combine(Context& c, const catmerge::layer_problem<Context>& p,
               catmerge::vector_list<Context> vectors, const typename Context::view& tau,
               catmerge::layer_report& report) const {
    if (p.importance.empty()) report.fallback = catmerge::fallback_rule::mean;
    catmerge::mean_vector(c, vectors, tau);
    for (const auto& t : vectors) c.scale(0, t);  // they are its to change
  }
};

template <class F>
std::string message(const F& f) {
  try {
    f();
  } catch (const catmerge::error& e) {
    return e.what();
  }
  return "no error";
}

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_CASE_TEMPLATE("whole models, against the papers' formulas", B, eigen_backend<double>,
                   eigen_backend<float>, eigen_backend<bfloat16>, fake_backend<double>,
                   fake_backend<float>, fake_backend<half>) {
  using C = compute<B>;
  constexpr bool in_double = std::is_same_v<C, double>;
  const double eps = tolerance::eps<C>;
  for (const auto seed : seeds) {
    auto m = example<B>(seed);
    const flat base = m.flat_base();
    const flats t = m.flat_vectors(), f = m.flat_importance();
    const auto check = [&](const auto& method, const entries::expected& e, index_t passes) {
      const auto reports = m.merge(method);
      CHECK(entries::excess<C>(m.flat_merged(), base, e, method.factor()) <= 0);
      for (const auto& r : reports) CHECK(r.layer.fallback == catmerge::fallback_rule::none);
      CHECK(m.passes() == passes);
    };

    for (const bool normalise : {false, true}) {
      catmerge::fisher_options o;
      o.normalise = normalise;
      o.floor = 1e-7;
      check(catmerge::fisher_method{o}, entries::fisher(t, f, 1e-7, normalise), normalise);
    }
    for (const double density : {0.2, 0.5, 1.0})
      for (const auto merge : {catmerge::ties_merge::mean, catmerge::ties_merge::sum}) {
        const flat tau = entries::ties(t, density, merge == catmerge::ties_merge::mean);
        const catmerge::ties_options o{density, 0.7, merge};
        check(catmerge::ties_method{o}, {tau, {}}, in_double ? 5 : 3);
        const auto bits = m.flat_merged();
        m.merge(catmerge::chain{catmerge::ties_trim{o}, catmerge::ties_elect{o}});
        CHECK(same_bits(m.flat_merged(), bits));

        catmerge::consensus_options c;
        c.lambda = {0.3, 0.5, 0.8};
        // The comparisons meet T_mtl as it is stored: in C.
        flat stored = tau;
        for (double& x : stored) x = static_cast<double>(static_cast<C>(x));
        check(catmerge::consensus_method{c, catmerge::ties_method{o}},
              {entries::consensus(t, stored, c.lambda, 2), flat(tau.size(), 0)}, in_double ? 5 : 3);
      }
    for (const int k : {0, 1, 2, 3, 4}) {
      catmerge::consensus_options o;
      o.lambda = {0.3, 0.5, 0.8};
      o.k = k;
      auto multi = entries::summed(t, eps);
      multi.tau = entries::consensus(t, multi.tau, o.lambda, k);
      check(catmerge::consensus_method<>{o}, multi, 0);
    }
    for (const double ratio : {0.05, 0.3, 1.0})
      for (const double clip : {1e-4, 0.02}) {
        catmerge::pcb_options o;
        o.ratio = ratio, o.clip = clip;
        check(catmerge::pcb_method{o}, entries::pcb(t, ratio, clip, 2 * eps), in_double ? 8 : 4);
      }
    for (const double quantile : {0.0, 0.5, 0.9, 1.0})
      for (const bool zero_shot : {false, true}) {
        const catmerge::tatr_options o{quantile, zero_shot, 0.4};
        flats g = f;
        if (zero_shot)
          for (std::size_t k = 0; k < 3; ++k) g[k] = entries::magnitudes(t[k]);
        const auto kept = entries::tatr(
            t, g, quantile, [](double x) { return static_cast<double>(static_cast<C>(x)); });
        check(catmerge::tatr_method{o}, entries::summed(kept, eps), in_double ? 4 : 2);
        const auto bits = m.flat_merged();
        m.merge(catmerge::chain{catmerge::tatr_filter{o}, catmerge::task_arithmetic_method{0.4}});
        CHECK(same_bits(m.flat_merged(), bits));
      }
    flats dropped(3);
    for (const auto& p : m.parameters)
      for (std::size_t k = 0; k < 3; ++k) {
        const auto x = entries::difference<C>(p.experts[k], p.base);
        const auto kept = entries::dare_mask(seed, k, p.info.name, x.size(), 0.75);
        for (std::size_t i = 0; i < x.size(); ++i) dropped[k].push_back(kept[i] ? 4 * x[i] : 0);
      }
    check(catmerge::chain{catmerge::dare_transform{{0.75, seed}},
                          catmerge::task_arithmetic_method{0.3}},
          entries::summed(dropped, eps), 0);
  }
}

TEST_CASE("parameters of more than one strip, in any order of threads") {
  generator g(4);
  const index_t rows = 600, columns = 1000;  // a strip is 262 of its rows
  const Eigen::MatrixXf base = g.matrix<float>(rows, columns);
  std::vector<Eigen::MatrixXf> experts, importance;
  flats t, f;
  for (int k = 0; k < 2; ++k) {
    experts.push_back(base + g.matrix<float>(rows, columns, 0.1));
    importance.push_back(entries::importance<float>(g, rows, columns));
    t.push_back(entries::difference<float>(experts.back(), base));
    f.push_back(entries::values(importance.back()));
  }
  const flat from = entries::values(base);
  const double eps = tolerance::eps<float>;
  std::atomic<int> calls{0};
  catmerge::context<catmerge::host> threads(scrambled(3, &calls));
  const auto check = [&](const auto& merge, const entries::expected& e, double alpha) {
    catmerge::context<catmerge::host> one;
    const Eigen::MatrixXf found = merge(one);
    CHECK(entries::excess<float>(entries::values(found), from, e, alpha) <= 0);
    calls = 0;
    CHECK(same_bits(found, Eigen::MatrixXf(merge(threads))));
    CHECK(calls > 0);
  };
  check([&](auto& c) { return catmerge::fisher(base, experts, importance, {}, c).merged; },
        entries::fisher(t, f, 1e-6, false), 1);
  check([&](auto& c) { return catmerge::ties(base, experts, {}, c).merged; },
        {entries::ties(t, 0.2, true), {}}, 1);
  auto multi = entries::summed(t, eps);
  multi.tau = entries::consensus(t, multi.tau, {0.4, 0.4}, 2);
  check([&](auto& c) { return catmerge::consensus(base, experts, {}, c).merged; }, multi, 0.3);
  check([&](auto& c) { return catmerge::pcb(base, experts, {}, c).merged; },
        entries::pcb(t, 0.05, 1e-4, 2 * eps), 1.2);
  const auto kept = entries::tatr(
      t, f, 0.99, [](double x) { return static_cast<double>(static_cast<float>(x)); });
  check([&](auto& c) { return catmerge::tatr(base, experts, importance, {}, c).merged; },
        entries::summed(kept, eps), 0.3);
  flats dropped = t;
  for (std::size_t k = 0; k < 2; ++k) {
    const auto mask = entries::dare_mask(9, k, "", t[k].size(), 0.9);
    for (std::size_t i = 0; i < mask.size(); ++i) dropped[k][i] = mask[i] ? 10 * t[k][i] : 0;
  }
  check(
      [&](auto& c) {
        return catmerge::detail::merge_one(c,
                                           catmerge::chain{catmerge::dare_transform{{0.9, 9}},
                                                           catmerge::task_arithmetic_method{}},
                                           catmerge::layer_problem<std::decay_t<decltype(c)>>{},
                                           base, experts)
            .merged;
      },
      entries::summed(dropped, 2 * eps), 0.3);
}

TEST_CASE("a model of double and float parameters has one threshold") {
  // |T|: 1, 2, 3 in double and 4, 5, 6 in float, moved by less than floats can tell.
  Eigen::VectorXd wide_base = Eigen::VectorXd::Zero(3), wide(3);
  wide << 1, 2, 3 + 1e-12;
  Eigen::VectorXf narrow_base = Eigen::VectorXf::Zero(3), narrow(3);
  narrow << 3, 5, 6;
  using context = catmerge::context<catmerge::host>;
  context c;
  catmerge::layer_problem<context> first, second;
  first.base = catmerge::const_view_of(wide_base);
  first.experts = {catmerge::const_view_of(wide)};
  second.base = catmerge::const_view_of(narrow_base);
  second.experts = {catmerge::const_view_of(narrow)};
  catmerge::ties_method ties({0.34});  // floor(6 * 0.34) + 1 = 3 entries: 3 + 1e-12, 5, 6
  index_t passes = 0;
  for (; ties.scan_wanted(); ++passes) {
    for (const auto* p : {&first, &second}) {
      auto vectors = catmerge::form_vectors(c, *p);
      const auto views = catmerge::views_of<context>(vectors);
      ties.scan(c, *p, catmerge::vector_list<context>(views));
    }
    ties.end_scan();
  }
  CHECK(passes == 5);
  Eigen::VectorXd wide_out(3);
  Eigen::VectorXf narrow_out(3);
  catmerge::merge_problem(ties, c, first, catmerge::view_of(wide_out));
  catmerge::merge_problem(ties, c, second, catmerge::view_of(narrow_out));
  CHECK(wide_out == Eigen::Vector3d(0, 0, 3 + 1e-12));
  CHECK(narrow_out == Eigen::Vector3f(0, 5, 6));
}

TEST_CASE("tasks whose thresholds are found in different numbers of scans") {
  const Eigen::VectorXf base = Eigen::VectorXf::Zero(4), narrow = Eigen::Vector4f(1, 2, 3, 4);
  const Eigen::VectorXd wide = Eigen::Vector4d(3, 3 - 1e-12, 0, 3 - 2e-12);
  using context = catmerge::context<catmerge::host>;
  context c;
  catmerge::layer_problem<context> p;
  p.base = catmerge::const_view_of(base);
  p.experts = {catmerge::const_view_of(narrow), catmerge::const_view_of(wide)};
  catmerge::ties_method ties({0.3, 1, catmerge::ties_merge::sum});  // two entries of each
  catmerge::scan_problem(ties, c, p);
  Eigen::VectorXf out(4);
  catmerge::merge_problem(ties, c, p, catmerge::view_of(out));
  CHECK(out == Eigen::Vector4f(3, 3, 3, 4));
}

TEST_CASE("Fisher: the weighted mean is where the weighted squares are least") {
  generator g(5);
  const Eigen::MatrixXd base = g.matrix(6, 5);
  std::vector<Eigen::MatrixXd> experts, importance;
  for (int k = 0; k < 4; ++k) {
    experts.push_back(g.matrix(6, 5));
    importance.push_back(entries::importance<double>(g, 6, 5));
  }
  const auto cost = [&](const Eigen::MatrixXd& theta) {
    double sum = 0;
    for (std::size_t k = 0; k < 4; ++k)
      sum += ((importance[k].array() + 1e-6) * (theta - experts[k]).array().square()).sum();
    return sum;
  };
  const auto merged = catmerge::fisher(base, experts, importance).merged;
  for (int i = 0; i < 50; ++i)
    CHECK(cost(merged) < cost(merged + g.matrix(6, 5, i % 2 == 0 ? 1e-3 : 1)));

  // Equal weights: the mean. One weight alone: that expert. None at all: the base.
  const double rounding = 8 * tolerance::eps<double> * 5;
  const std::vector<Eigen::MatrixXd> ones(4, Eigen::MatrixXd::Ones(6, 5));
  const Eigen::MatrixXd mean = catmerge::weight_average(base, experts).merged;
  CHECK((catmerge::fisher(base, experts, ones).merged - mean).cwiseAbs().maxCoeff() <= rounding);
  std::vector<Eigen::MatrixXd> alone(4, Eigen::MatrixXd::Zero(6, 5));
  alone[2].setConstant(1e-9);
  CHECK((catmerge::fisher(base, experts, alone, {0.0}).merged - experts[2]).cwiseAbs().maxCoeff() <=
        rounding);
  alone[2].setZero();
  CHECK(catmerge::fisher(base, experts, alone, {0.0}).merged == base);
  CHECK(catmerge::fisher(base, experts, alone, {0.0, true}).merged == base);

  // Normalised, without a floor: a task's scale does not count. Powers of two leave the same bits.
  const auto normalised = catmerge::fisher(base, experts, importance, {0.0, true}).merged;
  importance[1] *= 1024;
  const auto scaled = catmerge::fisher(base, experts, importance, {0.0, true}).merged;
  CHECK((scaled - normalised).cwiseAbs().maxCoeff() <= rounding);
  CHECK((catmerge::fisher(base, experts, importance, {0.0}).merged - merged).cwiseAbs().maxCoeff() >
        1e-3);
}

TEST_CASE("Fisher: a parameter without importances becomes the mean") {
  auto m = example<eigen_backend<float>>(6);
  m.parameters[0].importance_tensors.pop_back();
  m.parameters[4].importance_tensors.clear();
  for (const bool normalise : {false, true}) {
    catmerge::fisher_options o;
    o.normalise = normalise;
    const auto reports = m.merge(catmerge::fisher_method{o});
    for (const std::size_t i : {std::size_t{0}, std::size_t{4}}) {
      const auto& p = m.parameters[i];
      CHECK(reports[i].layer.fallback == catmerge::fallback_rule::mean);
      CHECK(same_bits(m.merged[i], catmerge::weight_average(p.base, p.experts).merged));
    }
    CHECK(reports[1].layer.fallback == catmerge::fallback_rule::none);
    CHECK(m.merged[1] !=
          catmerge::weight_average(m.parameters[1].base, m.parameters[1].experts).merged);
  }
}

TEST_CASE("TIES: counts, ties at the threshold, elections") {
  const auto ties = [](const flats& t, double density,
                       catmerge::ties_merge merge = catmerge::ties_merge::mean) {
    return merged_entries(t, {density, 1, merge})[0];
  };
  // floor(10 * 0.2) + 1 = 3 entries; and all that equal the third.
  CHECK(ties({{1, -2, 3, -4, 5, -6, 7, -8, 9, -10}}, 0.2) == flat{0, 0, 0, 0, 0, 0, 0, -8, 9, -10});
  CHECK(ties({{8, -8, 3, 4, 5, 6, 7, -8, 9, -10}}, 0.2) == flat{8, -8, 0, 0, 0, 0, 0, -8, 9, -10});
  CHECK(ties({{1, -1, 1, -1}}, 0.2) == flat{1, -1, 1, -1});
  CHECK(ties({{1, 2, 3}}, 0.1) == flat{0, 0, 3});
  CHECK(ties({{1, 2, 3}}, 0.7) == flat{1, 2, 3});
  CHECK(ties({{1, -2, 3}}, 1) == flat{1, -2, 3});
  CHECK(ties({{0, 0, 0, 0, 0, 2}}, 0.5) == flat{0, 0, 0, 0, 0, 2});  // a threshold of zero
  CHECK(ties({{0, 0}, {0, 0}}, 0.2) == flat{0, 0});
  CHECK(ties({{-3}}, 0.2) == flat{-3});

  // The sign of larger mass wins, its values are averaged or added, whoever has none is not
  // counted.
  const flats three{{4, 4, 1, 0, -2}, {2, -3, 1, 0, -4}, {-3, -2, 1, 5, 0}};
  CHECK(ties(three, 1) == flat{3, -2.5, 1, 5, -3});
  CHECK(ties(three, 1, catmerge::ties_merge::sum) == flat{6, -5, 3, 5, -6});
  // The order of the tasks plays no part, the scale of all is the result's.
  CHECK(ties({three[2], three[0], three[1]}, 1) == flat{3, -2.5, 1, 5, -3});
  flats doubled = three;
  for (auto& x : doubled)
    for (double& v : x) v *= -2;
  CHECK(ties(doubled, 1) == flat{-6, 5, -2, -10, 6});

  // A sum of zero takes the sign that more entries have: plus, minus; minus if undecided.
  CHECK(ties({{2, 1, 1}, {-2, 1, 1}}, 1) == flat{2, 1, 1});
  CHECK(ties({{2, -1, -1}, {-2, -1, -1}}, 1) == flat{-2, -1, -1});
  CHECK(ties({{2, 1, -1}, {-2, 1, -1}}, 1) == flat{-2, 1, -1});
  // Entries that are trimmed in all tasks have no sign and do not vote: two minus against one plus.
  CHECK(ties({{9, 8, -8, -8, 1, 1}, {-9, 8, -8, -8, 1, 1}}, 0.5) == flat{-9, 8, -8, -8, 0, 0});
}

TEST_CASE("DARE: the generator is SplitMix64, the mask a function of its four keys") {
  // The sequence from 1234567, as Rosetta Code lists it ("Pseudo-random numbers/Splitmix64").
  const std::uint64_t published[] = {6457827717110365317U, 3203168211198807973U,
                                     9817491932198370423U, 4593380528125082431U,
                                     16408922859458223821U};
  for (std::uint64_t i = 0; i < 5; ++i)
    CHECK(catmerge::detail::random_bits(1234567, i) == published[i]);
  // FNV-1a of the empty text and of "foobar" (RFC 9923, test vectors).
  CHECK(catmerge::detail::hash_of("") == 0xcbf29ce484222325U);
  CHECK(catmerge::detail::hash_of("foobar") == 0x85944171f73967e8U);

  using context = catmerge::context<catmerge::host>;
  context c;
  const index_t rows = 60, columns = 70;
  const auto masks = [&](const std::string& name, double drop, std::uint64_t seed) {
    std::vector<catmerge::host_matrix> ones;
    for (int k = 0; k < 2; ++k) {
      ones.push_back(c.make(catmerge::scalar_type::f64, rows, columns));
      c.map(catmerge::entry_function::at_least, 1, ones.back(), ones.back());
    }
    catmerge::layer_problem<context> p;
    p.names.parameter = name;
    catmerge::layer_report unused;
    const auto views = catmerge::views_of<context>(ones);
    catmerge::dare_transform{{drop, seed}}.apply(c, p, catmerge::vector_list<context>(views),
                                                 unused);
    return std::vector<Eigen::MatrixXd>{c.to_host(ones[0]), c.to_host(ones[1])};
  };
  std::set<std::vector<double>> all;
  for (const std::string name : {"q.weight", "k.weight"})
    for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}})
      for (const auto& m : masks(name, 0.75, seed)) {
        all.insert(entries::values(m));
        // 0, or 1 / (1 - p); as many as a binomial distribution leaves within five deviations.
        const double kept = static_cast<double>((m.array() == 4).count());
        CHECK((m.array() == 0).count() + (m.array() == 4).count() == m.size());
        const double n = static_cast<double>(m.size());
        CHECK(std::abs(kept - 0.25 * n) <= 5 * std::sqrt(n * 0.25 * 0.75));
        // Neighbours are independent: pairs of kept entries, likewise.
        const double pairs = static_cast<double>(
            (m.leftCols(columns - 1).array() * m.rightCols(columns - 1).array() > 0).count());
        const double count = static_cast<double>(rows * (columns - 1)), chance = 0.0625;
        CHECK(std::abs(pairs - chance * count) <= 5 * std::sqrt(2 * count * chance));
      }
  CHECK(all.size() == 8);  // all differ
  // Pieces of a table have the masks of their rows, whatever the pieces are called.
  const auto whole = masks("q.weight", 0.75, 1);
  for (const index_t first : {0, 25}) {
    std::vector<catmerge::host_matrix> ones;
    for (int k = 0; k < 2; ++k) {
      ones.push_back(c.make(catmerge::scalar_type::f64, 35, columns));
      c.map(catmerge::entry_function::at_least, 1, ones.back(), ones.back());
    }
    catmerge::layer_problem<context> p;
    p.names = {"a piece", {}, "q.weight", first};
    catmerge::layer_report unused;
    const auto views = catmerge::views_of<context>(ones);
    catmerge::dare_transform{{0.75, 1}}.apply(c, p, catmerge::vector_list<context>(views), unused);
    for (const std::size_t k : {0, 1}) CHECK(c.to_host(ones[k]) == whole[k].middleRows(first, 35));
  }
  CHECK(masks("q.weight", 0, 3)[1] == Eigen::MatrixXd::Ones(rows, columns));
  // A larger p drops what a smaller one does, and more.
  const auto few = masks("x", 0.5, 3)[0], fewer = masks("x", 0.9, 3)[0];
  CHECK(((few.array() == 0) && (fewer.array() != 0)).count() == 0);
  CHECK((fewer.array() != 0).count() < (few.array() != 0).count());
}

TEST_CASE("Consensus: masks by counts") {
  generator g(8);
  const Eigen::MatrixXd base = g.matrix(12, 9);
  std::vector<Eigen::MatrixXd> experts;
  for (int k = 0; k < 3; ++k) experts.push_back(base + g.matrix(12, 9, 0.1));
  const auto merged = [&](std::vector<double> lambda, index_t k) {
    return catmerge::consensus(base, experts, {std::move(lambda), k, 0.3}).merged;
  };
  const Eigen::MatrixXd sum = catmerge::task_arithmetic(base, experts, 0.3).merged;
  CHECK(same_bits(merged({0.4}, 0), sum));
  CHECK(merged({0.4}, 4) == base);
  CHECK(same_bits(merged({0.0}, 3), sum));  // |T_t| > 0 everywhere
  CHECK(same_bits(merged({0.4}, 2), merged({0.4, 0.4, 0.4}, 2)));
  // A task whose lambda is out of reach has an empty mask: two are left.
  CHECK(merged({0.0, 1e9, 0.0}, 3) == base);
  CHECK(same_bits(merged({0.0, 1e9, 0.0}, 2), sum));
  // The fewer masks are asked for, the more entries are kept.
  index_t before = 0;
  for (const index_t k : {3, 2, 1, 0}) {
    const index_t kept = (merged({0.8}, k).array() != base.array()).count();
    CHECK(kept > before);
    before = kept;
  }
  // One task: by default there is nothing that two agree on, with k = 1 all of it.
  const std::vector<Eigen::MatrixXd> one{experts[0]};
  CHECK(catmerge::consensus(base, one).merged == base);
  CHECK(same_bits(catmerge::consensus(base, one, {{0.4}, 1, 1}).merged,
                  catmerge::task_arithmetic(base, one, 1).merged));
}

TEST_CASE("Consensus passes on what its inner method needs and says") {
  const catmerge::consensus_method method{catmerge::consensus_options{{0.0}, 1, 1}, demanding{}};
  CHECK(catmerge::needs_importance(method));
  CHECK(catmerge::needs_statistics(method, layer_kind::scale));
  CHECK_FALSE(catmerge::needs_statistics(method, layer_kind::linear));
  CHECK_FALSE(catmerge::scan_wanted(method));
  CHECK_FALSE(catmerge::needs_importance(catmerge::consensus_method<>{}));
  auto m = example<eigen_backend<double>>(9);
  m.parameters[1].importance_tensors.clear();
  const auto reports = m.merge(method);
  for (std::size_t i = 0; i < reports.size(); ++i) {
    const auto& p = m.parameters[i];
    CHECK((reports[i].layer.fallback == catmerge::fallback_rule::mean) == (i == 1));
    CHECK(same_bits(m.merged[i], catmerge::weight_average(p.base, p.experts).merged));
  }
}

TEST_CASE("PCB: degenerate scores leave numbers, not NaN") {
  const auto pcb = [](const flats& t, catmerge::pcb_options o = {}) {
    const auto n = static_cast<index_t>(t[0].size());
    std::vector<Eigen::VectorXd> experts;
    for (const auto& x : t) experts.push_back(Eigen::Map<const Eigen::VectorXd>(x.data(), n));
    return entries::values(catmerge::pcb(Eigen::VectorXd::Zero(n).eval(), experts, o).merged);
  };
  // One value only: no score is above another, every task drops out.
  CHECK(pcb({{3}, {2}}) == flat{0});
  CHECK(pcb({{2, 2, 2, 2}}) == flat{0, 0, 0, 0});
  CHECK(pcb({{0, 0, 0}, {0, 0, 0}}) == flat{0, 0, 0});
  // Equal sizes, so exp(0): the tanh alone decides. Half of the entries agree with the other task.
  const catmerge::pcb_options all{1, 0, 1};
  CHECK(pcb({{1, 1, -1, -1}, {1, -1, 1, -1}}, all) == flat{1, 0, 0, -1});
  // A task without changes drops out: what is left is the other's, clamped.
  CHECK(pcb({{1, -2, 3, -4}, {0, 0, 0, 0}}, all) == flat{0, -2, 3, -4});
  // The largest is clamped to the second largest where n < 1 / clip.
  CHECK(pcb({{1, -2, 3, -4}, {0, 0, 0, 0}}, {1, 1e-4, 1}) == flat{0, -2, 3, -3});
  // Half of the scores are at the threshold or below.
  CHECK(pcb({{1, -2, 3, -4}, {0, 0, 0, 0}}, {0.5, 0, 1}) == flat{0, 0, 0, -4});
}

TEST_CASE("PCB: a weighted mean of clamped values, whatever the order and number of tasks") {
  generator g(10);
  const index_t n = 300;
  const Eigen::VectorXd base = Eigen::VectorXd::Zero(n);
  std::vector<Eigen::VectorXd> experts;
  for (int k = 0; k < 4; ++k) experts.push_back(g.vector(n, 0.3));
  const catmerge::pcb_options o{0.4, 0.01, 1};
  const Eigen::VectorXd merged = catmerge::pcb(base, experts, o).merged;
  for (index_t i = 0; i < n; ++i) {
    double low = 0, high = 0;  // 0 where no task has a weight
    for (const auto& e : experts) {
      const flat order = entries::sorted(entries::magnitudes(entries::values(e)));
      const double size = std::clamp(std::abs(e(i)), order[3], order[296]);
      low = std::min(low, entries::sign(e(i)) * size);
      high = std::max(high, entries::sign(e(i)) * size);
    }
    CHECK(merged(i) >= low - 1e-15);
    CHECK(merged(i) <= high + 1e-15);
  }
  std::swap(experts[0], experts[3]);
  std::swap(experts[1], experts[2]);
  flats t;
  for (const auto& e : experts) t.push_back(entries::values(e));
  // Sums in another order: within what rounding does to scores.
  CHECK(entries::excess<double>(entries::values(merged), flat(at(n), 0),
                                entries::pcb(t, 0.4, 0.01, 32 * tolerance::eps<double>), 1) <= 0);
  // So many tasks that e^K is beyond every float, and e^-K below.
  std::vector<Eigen::VectorXf> many;
  for (int k = 0; k < 95; ++k) many.push_back(g.vector<float>(n, 0.3));
  t.clear();
  for (const auto& e : many) t.push_back(entries::values(e));
  const auto found = catmerge::pcb(Eigen::VectorXf::Zero(n).eval(), many, {0.05, 1e-4, 1}).merged;
  CHECK(entries::excess<float>(entries::values(found), flat(at(n), 0),
                               entries::pcb(t, 0.05, 1e-4, 4 * tolerance::eps<float>), 1) <= 0);
}

TEST_CASE("TATR: how many entries are kept") {
  generator g(11);
  const index_t n = 200;
  const Eigen::VectorXf base = g.vector<float>(n);
  std::vector<Eigen::VectorXf> experts, sizes;
  for (int k = 0; k < 3; ++k) {
    experts.push_back(base + g.vector<float>(n, 0.1));
    sizes.push_back((experts.back() - base).cwiseAbs());
  }
  const Eigen::VectorXf sum = catmerge::task_arithmetic(base, experts, 0.3).merged;
  for (const double quantile : {0.0, 0.25, 0.5, 0.99}) {
    const auto merged = catmerge::tatr(base, experts, {quantile, true}).merged;
    // Nothing else than floor(n q) entries of Task Arithmetic, and the base's.
    CHECK((merged.array() == sum.array()).count() == static_cast<index_t>(200 * quantile));
    CHECK(((merged.array() == sum.array()) || (merged.array() == base.array())).all());
    CHECK(same_bits(merged, catmerge::tatr(base, experts, sizes, {quantile}).merged));
    catmerge::context<catmerge::host> c;
    CHECK(same_bits(merged, catmerge::tatr(base, experts, {quantile, true}, c).merged));
  }
  // Of the last quantile only the largest is outside.
  CHECK((catmerge::tatr(base, experts, {1, true}).merged.array() == sum.array()).count() == n - 1);
  // Without conflict nothing is dropped: one task, or no two tasks that share an entry.
  const std::vector<Eigen::VectorXf> one{experts[0]};
  CHECK(same_bits(catmerge::tatr(base, one, {0.5, true}).merged,
                  catmerge::task_arithmetic(base, one, 0.3).merged));
  std::vector<Eigen::VectorXf> apart(2, base);
  apart[0].head(3) = experts[0].head(3);
  apart[1].tail(3) = experts[1].tail(3);
  CHECK(same_bits(catmerge::tatr(base, apart, {0.5, true}).merged,
                  catmerge::task_arithmetic(base, apart, 0.3).merged));
  // The order of the tasks plays no part.
  const auto merged = catmerge::tatr(base, experts, {0.5, true}).merged;
  const std::vector<Eigen::VectorXf> turned{experts[2], experts[0], experts[1]};
  const auto other = catmerge::tatr(base, turned, {0.5, true}).merged;
  CHECK((merged.array() == base.array()).matrix() == (other.array() == base.array()).matrix());
}

TEST_CASE("settings of single parameters, and methods for some, with scans") {
  auto m = example<eigen_backend<float>>(12);
  const auto chosen = [](const auto& p) { return p.names.parameter == "table"; };
  m.merge(catmerge::ties_method{});
  const auto plain = m.merged;
  m.merge(catmerge::adjusted{catmerge::ties_method{}, [&](const auto& p, auto& method) {
                               if (chosen(p)) method.options.alpha = 0;
                             }});
  for (std::size_t i = 0; i < plain.size(); ++i)
    CHECK(same_bits(m.merged[i],
                    m.parameters[i].info.name == "table" ? m.parameters[i].base : plain[i]));
  const catmerge::ties_options means{1}, sums{1, 1, catmerge::ties_merge::sum};
  m.merge(catmerge::ties_method{means});
  const auto averaged = m.merged;
  m.merge(catmerge::ties_method{sums});
  const auto summed = m.merged;
  CHECK_FALSE(same_bits(summed[4], averaged[4]));
  m.merge(catmerge::adjusted{catmerge::ties_method{means}, [&](const auto& p, auto& method) {
                               if (chosen(p)) method.options.merge = catmerge::ties_merge::sum;
                             }});
  for (std::size_t i = 0; i < plain.size(); ++i)
    CHECK(same_bits(m.merged[i], m.parameters[i].info.name == "table" ? summed[i] : averaged[i]));
  m.merge(catmerge::where{chosen, catmerge::ties_method{}, catmerge::weight_average_method{}});
  for (std::size_t i = 0; i < plain.size(); ++i) {
    const auto& p = m.parameters[i];
    CHECK(same_bits(m.merged[i], p.info.name == "table"
                                     ? catmerge::ties(p.base, p.experts).merged
                                     : catmerge::weight_average(p.base, p.experts).merged));
  }
  m.merge(catmerge::chain{catmerge::tatr_filter{{0.9, true}}, catmerge::ties_method{}});
  const auto t = entries::tatr(
      m.flat_vectors(),
      [&] {
        flats g = m.flat_vectors();
        for (auto& x : g) x = entries::magnitudes(x);
        return g;
      }(),
      0.9, [](double x) { return static_cast<double>(static_cast<float>(x)); });
  CHECK(entries::excess<float>(m.flat_merged(), m.flat_base(), {entries::ties(t, 0.2, true), {}},
                               1) <= 0);
  CHECK(m.passes() == 5);
}

TEST_CASE("models without entries, and without parameters") {
  const Eigen::MatrixXf none(0, 5);
  const std::vector<Eigen::MatrixXf> experts(2, none);
  CHECK(catmerge::fisher(none, experts, experts).merged.rows() == 0);
  CHECK(catmerge::ties(none, experts).merged.rows() == 0);
  CHECK(catmerge::consensus(none, experts).merged.rows() == 0);
  CHECK(catmerge::pcb(none, experts).merged.rows() == 0);
  CHECK(catmerge::tatr(none, experts, experts).merged.rows() == 0);
  model<eigen_backend<float>> nothing;
  CHECK(nothing.merge(catmerge::ties_method{}).empty());
  CHECK(nothing.merge(catmerge::pcb_method{}).empty());
  CHECK(nothing.merge(catmerge::tatr_method{}).empty());
}

TEST_CASE("one task returns its expert, no change the base") {
  generator g(13);
  const Eigen::MatrixXd base = g.matrix(7, 6);
  const std::vector<Eigen::MatrixXd> one{base + g.matrix(7, 6, 0.1)}, same(3, base);
  const std::vector<Eigen::MatrixXd> importance(3, Eigen::MatrixXd::Ones(7, 6)),
      first{importance[0]};
  const Eigen::MatrixXd expert = catmerge::task_arithmetic(base, one, 1).merged;
  CHECK(same_bits(catmerge::ties(base, one, {1.0}).merged, expert));
  CHECK(same_bits(catmerge::consensus(base, one, {{0.4}, 1, 1}).merged, expert));
  CHECK(same_bits(catmerge::tatr(base, one, first, {0.5, false, 1}).merged, expert));
  CHECK((catmerge::fisher(base, one, first).merged - expert).cwiseAbs().maxCoeff() <=
        4 * tolerance::eps<double>);
  CHECK(catmerge::fisher(base, same, importance).merged == base);
  CHECK(catmerge::ties(base, same).merged == base);
  CHECK(catmerge::consensus(base, same).merged == base);
  CHECK(catmerge::pcb(base, same).merged == base);
  CHECK(catmerge::tatr(base, same, importance).merged == base);
}

TEST_CASE("errors name what is wrong") {
  generator g(14);
  const Eigen::MatrixXf base = g.matrix<float>(4, 3);
  std::vector<Eigen::MatrixXf> experts(2, base + g.matrix<float>(4, 3)),
      importance(2, Eigen::MatrixXf::Ones(4, 3));
  using catmerge::ties_merge;
  for (const double density : {0.0, -0.1, 1.1, not_a_number}) {
    CHECK(message([&] { catmerge::ties(base, experts, {density}); }) ==
          "TIES: density must be above 0 and at most 1");
  }
  CHECK(message([&] {
          catmerge::ties(base, experts, {0.2, infinity});
        }) == "TIES: alpha must be a finite number");
  for (const double drop : {-0.1, 1.0, not_a_number})
    CHECK(message([&] { validate(catmerge::dare_options{drop}); }) ==
          "DARE: the probability to drop an entry must be at least 0 and below 1");
  for (const double floor : {-1e-9, not_a_number, infinity})
    CHECK(message([&] { catmerge::fisher(base, experts, importance, {floor}); }) ==
          "Fisher merging: floor must be a finite number, 0 or more");
  CHECK(message([&] { catmerge::consensus(base, experts, {{}}); }) ==
        "Consensus: there is no lambda");
  CHECK(message([&] {
          catmerge::consensus(base, experts, {{0.4, -1}});
        }) == "Consensus: lambda must be a finite number, 0 or more");
  CHECK(message([&] {
          catmerge::consensus(base, experts, {{0.4, 0.4, 0.4}});
        }) == "Consensus: 3 lambdas for 2 tasks: expected one, or one for each");
  CHECK(message([&] {
          catmerge::consensus(base, experts, {{0.4}, -1});
        }) == "Consensus: k must be 0 or more");
  CHECK(message([&] {
          catmerge::consensus(base, experts, {{0.4}, 2, not_a_number});
        }) == "Consensus: alpha must be a finite number");
  for (const double ratio : {0.0, 1.1, not_a_number})
    CHECK(message([&] { catmerge::pcb(base, experts, {ratio}); }) ==
          "PCB: ratio must be above 0 and at most 1");
  for (const double clip : {-0.1, 0.5, not_a_number})
    CHECK(message([&] {
            catmerge::pcb(base, experts, {0.1, clip});
          }) == "PCB: clip must be at least 0 and below 0.5");
  CHECK(message([&] {
          catmerge::pcb(base, experts, {0.1, 0.1, not_a_number});
        }) == "PCB: alpha must be a finite number");
  for (const double quantile : {-0.1, 1.1, not_a_number})
    CHECK(message([&] { catmerge::tatr(base, experts, importance, {quantile}); }) ==
          "TATR: quantile must be at least 0 and at most 1");
  CHECK(message([&] {
          catmerge::tatr(base, experts, importance, {0.5, true, not_a_number});
        }) == "TATR: alpha must be a finite number");
  CHECK(message([&] { catmerge::tatr(base, experts); }) ==
        "the parameter: TATR needs the tasks' sensitivities, mean |gradient| at theta_0, as "
        "importances; the option zero_shot needs none");

  importance[1](2, 2) = -1e-30F;
  const std::string negative = "the parameter: importances of 'task 1' hold a negative value";
  CHECK(message([&] { catmerge::fisher(base, experts, importance); }) == negative);
  CHECK(message([&] { catmerge::fisher(base, experts, importance, {1e-6, true}); }) == negative);
  CHECK(message([&] { catmerge::tatr(base, experts, importance); }) == negative);
  importance[1](2, 2) = std::numeric_limits<float>::infinity();
  CHECK(message([&] { catmerge::tatr(base, experts, importance); }) ==
        "the parameter: importances of 'task 1' hold a value that is not finite");
  experts[0](1, 1) = std::numeric_limits<float>::quiet_NaN();
  const std::string bad = "the parameter: expert 'task 0' holds a value that is not finite";
  CHECK(message([&] { catmerge::ties(base, experts); }) == bad);
  CHECK(message([&] { catmerge::pcb(base, experts); }) == bad);
  CHECK(message([&] { catmerge::consensus(base, experts); }) == bad);

  // Whoever leaves out the scans.
  experts[0] = experts[1];
  importance[1](2, 2) = 1;
  using context = catmerge::context<catmerge::host>;
  context c;
  catmerge::layer_problem<context> p;
  p.base = catmerge::const_view_of(base);
  p.experts = catmerge::detail::read_all<context>(experts);
  p.importance = catmerge::detail::read_all<context>(importance);
  Eigen::MatrixXf out(4, 3);
  const auto unscanned = [&](const auto& method) {
    return message([&] { catmerge::merge_problem(method, c, p, catmerge::view_of(out)); });
  };
  const std::string late = "this method merges a parameter after all have passed its scans";
  CHECK(unscanned(catmerge::ties_method{}) == late);
  CHECK(unscanned(catmerge::pcb_method{}) == late);
  CHECK(unscanned(catmerge::tatr_method{}) == late);
  CHECK(unscanned(catmerge::ties_elect{}) ==
        "TIES merges a parameter after all have passed its scans");
  CHECK(unscanned(catmerge::fisher_method{catmerge::fisher_options{1e-6, true}}) ==
        "Fisher merging: normalised, it merges a parameter after all have been scanned");
}

TEST_CASE("the device's results are the host's, and only masks and counts cross") {
  auto host = example<eigen_backend<float>>(15);
  auto device = example<fake_backend<float>>(15);
  const auto check = [&](const auto& method) {
    host.merge(method);
    fake_traffic() = {};
    device.merge(method);
    const traffic t = fake_traffic();
    for (std::size_t i = 0; i < host.merged.size(); ++i)
      CHECK(same_bits(device.merged[i].template download<float>(), host.merged[i]));
    return t;
  };
  for (const traffic t : {check(catmerge::fisher_method{}), check(catmerge::consensus_method<>{})})
    CHECK(t.bytes() == 0);
  const traffic counts = check(catmerge::ties_method{});
  CHECK(counts.writes == 0);
  CHECK(counts.reads > 0);
  CHECK(check(catmerge::pcb_method{}).writes == 0);
  CHECK(check(catmerge::tatr_method{}).writes == 0);
  const traffic masks =
      check(catmerge::chain{catmerge::dare_transform{}, catmerge::task_arithmetic_method{}});
  CHECK(masks.reads == 0);
  CHECK(masks.bytes_written == sizeof(double) * 3 * host.flat_base().size());
}
