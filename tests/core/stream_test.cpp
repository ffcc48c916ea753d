// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/catmerge.hpp>
#include <map>
#include <optional>

#include "support/data.hpp"

using namespace test;
using catmerge::layer_kind;
using catmerge::parameter_group;
using catmerge::parameter_info;

namespace {

/// A network in memory that checks how it is asked: nothing of a group after its release, each
/// group released once, tensors of a group only between the first question and the release.
class network {
 public:
  using tensor = Eigen::MatrixXf;

  void add(const std::string& name, layer_kind kind, const tensor& base,
           const std::vector<tensor>& experts, const std::vector<tensor>& features,
           index_t parts = 1) {
    parameter_info info;
    info.name = name;
    info.kind = kind;
    info.parts = parts;
    infos_.push_back(info);
    bases_[name] = base;
    experts_[name] = experts;
    features_[name] = features;
  }
  void group(const std::vector<std::size_t>& members) {
    parameter_group g;
    for (const std::size_t i : members) g.push_back(infos_[i]);
    groups_.push_back(g);
  }

  std::vector<std::string> tasks() const { return {"cars", "dtd"}; }
  std::vector<parameter_group> groups() const { return groups_; }
  const tensor& base(const parameter_info& p) {
    touch(p);
    return bases_[p.name];
  }
  const tensor& expert(index_t k, const parameter_info& p) {
    touch(p);
    return experts_[p.name][at(k)];
  }
  void release(const parameter_group& g) {
    released_groups.push_back(g.front().name);
    for (const auto& p : g) ++released[p.name];
  }

  // The same object serves as statistics.
  std::optional<catmerge::statistics_view<catmerge::host>> get(index_t k, const parameter_info& p) {
    touch(p);
    asked.push_back(p.name);
    const auto& list = features_[p.name];
    if (at(k) >= list.size() || list[at(k)].size() == 0) return std::nullopt;
    const auto& x = list[at(k)];
    return catmerge::statistics_view<catmerge::host>{
        catmerge::statistics_form::rows, catmerge::const_view_of(x), static_cast<double>(x.rows())};
  }

  std::map<std::string, tensor> bases_;
  std::map<std::string, std::vector<tensor>> experts_, features_;
  std::map<std::string, int> released;
  std::vector<std::string> released_groups, asked;
  bool touched_after_release = false;

 private:
  void touch(const parameter_info& p) {
    touched_after_release = touched_after_release || released[p.name] > 0;
  }

  std::vector<parameter_info> infos_;
  std::vector<parameter_group> groups_;
};

struct sink {
  std::map<std::string, Eigen::MatrixXf> merged;
  std::vector<std::string> order;
  void put(const parameter_info& p, Eigen::MatrixXf t) {
    order.push_back(p.name);
    merged[p.name] = std::move(t);
  }
};

std::vector<Eigen::MatrixXf> as_matrices(const std::vector<Eigen::VectorXf>& v) {
  return {v.begin(), v.end()};
}

/// q, k, v that share their input; a scale; a bias; a table; a linear and a scale that lack one
/// task's statistics; a fused weight and its bias.
struct example {
  layer<Eigen::MatrixXf> q = random_linear<float>(1, 12, 10, {4, 5}),
                         k = random_linear<float>(2, 12, 10, {4, 5}),
                         table = random_linear<float>(3, 30, 6, {1, 1}),
                         fused = random_linear<float>(4, 12, 10, {4, 5});
  layer<Eigen::VectorXf> scale = random_vector<float>(5, 10, {4, 5}),
                         bias = random_vector<float>(6, 12, {4, 5});
  network source;

  example() {
    source.add("q", layer_kind::linear, q.base, q.experts, q.features);
    source.add("k", layer_kind::linear, k.base, k.experts, q.features);
    source.add("scale", layer_kind::scale, scale.base, as_matrices(scale.experts), scale.features);
    source.add("bias", layer_kind::shift, bias.base, as_matrices(bias.experts), {});
    source.add("table", layer_kind::other, table.base, table.experts, {});
    source.add("poor linear", layer_kind::linear, k.base, k.experts, {q.features[0]});
    source.add("poor scale", layer_kind::scale, scale.base, as_matrices(scale.experts), {});
    source.add("fused", layer_kind::linear, fused.base, fused.experts, fused.features, 3);
    source.add("fused bias", layer_kind::shift, bias.base, as_matrices(bias.experts), {}, 3);
    source.group({0, 1});
    for (std::size_t i = 2; i < 9; ++i) source.group({i});
  }
};

std::vector<catmerge::parameter_report> merge(network& n, sink& s,
                                              const catmerge::cat_options& o = {}) {
  catmerge::context<catmerge::host> c;
  return catmerge::merge_stream(catmerge::cat_method{o}, n, n, s, c);
}

/// The message of the error that merging gives.
std::string failure(network& n) {
  sink s;
  try {
    merge(n, s);
  } catch (const catmerge::error& e) {
    return e.what();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a stream merges each parameter as the single calls do, in the source's order") {
  example e;
  sink out;
  std::vector<std::string> seen;
  catmerge::context<catmerge::host> c;
  const auto reports =
      catmerge::merge_stream(catmerge::cat_method{}, e.source, e.source, out, c,
                             [&](const catmerge::parameter_report& r) { seen.push_back(r.name); });
  const std::vector<std::string> order{"q",           "k",          "scale", "bias",      "table",
                                       "poor linear", "poor scale", "fused", "fused bias"};
  CHECK(out.order == order);
  CHECK(seen == order);
  REQUIRE(reports.size() == order.size());
  for (std::size_t i = 0; i < order.size(); ++i) CHECK(reports[i].name == order[i]);

  CHECK(
      same_bits(out.merged["q"], catmerge::cat_linear(e.q.base, e.q.experts, e.q.features).merged));
  CHECK(
      same_bits(out.merged["k"], catmerge::cat_linear(e.k.base, e.k.experts, e.q.features).merged));
  CHECK(
      same_bits(out.merged["scale"],
                Eigen::MatrixXf(
                    catmerge::cat_scale(e.scale.base, e.scale.experts, e.scale.features).merged)));
  CHECK(same_bits(out.merged["bias"],
                  Eigen::MatrixXf(catmerge::cat_shift(e.bias.base, e.bias.experts).merged)));
  CHECK(same_bits(out.merged["table"],
                  catmerge::task_arithmetic(e.table.base, e.table.experts, 0.4).merged));
  CHECK(same_bits(out.merged["poor linear"],
                  catmerge::task_arithmetic(e.k.base, e.k.experts, 0.4).merged));
  CHECK(same_bits(
      out.merged["poor scale"],
      Eigen::MatrixXf(catmerge::task_arithmetic(e.scale.base, e.scale.experts, 0.4).merged)));

  const std::vector<bool> trimmed{true, true, true, true, false, false, false, true, true};
  const std::vector<bool> missing{false, false, false, false, false, true, true, false, false};
  for (std::size_t i = 0; i < order.size(); ++i) {
    CAPTURE(order[i]);
    CHECK(reports[i].layer.trim.has_value() == trimmed[i]);
    CHECK(reports[i].missing_statistics == missing[i]);
  }
}

TEST_CASE(
    "release comes once per group, after its last parameter, and nothing is asked for later") {
  example e;
  sink out;
  merge(e.source, out);
  CHECK_FALSE(e.source.touched_after_release);
  // Source and statistics are one object here: two releases of each parameter in all.
  for (const auto& entry : e.source.released) {
    CAPTURE(entry.first);
    CHECK(entry.second == 2);
  }
  CHECK(e.source.released.size() == 9);
  CHECK(e.source.released_groups.size() == 16);
  for (const auto& name : e.source.asked) {  // those that need none are not asked for any
    CHECK(name != "bias");
    CHECK(name != "table");
  }
}

TEST_CASE("fused weights: each part is a linear of its own, or all are one") {
  example e;
  sink out;
  const auto reports = merge(e.source, out);
  for (index_t part = 0; part < 3; ++part) {
    layer<Eigen::MatrixXf> l;
    l.base = e.fused.base.middleRows(4 * part, 4);
    layer<Eigen::VectorXf> b;
    b.base = e.bias.base.segment(4 * part, 4);
    for (std::size_t k = 0; k < 2; ++k) {
      l.experts.push_back(e.fused.experts[k].middleRows(4 * part, 4));
      b.experts.push_back(e.bias.experts[k].segment(4 * part, 4));
    }
    CHECK(same_bits(Eigen::MatrixXf(out.merged["fused"].middleRows(4 * part, 4)),
                    catmerge::cat_linear(l.base, l.experts, e.fused.features).merged));
    CHECK(same_bits(Eigen::MatrixXf(out.merged["fused bias"].middleRows(4 * part, 4)),
                    Eigen::MatrixXf(catmerge::cat_shift(b.base, b.experts).merged)));
  }
  CHECK(reports[7].layer.trim->protections.size() == 6);
  catmerge::cat_options whole;
  whole.fused = catmerge::fused_weights::whole;
  sink other;
  merge(e.source, other, whole);
  CHECK(same_bits(other.merged["fused"],
                  catmerge::cat_linear(e.fused.base, e.fused.experts, e.fused.features).merged));
}

TEST_CASE("other methods stream without statistics") {
  example e;
  sink out;
  catmerge::context<catmerge::host> c;
  catmerge::no_statistics none;
  catmerge::merge_stream(catmerge::weight_average_method{}, e.source, none, out, c);
  CHECK(same_bits(out.merged["q"], catmerge::weight_average(e.q.base, e.q.experts).merged));
  catmerge::merge_stream(catmerge::task_arithmetic_method{0.7}, e.source, none, out, c);
  CHECK(same_bits(out.merged["q"], catmerge::task_arithmetic(e.q.base, e.q.experts, 0.7).merged));
  CHECK(e.source.asked.empty());
}

TEST_CASE("errors of a stream name the parameter and the task") {
  const auto nan = std::numeric_limits<float>::quiet_NaN();
  SUBCASE("a shape") {
    example e;
    e.source.experts_["scale"][1] = Eigen::MatrixXf::Zero(11, 1);
    CHECK(failure(e.source) == "scale: expert 'dtd': expected 10 x 1, found 11 x 1");
  }
  SUBCASE("a value of an expert") {
    example e;
    e.source.experts_["table"][0](3, 3) = nan;
    CHECK(failure(e.source) == "table: expert 'cars' holds a value that is not finite");
  }
  SUBCASE("a value of the base") {
    example e;
    e.source.bases_["fused"](11, 9) = nan;
    CHECK(failure(e.source) == "fused: base holds a value that is not finite");
  }
  SUBCASE("features") {
    example e;
    e.source.features_["k"][1](0, 0) = nan;
    CHECK(failure(e.source) == "k: features of 'dtd' hold a value that is not finite");
    e.source.features_["k"][1] = Eigen::MatrixXf::Zero(2, 9);
    CHECK(contains(failure(e.source), "k: features of 'dtd': expected rows of 10 entries"));
  }
  SUBCASE("parts that do not divide") {
    example e;
    e.source.bases_["fused"] = Eigen::MatrixXf::Zero(13, 10);
    for (auto& x : e.source.experts_["fused"]) x = Eigen::MatrixXf::Zero(13, 10);
    CHECK(contains(failure(e.source), "fused: 13 rows cannot be split into 3 equal parts"));
  }
}
