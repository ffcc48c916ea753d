// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/catmerge.hpp>
#include <catmerge/methods/breadcrumbs.hpp>
#include <catmerge/methods/detail/importance.hpp>
#include <catmerge/methods/iso.hpp>
#include <catmerge/methods/ties.hpp>
#include <catmerge/methods/tsv_m.hpp>
#include <catmerge/methods/weight_average.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <set>

#include "support/data.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

// Methods made of methods, and methods that see the whole model first.

using namespace test;
using catmerge::chain;
using catmerge::layer_kind;
using catmerge::layer_problem;
using catmerge::layer_report;
using catmerge::parameter_info;
using catmerge::statistics_form;
using catmerge::vector_list;

namespace {

using host = catmerge::context<catmerge::host>;
using strings = std::vector<std::string>;

/// The calls that probes saw, in order. Probes are copied, so that they share one.
using journal = strings;

/// "x" of the first entry of the first task vector, which is a small integer in these tests.
template <class Context>
std::string first_entry(Context& c, vector_list<Context> vectors) {
  return std::to_string(static_cast<int>(c.to_host(c.slice(vectors[0], 0, 1, 0, 1))(0, 0)));
}

/// A method with a scan of `passes` passes, which writes down every call.
struct probe {
  std::string name;
  journal* log;
  int passes = 0, done = 0, seen = 0;
  bool statistics = false, importance = false;

  bool needs_statistics(layer_kind) const { return statistics; }
  bool needs_importance() const { return importance; }
  bool scan_wanted() const { return done < passes; }
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
    ++seen;
    log->push_back(name + " scans " + p.names.parameter + " " + first_entry<Context>(c, vectors));
  }
  void end_scan() {
    ++done;
    log->push_back(name + " ends");
  }
};

/// A transform that multiplies.
struct probe_transform : probe {
  double times = 1;

  template <class Context>
  void apply(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
             layer_report&) const {
    if (done < passes) throw catmerge::error(name + " is applied before its scans");
    log->push_back(name + " changes " + p.names.parameter + " " + first_entry<Context>(c, vectors));
    for (const auto& t : vectors) c.scale(times, t);
  }
};

/// A method that sums.
struct probe_method : probe {
  double alpha = 1;

  double factor() const { return alpha; }
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    if (done < passes) throw catmerge::error(name + " merges before its scans");
    log->push_back(name + " merges " + p.names.parameter + " " + first_entry<Context>(c, vectors) +
                   (p.importance.empty() ? "" : " by importance") +
                   (p.statistics.empty() ? "" : " by statistics"));
    report.drift.assign(1, seen);
    catmerge::sum_vectors(c, vectors, tau);
  }
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    return catmerge::merge_vectors(*this, c, p, out);
  }
};

probe_transform transform(const char* name, journal& log, int passes, double times) {
  return {{name, &log, passes}, times};
}
probe_method method(const char* name, journal& log, int passes) {
  return {{name, &log, passes}};
}

using catmerge::cat_method;
using catmerge::cat_trim;
using catmerge::task_arithmetic_method;
using trimmed_sum = chain<cat_trim, task_arithmetic_method>;
static_assert(catmerge::vector_method<trimmed_sum, host>);
static_assert(catmerge::vector_method<cat_method, host>);
static_assert(catmerge::vector_transform<cat_trim, host>);
static_assert(!catmerge::vector_method<cat_trim, host>);
// Two transforms make a transform, and no method.
static_assert(catmerge::vector_transform<chain<cat_trim, cat_trim>, host>);
static_assert(!catmerge::merging_method<chain<cat_trim, cat_trim>, host>);
static_assert(catmerge::vector_method<chain<chain<cat_trim, cat_trim>, probe_method>, host>);

/// A network whose parameters hold small integers, and which writes down what is asked of it.
struct network {
  using tensor = Eigen::MatrixXf;
  struct entry {
    tensor base;
    std::vector<tensor> experts, features, importances;
  };
  std::map<std::string, entry> entries;
  std::vector<catmerge::parameter_group> list;
  journal* log = nullptr;

  void add(const std::string& name, layer_kind kind, entry e, bool with_last = false) {
    entries[name] = std::move(e);
    if (!with_last) list.emplace_back();
    list.back().push_back({name, kind});
  }
  /// d entries, task k's vector being k + 1 + first everywhere.
  void add_plain(const std::string& name, layer_kind kind, int first, bool with_last = false) {
    entry e{tensor::Constant(3, kind == layer_kind::linear ? 2 : 1, 5), {}, {}, {}};
    for (int k = 0; k < 2; ++k) e.experts.push_back(e.base.array() + static_cast<float>(first + k));
    add(name, kind, std::move(e), with_last);
  }
  void note(const std::string& what) const {
    if (log != nullptr) log->push_back(what);
  }

  strings tasks() const { return {"cars", "dtd"}; }
  std::vector<catmerge::parameter_group> groups() const { return list; }
  const tensor& base(const parameter_info& p) const { return entries.at(p.name).base; }
  const tensor& expert(index_t k, const parameter_info& p) const {
    return entries.at(p.name).experts[at(k)];
  }
  void release(const catmerge::parameter_group& g) const {
    note("parameters of " + g.front().name + " released");
  }
};

/// The statistics and importances of a network.
struct knowledge {
  const network* source;

  std::optional<catmerge::statistics_view<>> get(index_t k, const parameter_info& p) const {
    source->note("statistics of " + p.name + " asked");
    const auto& list = source->entries.at(p.name).features;
    if (at(k) >= list.size()) return std::nullopt;
    return catmerge::statistics_of(list[at(k)]);
  }
  std::optional<host::const_view> importance(index_t k, const parameter_info& p) const {
    source->note("importance of " + p.name + " asked");
    const auto& list = source->entries.at(p.name).importances;
    if (at(k) >= list.size()) return std::nullopt;
    return catmerge::const_view_of(list[at(k)]);
  }
  void release(const catmerge::parameter_group& g) const {
    source->note("statistics of " + g.front().name + " released");
  }
};

struct sink {
  std::map<std::string, Eigen::MatrixXf> merged;
  void put(const parameter_info& p, Eigen::MatrixXf t) { merged[p.name] = std::move(t); }
};

struct outcome {
  std::map<std::string, Eigen::MatrixXf> merged;
  std::vector<catmerge::parameter_report> reports;
};

template <class Method>
outcome stream(const Method& m, network& n) {
  sink s;
  knowledge k{&n};
  outcome o;
  o.reports = catmerge::merge_stream(m, n, k, s);
  o.merged = std::move(s.merged);
  return o;
}

std::vector<Eigen::MatrixXf> as_matrices(const std::vector<Eigen::VectorXf>& v) {
  return {v.begin(), v.end()};
}

/// A parameter of each kind, with and without features.
network varied() {
  network n;
  const auto linear = random_linear<float>(1, 12, 10, {4, 5});
  const auto vector = random_vector<float>(2, 10, {4, 5});
  n.add("linear", layer_kind::linear, {linear.base, linear.experts, linear.features, {}});
  n.add("poor linear", layer_kind::linear, {linear.base, linear.experts, {}, {}}, true);
  n.add("scale", layer_kind::scale,
        {vector.base, as_matrices(vector.experts), vector.features, {}});
  n.add("shift", layer_kind::shift, {vector.base, as_matrices(vector.experts), {}, {}});
  n.add("table", layer_kind::other, {linear.base, linear.experts, {}, {}});
  return n;
}

bool same(const outcome& a, const outcome& b) {
  bool all = a.merged.size() == b.merged.size();
  for (const auto& [name, tensor] : a.merged) all = all && same_bits(tensor, b.merged.at(name));
  return all;
}

std::vector<bool> missing(const outcome& o) {
  std::vector<bool> list;
  for (const auto& r : o.reports) list.push_back(r.missing_statistics);
  return list;
}

}  // namespace

TEST_CASE("task weights: as if each expert had gone that much further") {
  // Powers of two, so that the experts made here are exact.
  const std::vector<double> weights = {0.5, -2};
  network n = varied(), scaled = varied();
  // Small integers in place of noise: sums of them are exact, too.
  const auto rounded = [](const Eigen::MatrixXf& m) -> Eigen::MatrixXf {
    return m.unaryExpr([](float x) { return std::round(8 * x); });
  };
  for (auto& [name, e] : n.entries) {
    auto& other = scaled.entries.at(name);
    for (std::size_t k = 0; k < weights.size(); ++k) {
      const Eigen::MatrixXf vector = rounded(other.experts[k] - other.base);
      e.experts[k] = rounded(other.base) + vector;
      other.experts[k] = rounded(other.base) + static_cast<float>(weights[k]) * vector;
    }
    e.base = other.base = rounded(other.base);
  }
  const auto check = [&](const auto& m) {
    const auto one = stream(chain{catmerge::task_weights{weights}, m}, n),
               other = stream(m, scaled);
    for (const auto& [name, tensor] : one.merged) {
      CAPTURE(name);
      CHECK((tensor - other.merged.at(name)).norm() <= 1e-5F * (1 + tensor.norm()));
    }
    CHECK_FALSE(same(one, stream(m, n)));
  };
  check(task_arithmetic_method{0.5});
  check(cat_method{});
  check(catmerge::weight_average_method{});
  // Sizes are those of the source.
  const auto weighted = stream(chain{catmerge::task_weights{weights}, cat_method{}}, n);
  CHECK(weighted.reports[0].sizes.of_vectors ==
        stream(cat_method{}, n).reports[0].sizes.of_vectors);

  const auto refused = [&](std::vector<double> wrong) -> std::string {
    try {
      stream(chain{catmerge::task_weights{std::move(wrong)}, cat_method{}}, n);
    } catch (const catmerge::error& problem) {
      return problem.what();
    }
    return {};
  };
  const auto says = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  CHECK(says(refused({1}), "1 task weights for 2 experts"));
  CHECK(says(refused({1, std::nan("")}), "its task weight is not finite"));
}

TEST_CASE("reports tell the size of the base and of every task vector") {
  network n = varied();
  // Taller than a strip, so that strips add up.
  network::entry tall{Eigen::MatrixXf::Random(5000, 30), {}, {}, {}};
  for (int k = 0; k < 2; ++k)
    tall.experts.push_back(tall.base + 0.1F * Eigen::MatrixXf::Random(5000, 30));
  n.add("tall", layer_kind::other, std::move(tall));
  network::entry wide{Eigen::MatrixXf::Random(2, 40000), {}, {}, {}};
  for (int k = 0; k < 2; ++k)
    wide.experts.push_back(wide.base + 0.1F * Eigen::MatrixXf::Random(2, 40000));
  n.add("wide", layer_kind::other, std::move(wide));
  for (const auto& r : stream(task_arithmetic_method{}, n).reports) {
    CAPTURE(r.name);
    const auto& e = n.entries.at(r.name);
    const auto norm = [](const Eigen::MatrixXf& m) { return m.cast<double>().norm(); };
    CHECK(r.sizes.of_base == doctest::Approx(norm(e.base)).epsilon(1e-12));
    REQUIRE(r.sizes.of_vectors.size() == 2);
    for (std::size_t k = 0; k < 2; ++k)
      CHECK(r.sizes.of_vectors[k] == doctest::Approx(norm(e.experts[k] - e.base)).epsilon(1e-6));
  }
}

TEST_CASE("the average of one expert is that expert, bit for bit") {
  const Eigen::MatrixXf base = Eigen::MatrixXf::Random(7, 9);
  const std::vector<Eigen::MatrixXf> expert = {1e-4F * Eigen::MatrixXf::Random(7, 9)};
  CHECK(same_bits(catmerge::weight_average(base, expert).merged, expert[0]));
  // The formula alone would round twice.
  CHECK_FALSE(same_bits(catmerge::task_arithmetic(base, expert, 1).merged, expert[0]));
}

TEST_CASE("CAT is its trim followed by Task Arithmetic, bit for bit") {
  network n = varied();
  for (const auto& options : {catmerge::cat_options::paper(), catmerge::cat_options::port()}) {
    const auto whole = stream(cat_method{options}, n);
    const auto made = stream(chain{cat_trim{options}, task_arithmetic_method{options.alpha}}, n);
    CHECK(same(whole, made));
    CHECK_FALSE(same(whole, stream(task_arithmetic_method{options.alpha}, n)));
    CHECK(missing(made) == std::vector<bool>{false, true, false, false, false});
    for (std::size_t i = 0; i < whole.reports.size(); ++i) {
      const auto &a = whole.reports[i].layer, &b = made.reports[i].layer;
      CHECK(a.kind == b.kind);
      REQUIRE(a.trim.has_value() == b.trim.has_value());
      CHECK(a.fallback ==
            (i == 1 || i == 4 ? catmerge::fallback_rule::sum : catmerge::fallback_rule::none));
      CHECK(b.fallback ==
            catmerge::fallback_rule::none);  // the sum, which is the method, is for every parameter
      if (!a.trim) continue;
      CHECK(same_bits(a.trim->norm, b.trim->norm));
      CHECK(same_bits(a.trim->conflict_before, b.trim->conflict_before));
      CHECK(same_bits(a.trim->conflict_after, b.trim->conflict_after));
      CHECK(a.trim->protections.size() == b.trim->protections.size());
    }
  }
}

TEST_CASE_TEMPLATE("the same in one call, for every storage type", S, double, float,
                   catmerge::half) {
  generator g(3);
  const matrix_of<S> base = g.matrix<S>(9, 7);
  std::vector<matrix_of<S>> experts, features;
  for (const index_t rows : {4, 12, 3})
    experts.push_back(g.matrix<S>(9, 7)), features.push_back(g.matrix<S>(rows, 7));
  host c;
  layer_problem<host> p;
  p.kind = layer_kind::linear;
  p.statistics = catmerge::detail::as_statistics_list(features);
  const trimmed_sum m{{}, {catmerge::cat_options{}.alpha}};
  const auto made = catmerge::detail::merge_one(c, m, p, base, experts);
  const auto whole = catmerge::cat_linear(base, experts, features);
  CHECK(made.report.trim.has_value());
  CHECK(same_bits(made.merged, whole.merged));
}

TEST_CASE("two transforms are applied in order, however they are put in brackets") {
  network n;
  n.add_plain("weight", layer_kind::linear, 1);
  journal log;
  const auto twice = transform("twice", log, 0, 2), thrice = transform("thrice", log, 0, 3);
  const auto sum = method("sum", log, 0);
  const journal expected{"twice changes weight 1", "thrice changes weight 2",
                         "sum merges weight 6"};
  const auto left = stream(chain{chain{twice, thrice}, sum}, n);
  CHECK(log == expected);
  log.clear();
  const auto right = stream(chain{twice, chain{thrice, sum}}, n);
  CHECK(log == expected);
  CHECK(left.merged.at("weight") == Eigen::MatrixXf::Constant(3, 2, 5 + 6 * (1 + 2)));
  CHECK(same(left, right));
}

TEST_CASE("a chain has its method's factor, and needs what one of its parts needs") {
  journal log;
  auto t = transform("t", log, 0, 1);
  auto m = method("m", log, 0);
  m.alpha = 0.25;
  CHECK(chain{t, m}.factor() == 0.25);
  CHECK(chain{t, chain{t, m}}.factor() == 0.25);
  CHECK_FALSE(chain{t, m}.needs_statistics(layer_kind::linear));
  CHECK_FALSE(chain{t, m}.needs_importance());
  auto asks = t;
  asks.statistics = asks.importance = true;
  CHECK(chain{asks, m}.needs_statistics(layer_kind::linear));
  CHECK(chain{asks, m}.needs_importance());
  m.statistics = m.importance = true;
  CHECK(chain{t, m}.needs_statistics(layer_kind::linear));
  CHECK(chain{t, m}.needs_importance());
  CHECK_FALSE(trimmed_sum{}.needs_statistics(layer_kind::shift));
  CHECK_FALSE(trimmed_sum{}.needs_importance());
  CHECK_FALSE(trimmed_sum{}.scan_wanted());
}

TEST_CASE("scans of a chain: the transform's first, then the method's on what it leaves") {
  network n;
  n.add_plain("a", layer_kind::linear, 1);
  n.add_plain("b", layer_kind::shift, 10);
  journal log;
  const auto m = chain{transform("t", log, 2, 3), method("m", log, 1)};
  const auto found = stream(m, n);
  CHECK(log == journal{"t scans a 1", "t scans b 10", "t ends",                           //
                       "t scans a 1", "t scans b 10", "t ends",                           //
                       "t changes a 1", "m scans a 3", "t changes b 10", "m scans b 30",  //
                       "m ends",                                                          //
                       "t changes a 1", "m merges a 3", "t changes b 10", "m merges b 30"});
  CHECK(found.merged.at("b") == Eigen::MatrixXf::Constant(3, 1, 5 + 3 * (10 + 11)));
  // The method that was passed in has seen nothing.
  CHECK(m.first.seen == 0);
  CHECK(m.second.seen == 0);
  CHECK(m.scan_wanted());
  CHECK(found.reports[0].layer.drift == std::vector<double>{2});  // the copy that merged has
}

TEST_CASE("scans of three in a chain, and of a transform of two") {
  network n;
  n.add_plain("a", layer_kind::linear, 1);
  journal log;
  const auto t = transform("t", log, 1, 2), u = transform("u", log, 1, 5);
  const auto m = method("m", log, 1);
  const journal expected{"t scans a 1",   "t ends",                                   //
                         "t changes a 1", "u scans a 2",   "u ends",                  //
                         "t changes a 1", "u changes a 2", "m scans a 10", "m ends",  //
                         "t changes a 1", "u changes a 2", "m merges a 10"};
  stream(chain{t, chain{u, m}}, n);
  CHECK(log == expected);
  log.clear();
  stream(chain{chain{t, u}, m}, n);
  CHECK(log == expected);
  // Only one of them has a scan.
  log.clear();
  stream(chain{chain{transform("t", log, 0, 2), u}, method("m", log, 0)}, n);
  CHECK(log == journal{"t changes a 1", "u scans a 2", "u ends", "t changes a 1", "u changes a 2",
                       "m merges a 10"});
}

TEST_CASE("where: each parameter goes to its method, which scans no other") {
  network n;
  n.add_plain("a", layer_kind::linear, 1);
  n.add_plain("b", layer_kind::shift, 10);
  n.add_plain("c", layer_kind::linear, 20, true);
  journal log;
  auto half = method("linears", log, 2), rest = method("rest", log, 1);
  half.alpha = 0.5;
  const auto m =
      catmerge::where{[](const auto& p) { return p.kind == layer_kind::linear; }, half, rest};
  const auto found = stream(m, n);
  CHECK(log == journal{"linears scans a 1", "rest scans b 10", "linears scans c 20",  //
                       "linears ends", "rest ends",                                   //
                       "linears scans a 1", "linears scans c 20", "linears ends",     //
                       "linears merges a 1", "rest merges b 10", "linears merges c 20"});
  CHECK(found.merged.at("a") == Eigen::MatrixXf::Constant(3, 2, 5 + 1.5F));
  CHECK(found.merged.at("b") == Eigen::MatrixXf::Constant(3, 1, 5 + 21));
  CHECK(found.merged.at("c") == Eigen::MatrixXf::Constant(3, 2, 5 + 20.5F));
  CHECK(m.method.seen == 0);
}

namespace {

/// A method that looks for the median of the first task's vectors in a scan, and adds it: one that
/// throws where it has seen nothing.
struct median_method {
  catmerge::order_search search{[](std::uint64_t n) { return std::vector<std::uint64_t>{n / 2}; }};

  static constexpr bool needs_statistics(layer_kind) { return false; }
  bool scan_wanted() const { return search.wanted(); }
  template <class Context>
  void scan(Context& c, const layer_problem<Context>&, vector_list<Context> vectors) {
    search.see(c, vectors[0]);
  }
  void end_scan() { search.end_pass(); }
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    c.assign(p.base, out);
    c.from_host(Eigen::MatrixXd::Constant(c.rows(out), c.columns(out), search.value(0)), out);
    return {};
  }
};

}  // namespace

TEST_CASE("where: a method that no parameter goes to is not asked for anything") {
  network n;
  n.add_plain("a", layer_kind::linear, 1);
  n.add_plain("b", layer_kind::shift, 10);
  const auto plain = stream(task_arithmetic_method{1}, n);
  const auto never = [](const auto&) { return false; };
  const auto always = [](const auto&) { return true; };
  CHECK(same(stream(catmerge::where{never, median_method{}, task_arithmetic_method{1}}, n), plain));
  CHECK(
      same(stream(catmerge::where{always, task_arithmetic_method{1}, median_method{}}, n), plain));
  // Inside another one, and where the one beside it scans.
  const auto inner = catmerge::where{never, median_method{}, median_method{}};
  CHECK(same(stream(catmerge::where{never, inner, task_arithmetic_method{1}}, n), plain));
  const auto found = stream(catmerge::where{always, inner, median_method{}}, n);
  // 6 entries of 1 and 3 of 10: the median is 1.
  CHECK(found.merged.at("b") == Eigen::MatrixXf::Constant(3, 1, 1));
  // And over one's own parameters alone: the shift's median is its own.
  const auto shifts = [](const auto& p) { return p.kind == layer_kind::shift; };
  const auto split = stream(catmerge::where{shifts, median_method{}, median_method{}}, n);
  CHECK(split.merged.at("a") == Eigen::MatrixXf::Constant(3, 2, 1));
  CHECK(split.merged.at("b") == Eigen::MatrixXf::Constant(3, 1, 10));
  // A network without parameters.
  network none;
  CHECK(stream(catmerge::where{always, median_method{}, task_arithmetic_method{1}}, none)
            .merged.empty());
}

TEST_CASE("a scan without numbers is an error of the method's") {
  network none;
  CHECK_THROWS_WITH_AS(stream(median_method{}, none), "a quantile of no numbers", catmerge::error);
}

TEST_CASE("one call for one parameter scans it alone, as often as the method wants") {
  journal log;
  const Eigen::MatrixXf base = Eigen::MatrixXf::Zero(2, 2);
  const std::vector<Eigen::MatrixXf> experts{base.array() + 4, base.array() + 5};
  host c;
  const auto m = chain{transform("t", log, 1, 2), method("m", log, 2)};
  layer_problem<host> p;
  p.names.parameter = "w";
  const auto found = catmerge::detail::merge_one(c, m, p, base, experts);
  CHECK(log == journal{"t scans w 4", "t ends",                   //
                       "t changes w 4", "m scans w 8", "m ends",  //
                       "t changes w 4", "m scans w 8", "m ends",  //
                       "t changes w 4", "m merges w 8"});
  CHECK(found.merged == Eigen::MatrixXf::Constant(2, 2, 18));
  CHECK(m.scan_wanted());
}

namespace {

/// Multiplies its task vectors in place, and takes the last one.
struct spoiling {
  double times = 1, alpha = 1;
  catmerge::fallback_rule fallback = catmerge::fallback_rule::none;

  double factor() const { return alpha; }
  template <class Context>
  void combine(Context& c, const layer_problem<Context>&, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    report.fallback = fallback;
    for (const auto& t : vectors) c.scale(times, t);
    c.axpy(1, vectors.back(), tau);
  }
};

}  // namespace

TEST_CASE_TEMPLATE("mean_of: the mean of its methods' merges, each at its own factor", S, double,
                   float) {
  using catmerge::mean_of;
  using matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>;
  for (const auto seed : seeds) {
    generator g(seed);
    const matrix base = g.matrix<S>(9, 14);
    std::vector<matrix> experts;
    for (int k = 0; k < 3; ++k) experts.push_back(base + g.matrix<S>(9, 14));
    const catmerge::ties_method ties{{0.3, 0.7}};
    const catmerge::tsv_m_method tsv{{1.2}};
    const catmerge::iso_method iso{{catmerge::iso_variant::cts, 0.6}};
    const auto merged = [&](const auto& m) {
      return Eigen::MatrixXd(catmerge::merge_parameter(m, layer_kind::linear, base, experts)
                                 .merged.template cast<double>());
    };
    const Eigen::MatrixXd expected = (merged(ties) + merged(tsv) + merged(iso)) / 3;
    const Eigen::MatrixXd found = merged(mean_of{ties, tsv, iso});
    // Each merge, the sum and the mean are rounded to S, at values below 16.
    CHECK((found - expected).cwiseAbs().maxCoeff() <=
          8 * 16 * static_cast<double>(std::numeric_limits<S>::epsilon()));
    CHECK((found - merged(tsv)).norm() > 0.1);
    // Methods of one type in a range; one method alone is that method.
    const std::vector<catmerge::iso_method> both{iso, {{catmerge::iso_variant::c, 0.6}}};
    CHECK((merged(mean_of{both}) - (merged(both[0]) + merged(both[1])) / 2).cwiseAbs().maxCoeff() <=
          8 * 16 * static_cast<double>(std::numeric_limits<S>::epsilon()));
    CHECK(same_bits(merged(mean_of{std::tuple{tsv}}), merged(tsv)));
  }
}

TEST_CASE("mean_of: no method sees what another one made of the vectors") {
  using catmerge::mean_of;
  const Eigen::MatrixXf base = Eigen::MatrixXf::Zero(2, 2);
  const std::vector<Eigen::MatrixXf> experts(2, Eigen::MatrixXf::Ones(2, 2));
  const mean_of m{spoiling{2, 1}, spoiling{4, 0.5}, spoiling{8, 2}, spoiling{1, 4}};
  const auto result = catmerge::merge_parameter(m, layer_kind::linear, base, experts);
  CHECK(result.merged == Eigen::MatrixXf::Constant(2, 2, (2.0F + 2.0F + 16.0F + 4.0F) / 4));
  // A transform comes before all of them.
  const auto changed = catmerge::merge_parameter(
      chain{catmerge::task_weights{{1, 3}}, mean_of{spoiling{1, 1}, spoiling{2, 1}}},
      layer_kind::linear, base, experts);
  CHECK(changed.merged == Eigen::MatrixXf::Constant(2, 2, 4.5F));
  CHECK_THROWS_WITH_AS(mean_of{std::vector<spoiling>{}}, "the mean of no methods", catmerge::error);
}

TEST_CASE("mean_of: the report tells a fallback of all methods from one of some") {
  using catmerge::fallback_rule;
  using catmerge::mean_of;
  const Eigen::MatrixXf base = Eigen::MatrixXf::Zero(2, 2);
  const std::vector<Eigen::MatrixXf> experts(2, Eigen::MatrixXf::Ones(2, 2));
  const auto fallback = [&](fallback_rule first, fallback_rule second, fallback_rule third) {
    const mean_of m{spoiling{1, 1, first}, spoiling{1, 1, second}, spoiling{1, 1, third}};
    return catmerge::merge_parameter(m, layer_kind::linear, base, experts).report.fallback;
  };
  constexpr auto none = fallback_rule::none, mean = fallback_rule::mean, sum = fallback_rule::sum,
                 some = fallback_rule::some;
  CHECK(fallback(none, none, none) == none);
  CHECK(fallback(mean, mean, mean) == mean);
  CHECK(fallback(none, none, mean) == some);
  CHECK(fallback(mean, none, mean) == some);
  CHECK(fallback(none, mean, none) == some);
  CHECK(fallback(mean, mean, sum) == some);
}

TEST_CASE("mean_of: its methods are scanned in the same passes, as often as each wants") {
  journal log;
  network n;
  n.log = &log;
  n.add_plain("a", layer_kind::linear, 1);
  n.add_plain("b", layer_kind::scale, 4);
  const catmerge::mean_of m{method("x", log, 2), method("y", log, 0), method("z", log, 1)};
  CHECK(m.scan_wanted());
  stream(m, n);
  const auto by = [&](const std::string& name) {
    strings lines;
    for (const auto& line : log)
      if (line.starts_with(name + " ")) lines.push_back(line);
    return lines;
  };
  CHECK(by("x") == strings{"x scans a 1", "x scans b 4", "x ends", "x scans a 1", "x scans b 4",
                           "x ends", "x merges a 1", "x merges b 4"});
  CHECK(by("y") == strings{"y merges a 1", "y merges b 4"});
  CHECK(by("z") == strings{"z scans a 1", "z scans b 4", "z ends", "z merges a 1", "z merges b 4"});
}

TEST_CASE("mean_of: it needs what one of its methods needs") {
  journal log;
  using catmerge::mean_of;
  const auto with = [&](bool statistics, bool importance) {
    auto m = method("x", log, 0);
    m.statistics = statistics, m.importance = importance;
    return m;
  };
  CHECK(needs_statistics(mean_of{with(false, false), with(true, false)}, layer_kind::linear));
  CHECK_FALSE(needs_statistics(mean_of{with(false, true), with(false, false)}, layer_kind::linear));
  CHECK(needs_importance(mean_of{with(false, true), with(false, false)}));
  CHECK_FALSE(needs_importance(mean_of{with(true, false), with(true, false)}));
  CHECK(sees_matrices(mean_of{task_arithmetic_method{}, catmerge::tsv_m_method{}}));
  CHECK_FALSE(sees_matrices(mean_of{task_arithmetic_method{}, task_arithmetic_method{}}));
  CHECK(sees_matrices(chain{cat_trim{}, catmerge::iso_method{}}));
  CHECK_FALSE(sees_matrices(trimmed_sum{}));
  // Breadcrumbs counts entries of whole tables and merges none as a matrix.
  const catmerge::breadcrumbs_method crumbs;
  CHECK(needs_whole_tables(catmerge::tsv_m_method{}));
  CHECK(needs_whole_tables(crumbs));
  CHECK_FALSE(sees_matrices(crumbs));
  CHECK(needs_whole_tables(mean_of{task_arithmetic_method{}, crumbs}));
  CHECK(needs_whole_tables(chain{catmerge::breadcrumbs_trim{}, task_arithmetic_method{}}));
  CHECK_FALSE(sees_matrices(chain{catmerge::breadcrumbs_trim{}, task_arithmetic_method{}}));
  CHECK_FALSE(needs_whole_tables(trimmed_sum{}));
}

TEST_CASE("adjusted: a parameter's own settings, and scans with the settings as they are") {
  network n = varied();
  const auto by_layer =
      catmerge::adjusted{task_arithmetic_method{0.3}, [](const auto& p, task_arithmetic_method& m) {
                           if (p.names.parameter == "scale") m.alpha = 0.7;
                           if (p.kind == layer_kind::other) m.alpha = 0;
                         }};
  const auto found = stream(by_layer, n);
  const auto usual = stream(task_arithmetic_method{0.3}, n),
             more = stream(task_arithmetic_method{0.7}, n);
  for (const char* name : {"linear", "poor linear", "shift"})
    CHECK(same_bits(found.merged.at(name), usual.merged.at(name)));
  CHECK(same_bits(found.merged.at("scale"), more.merged.at("scale")));
  CHECK(same_bits(found.merged.at("table"), n.entries.at("table").base));
  CHECK_FALSE(same_bits(usual.merged.at("scale"), more.merged.at("scale")));

  network plain;
  plain.add_plain("a", layer_kind::linear, 1);
  journal log;
  const auto scanned = catmerge::adjusted{method("m", log, 1), [&](const auto&, probe_method& m) {
                                            m.name = "own";
                                            m.alpha = 2;
                                          }};
  CHECK(stream(scanned, plain).merged.at("a") == Eigen::MatrixXf::Constant(3, 2, 5 + 2 * 3));
  CHECK(log == journal{"m scans a 1", "m ends", "own merges a 1"});
}

namespace {

double relative(double found, oracle::real expected) {
  return std::abs(found - static_cast<double>(expected)) / static_cast<double>(expected);
}

/// ||f(X; a) - f(X; b)||^2.
oracle::real drift_of(oracle::kind kind, const oracle::matrix& x, const oracle::matrix& a,
                      const oracle::matrix& b) {
  return oracle::energy(oracle::minus(oracle::forward(kind, x, a), oracle::forward(kind, x, b)));
}

/// theta = base + 0.3 sum_k T_k of a parameter, with its drift measured.
template <class Tensor>
catmerge::merge_result<Tensor> measured(const layer<Tensor>& l, layer_kind kind,
                                        std::vector<catmerge::statistics_view<>> statistics,
                                        index_t parts = 1) {
  host c;
  layer_problem<host> p;
  p.kind = kind;
  p.parts = parts;
  p.statistics = std::move(statistics);
  return catmerge::detail::merge_one(c, catmerge::with_drift{task_arithmetic_method{0.3}}, p,
                                     l.base, l.experts);
}

/// Against feature matrices: sums of at most 1e3 products of doubles. `per_row`: shifts.
template <class Tensor>
void check_drift(const catmerge::merge_result<Tensor>& found, const layer<Tensor>& l,
                 oracle::kind kind, bool per_row = false) {
  REQUIRE(found.report.drift.size() == l.experts.size());
  REQUIRE(found.report.drift_of_base.size() == l.experts.size());
  for (std::size_t k = 0; k < l.experts.size(); ++k) {
    const auto x = oracle::exact(l.features[k]), expert = oracle::exact(l.experts[k]);
    const auto rows = per_row ? static_cast<oracle::real>(x.rows()) : 1;
    CHECK(relative(found.report.drift[k], drift_of(kind, x, oracle::exact(found.merged), expert) /
                                              rows) <= tolerance::reordered);
    CHECK(relative(found.report.drift_of_base[k], drift_of(kind, x, oracle::exact(l.base), expert) /
                                                      rows) <= tolerance::reordered);
  }
}

}  // namespace

TEST_CASE("with_drift measures how far the merged parameter is from each expert, as oracles do") {
  for (const std::uint64_t seed : seeds) {
    const auto l = random_linear<double>(seed, 8, 6, {4, 9, 20});
    std::vector<catmerge::statistics_view<>> rows, factors, grams;
    std::vector<Eigen::MatrixXd> keep(6);
    for (std::size_t k = 0; k < 3; ++k) {
      const auto& x = l.features[k];
      const auto n = static_cast<double>(x.rows());
      const Eigen::HouseholderQR<Eigen::MatrixXd> qr(x);
      const index_t height = std::min<index_t>(x.rows(), 6);
      keep[k] = qr.matrixQR().topRows(height).triangularView<Eigen::Upper>();
      keep[3 + k] = x.transpose() * x;
      rows.push_back(catmerge::statistics_of(x));
      factors.push_back({statistics_form::factor, catmerge::const_view_of(keep[k]), n});
      grams.push_back({statistics_form::gram, catmerge::const_view_of(keep[3 + k]), n});
    }
    for (const auto& form : {rows, factors, grams}) {
      check_drift(measured(l, layer_kind::linear, form), l, oracle::kind::linear);
      check_drift(measured(l, layer_kind::linear, form, 4), l, oracle::kind::linear);  // fused
    }

    const auto v = random_vector<double>(seed, 6, {4, 9, 20});
    std::vector<catmerge::moment_statistics<>> moments(3);
    std::vector<catmerge::statistics_view<>> of_rows, of_moments, of_grams;
    for (std::size_t k = 0; k < 3; ++k) {
      moments[k].update(v.features[k]);
      keep[k] = v.features[k].transpose() * v.features[k];
      of_rows.push_back(catmerge::statistics_of(v.features[k]));
      of_moments.push_back(moments[k].view());
      of_grams.push_back({statistics_form::gram, catmerge::const_view_of(keep[k]),
                          static_cast<double>(v.features[k].rows())});
    }
    for (const auto& form : {of_rows, of_moments, of_grams})
      check_drift(measured(v, layer_kind::scale, form), v, oracle::kind::scale);
    for (const index_t parts : {1, 3})
      check_drift(measured(v, layer_kind::shift, {}, parts), v, oracle::kind::shift, true);

    // Without statistics there is nothing to measure.
    CHECK(measured(l, layer_kind::linear, {}).report.drift.empty());
    CHECK(measured(l, layer_kind::other, {}).report.drift.empty());
    CHECK(measured(v, layer_kind::scale, {}).report.drift_of_base.empty());
  }
}

TEST_CASE("with_drift: no drift from the only expert, and none of the method's own work changes") {
  auto l = random_linear<double>(5, 7, 6, {9});
  host c;
  layer_problem<host> p;
  p.kind = layer_kind::linear;
  p.statistics = catmerge::detail::as_statistics_list(l.features);
  const auto alone = catmerge::detail::merge_one(
      c, catmerge::with_drift{catmerge::weight_average_method{}}, p, l.base, l.experts);
  const double size = alone.report.drift_of_base[0];
  CHECK(size > 0);
  // theta_0 + T is off by a rounding of either in each of the d_in terms of an output.
  CHECK(alone.report.drift[0] <=
        std::pow(2 * tolerance::eps<double> * 6 * l.experts[0].norm() * l.features[0].norm(), 2));

  network n = varied();
  const auto bare = stream(cat_method{}, n), around = stream(catmerge::with_drift{cat_method{}}, n);
  CHECK(same(bare, around));
  CHECK(missing(bare) == missing(around));
  for (std::size_t i = 0; i < bare.reports.size(); ++i) {
    CHECK(bare.reports[i].layer.trim.has_value() == around.reports[i].layer.trim.has_value());
    if (bare.reports[i].layer.trim)
      CHECK(same_bits(bare.reports[i].layer.trim->conflict_after,
                      around.reports[i].layer.trim->conflict_after));
    const bool measures = i != 1 && i != 4;
    CHECK(around.reports[i].layer.drift.size() == (measures ? 2 : 0));
  }
}

TEST_CASE("with_drift asks for statistics that its method does not miss") {
  network n = varied();
  const std::vector<bool> nothing(5, false), one{false, true, false, false, false};
  const task_arithmetic_method sum{0.3};
  const auto as_it_is = [](const auto&, auto&) {};
  const auto linears = [](const auto& p) { return p.kind == layer_kind::linear; };
  const auto found = stream(catmerge::with_drift{sum}, n);
  CHECK(missing(found) == nothing);
  CHECK(found.reports[0].layer.drift.size() == 2);
  CHECK(found.reports[1].layer.drift.empty());
  CHECK(same(found, stream(sum, n)));
  // The same inside of other things, and CAT misses what it misses.
  CHECK(missing(stream(catmerge::adjusted{catmerge::with_drift{sum}, as_it_is}, n)) == nothing);
  CHECK(missing(stream(catmerge::where{linears, catmerge::with_drift{sum}, sum}, n)) == nothing);
  CHECK(missing(stream(catmerge::with_drift{catmerge::with_drift{sum}}, n)) == nothing);
  CHECK(missing(stream(catmerge::with_drift{cat_method{}}, n)) == one);
  CHECK(missing(stream(catmerge::with_drift{trimmed_sum{}}, n)) == one);
  CHECK(missing(stream(catmerge::where{linears, catmerge::with_drift{cat_method{}}, sum}, n)) ==
        one);
  // And a scan inside of it takes place.
  journal log;
  network plain;
  plain.add_plain("a", layer_kind::linear, 1);
  stream(catmerge::with_drift{method("m", log, 1)}, plain);
  CHECK(log == journal{"m scans a 1", "m ends", "m merges a 1"});
}

TEST_CASE("merge_stream lets the source pass by once per scan, and releases every time") {
  network n;
  n.add_plain("a", layer_kind::linear, 1);
  n.add_plain("b", layer_kind::shift, 10, true);
  n.add_plain("c", layer_kind::linear, 20);
  journal log;
  n.log = &log;
  struct watcher {
    journal* log;
    void scanned(const parameter_info& p) const { log->push_back(p.name + " scanned"); }
    void operator()(const catmerge::parameter_report& r) const {
      log->push_back(r.name + " merged");
    }
  };
  const auto m = method("m", log, 2);
  sink s;
  knowledge k{&n};
  host c;
  catmerge::merge_stream(m, n, k, s, c, watcher{&log});
  const journal pass{"m scans a 1",
                     "a scanned",
                     "m scans b 10",
                     "b scanned",
                     "parameters of a released",
                     "statistics of a released",
                     "m scans c 20",
                     "c scanned",
                     "parameters of c released",
                     "statistics of c released",
                     "m ends"};
  journal expected = pass;
  expected.insert(expected.end(), pass.begin(), pass.end());
  for (const char* line : {"m merges a 1", "a merged", "m merges b 10", "b merged",
                           "parameters of a released", "statistics of a released", "m merges c 20",
                           "c merged", "parameters of c released", "statistics of c released"})
    expected.push_back(line);
  CHECK(log == expected);
  CHECK(m.seen == 0);
  CHECK(m.done == 0);
  CHECK(s.merged.size() == 3);
}

TEST_CASE("importance is asked for by the methods that need it, and is of all tasks or of none") {
  network n;
  n.add_plain("a", layer_kind::linear, 1);
  n.add_plain("b", layer_kind::shift, 10);
  n.entries.at("a").importances.assign(2, Eigen::MatrixXf::Ones(3, 2));
  n.entries.at("b").importances.assign(1, Eigen::MatrixXf::Ones(3, 1));  // of the first task only
  journal log;
  n.log = &log;
  const auto of = [&](const std::string& what) {
    return std::count_if(log.begin(), log.end(), [&](const std::string& line) {
      return line.find(what) != std::string::npos;
    });
  };
  auto m = method("m", log, 1);
  stream(m, n);
  CHECK(of("asked") == 0);
  CHECK(of("by importance") == 0);

  log.clear();
  m.importance = true;
  stream(m, n);
  CHECK(of("importance of a asked") == 4);  // two tasks, in the scan and in the merge
  CHECK(of("importance of b asked") == 4);
  CHECK(of("statistics of a asked") == 0);
  CHECK(of("m merges a 1 by importance") == 1);
  CHECK(of("by importance") == 1);

  log.clear();  // through everything that is made of methods
  const auto always = [](const auto&) { return true; };
  const auto as_it_is = [](const auto&, auto&) {};
  stream(chain{transform("t", log, 0, 1), m}, n);
  stream(catmerge::where{always, task_arithmetic_method{}, m}, n);
  stream(catmerge::adjusted{m, as_it_is}, n);
  stream(catmerge::with_drift{m}, n);
  CHECK(of("importance of a asked") == 4 * 4);
  CHECK(of("m merges a 1 by importance") == 3);  // where sends it to the other

  // A source of statistics that knows nothing of importances has none.
  sink s;
  catmerge::no_statistics<> none;
  log.clear();
  catmerge::merge_stream(m, n, none, s);
  CHECK(of("m merges") == 2);
  CHECK(of("by importance") == 0);

  n.entries.at("a").importances[1] = Eigen::MatrixXf::Ones(2, 3);
  CHECK_THROWS_WITH_AS(stream(m, n), "a: importances of 'dtd': expected 3 x 2, found 2 x 3",
                       catmerge::error);
}

TEST_CASE("importances that are negative or no numbers are refused") {
  host c;
  const Eigen::MatrixXf base = Eigen::MatrixXf::Zero(3, 2);
  std::vector<Eigen::MatrixXf> importances(2, Eigen::MatrixXf::Ones(3, 2));
  const auto check = [&] {
    layer_problem<host> p;
    p.base = catmerge::const_view_of(base);
    p.importance = catmerge::detail::read_all<host>(importances);
    p.names = {"w", {"cars", "dtd"}};
    catmerge::detail::check_importance(c, p);
  };
  importances[1].row(1).setZero();
  importances[1](2, 0) = -0.0F;
  CHECK_NOTHROW(check());
  importances[1](2, 1) = -std::numeric_limits<float>::denorm_min();
  CHECK_THROWS_WITH_AS(check(), "w: importances of 'dtd' hold a negative value", catmerge::error);
  importances[1](2, 1) = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH_AS(check(), "w: importances of 'dtd' hold a value that is not finite",
                       catmerge::error);
}

namespace {

/// A method that cannot be copied.
struct only_one {
  only_one() = default;
  only_one(const only_one&) = delete;
  static constexpr bool needs_statistics(layer_kind) { return false; }
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    return task_arithmetic_method{0.3}.merge(c, p, out);
  }
};

}  // namespace

TEST_CASE("a method without scans is not copied") {
  network n = varied();
  CHECK(same(stream(only_one{}, n), stream(task_arithmetic_method{0.3}, n)));
}

TEST_CASE("the report of a trim is of the last one, and no fallback of the method after it") {
  network n = varied();
  const auto once = stream(chain{cat_trim{}, task_arithmetic_method{}}, n),
             twice = stream(chain{cat_trim{}, cat_method{}}, n), summed = stream(cat_method{}, n);
  REQUIRE(once.reports.size() == twice.reports.size());
  bool trims = false, falls_back = false;
  for (std::size_t i = 0; i < once.reports.size(); ++i) {
    const layer_report &a = once.reports[i].layer, &b = twice.reports[i].layer;
    REQUIRE(a.trim.has_value() == b.trim.has_value());
    CHECK(a.fallback == catmerge::fallback_rule::none);  // the sum is for every parameter
    CHECK(b.fallback == summed.reports[i].layer.fallback);
    falls_back = falls_back || b.fallback == catmerge::fallback_rule::sum;
    if (!b.trim) continue;
    trims = true;
    CHECK(a.trim->norm.size() == b.trim->norm.size());
    CHECK(a.trim->rows == b.trim->rows);
    CHECK(a.trim->energy_removed.size() == b.trim->energy_removed.size());
    CHECK(a.trim->protections.size() == b.trim->protections.size());
    for (std::size_t k = 0; k < b.trim->norm.size(); ++k) CHECK(b.trim->norm[k] <= a.trim->norm[k]);
  }
  CHECK(trims);
  CHECK(falls_back);
}

TEST_CASE("statistics are missed by the method whose parameter it is") {
  network n = varied();
  for (const char* name : {"linear", "scale"}) n.entries.at(name).features.clear();
  const auto linear = [](const auto& p) { return p.kind == layer_kind::linear; };
  const auto missed = [&](const auto& m) {
    std::set<layer_kind> kinds;
    for (const auto& r : stream(m, n).reports)
      if (r.missing_statistics) kinds.insert(r.layer.kind);
    return kinds;
  };
  using kinds = std::set<layer_kind>;
  CHECK(missed(cat_method{}) == kinds{layer_kind::linear, layer_kind::scale});
  CHECK(missed(catmerge::where{linear, task_arithmetic_method{}, cat_method{}}) ==
        kinds{layer_kind::scale});
  CHECK(missed(catmerge::where{linear, cat_method{}, task_arithmetic_method{}}) ==
        kinds{layer_kind::linear});
}
