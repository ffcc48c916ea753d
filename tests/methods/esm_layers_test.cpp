// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// ESM's factors of layers, on whole networks: the formula, what has no factor, and every kind of
// context.
#include <doctest/doctest.h>

#include <catmerge/merge/merge_parameter.hpp>
#include <catmerge/merge/stream.hpp>
#include <catmerge/methods/esm_layers.hpp>
#include <catmerge/methods/task_arithmetic.hpp>
#include <catmerge/model/layer_depths.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "support/backends/eigen.hpp"
#include "support/fake_device.hpp"
#include "support/tolerance.hpp"

using namespace test;
using catmerge::esm_layers_transform;
using catmerge::layer_kind;
using catmerge::task_arithmetic_method;
using catmerge::then;

namespace {

using dense = matrix_of<double>;

/// A network in memory: source, statistics and sink of merge_stream.
struct network {
  struct parameter {
    catmerge::parameter_info info;
    dense base;
    std::vector<dense> experts;
  };
  std::vector<parameter> parameters;
  std::map<std::string, dense> merged{};

  /// A matrix or a vector whose task vectors have entries of a size.
  void add(const std::string& name, layer_kind kind, double size, const std::string& whole = {}) {
    generator g(parameters.size() + 1);
    parameter p;
    p.info.name = name;
    p.info.kind = kind;
    p.info.whole = whole;
    const index_t columns = kind == layer_kind::scale || kind == layer_kind::shift ? 1 : 4;
    p.base = g.matrix(3, columns);
    for (int k = 0; k < 2; ++k) p.experts.push_back(p.base + size * g.matrix(3, columns));
    parameters.push_back(std::move(p));
  }

  std::vector<catmerge::parameter_group> groups() const {
    std::vector<catmerge::parameter_group> all;
    for (const auto& p : parameters) all.push_back({p.info});
    return all;
  }
  const parameter& of(const std::string& name) const {
    for (const auto& p : parameters)
      if (p.info.name == name) return p;
    throw std::logic_error(name);
  }
  std::vector<std::string> tasks() const { return {"a", "b"}; }
  const dense& base(const catmerge::parameter_info& p) { return of(p.name).base; }
  const dense& expert(index_t k, const catmerge::parameter_info& p) {
    return of(p.name).experts[static_cast<std::size_t>(k)];
  }
  void release(const catmerge::parameter_group&) {}
  void put(const catmerge::parameter_info& p, dense value) { merged[p.name] = std::move(value); }

  /// theta - theta_0 of a merge.
  template <class Method>
  std::map<std::string, dense> vectors(const Method& method) {
    catmerge::merge_stream(method, *this, *this);
    std::map<std::string, dense> tau;
    for (const auto& p : parameters) tau[p.info.name] = merged.at(p.info.name) - p.base;
    return tau;
  }
};

/// Two roles in three layers, one linear in two pieces; and parameters without factors.
network varied() {
  network n;
  const double sizes[] = {1, 0.25, 3};
  for (int l = 0; l < 3; ++l) {
    const std::string layer = "encoder.layers." + std::to_string(l);
    n.add(layer + ".fc1.weight", layer_kind::linear, sizes[l]);
    n.add(layer + ".fc1.bias", layer_kind::shift, sizes[l]);
    n.add(layer + ".norm.weight", layer_kind::scale, sizes[l]);
    if (l == 1) {
      n.add("experts[0]", layer_kind::linear, 2, layer + ".fc2.weight");
      n.add("experts[1]", layer_kind::linear, 0.5, layer + ".fc2.weight");
    } else {
      n.add(layer + ".fc2.weight", layer_kind::linear, sizes[l]);
    }
  }
  n.add("decoder.layers.0.fc1.weight", layer_kind::linear, 5);  // a stack of one layer
  n.add("projection.weight", layer_kind::linear, 2);
  n.add("encoder.layers.0.table", layer_kind::other, 2);
  return n;
}

const esm_layers_transform by_role{{}, catmerge::model::role_in_layer};

double near(const dense& found, const dense& expected) {
  return (found - expected).norm() / expected.norm();
}

}  // namespace

TEST_CASE("ESM's factors: the formula, for each role alone") {
  network n = varied();
  const auto plain = n.vectors(task_arithmetic_method{0.4});
  for (const double exponent : {2.0, 1.0, 0.5}) {
    auto t = by_role;
    t.options.exponent = exponent;
    const auto scaled = n.vectors(then{task_arithmetic_method{0.4}, t});
    const auto norm = [&](const char* name) { return plain.at(name).norm(); };
    const double pieces = std::hypot(norm("experts[0]"), norm("experts[1]"));
    const double fc1[] = {norm("encoder.layers.0.fc1.weight"), norm("encoder.layers.1.fc1.weight"),
                          norm("encoder.layers.2.fc1.weight")};
    const double fc2[] = {norm("encoder.layers.0.fc2.weight"), pieces,
                          norm("encoder.layers.2.fc2.weight")};
    const double mean1 = (fc1[0] + fc1[1] + fc1[2]) / 3, mean2 = (fc2[0] + fc2[1] + fc2[2]) / 3;
    std::map<std::string, double> factors;
    for (const auto& [name, tau] : plain) factors[name] = 1;
    for (std::size_t l = 0; l < 3; ++l) {
      const std::string layer = "encoder.layers." + std::to_string(l);
      factors[layer + ".fc1.weight"] = std::pow(fc1[l] / mean1, exponent);
      if (l != 1) factors[layer + ".fc2.weight"] = std::pow(fc2[l] / mean2, exponent);
    }
    factors["experts[0]"] = factors["experts[1]"] = std::pow(pieces / mean2, exponent);
    CHECK(factors["encoder.layers.2.fc1.weight"] > 1.3);
    CHECK(factors["encoder.layers.1.fc1.weight"] < 0.6);
    for (const auto& [name, tau] : plain) {
      CAPTURE(name);
      CHECK(near(scaled.at(name), factors[name] * tau) <= 1e-12);
    }
  }
}

TEST_CASE("ESM's factors do not depend on alpha, and exponent 0 has none") {
  network n = varied();
  const auto small = n.vectors(then{task_arithmetic_method{0.1}, by_role});
  const auto large = n.vectors(then{task_arithmetic_method{0.7}, by_role});
  for (const auto& [name, tau] : small) CHECK(near(large.at(name), 7 * tau) <= 1e-12);
  auto none = by_role;
  none.options.exponent = 0;
  n.vectors(task_arithmetic_method{0.4});
  const auto plain = n.merged;
  n.vectors(then{task_arithmetic_method{0.4}, none});
  for (const auto& [name, theta] : plain) CHECK(same_bits(n.merged.at(name), theta));
}

TEST_CASE("a role whose vectors are zero stays zero") {
  network n;
  for (const char* name : {"layers.0.w", "layers.1.w"}) n.add(name, layer_kind::linear, 0);
  for (const auto& [name, tau] : n.vectors(then{task_arithmetic_method{1}, by_role}))
    CHECK(tau.norm() == 0);
}

TEST_CASE("ESM's factors of one parameter: any context, and settings that are refused") {
  const auto l = random_linear<float>(1, 6, 5, {1, 1, 1});
  catmerge::layer_problem<catmerge::context<catmerge::host>> p;
  p.kind = layer_kind::linear;
  p.names.parameter = "layers.0.w";
  const auto merged = [&](const auto& method) {
    catmerge::context<catmerge::host> c;
    return catmerge::merge_parameter(method, p, l.base, l.experts, c).merged;
  };
  // The only layer of its role is its own mean.
  const auto plain = merged(task_arithmetic_method{0.5});
  CHECK(same_bits(merged(then{task_arithmetic_method{0.5}, by_role}), plain));
  catmerge::context<fake_device> device;
  catmerge::layer_problem<catmerge::context<fake_device>> q;
  q.kind = layer_kind::linear;
  q.names.parameter = "layers.0.w";
  std::vector<fake_tensor<2>> experts;
  for (const auto& e : l.experts) experts.push_back(fake_tensor<2>::upload(e));
  CHECK(same_bits(catmerge::merge_parameter(then{task_arithmetic_method{0.5}, by_role}, q,
                                            fake_tensor<2>::upload(l.base), experts, device)
                      .merged.download<float>(),
                  plain));

  for (const double exponent : {-1.0, std::numeric_limits<double>::quiet_NaN()})
    CHECK_THROWS_WITH_AS(
        merged(then{task_arithmetic_method{1}, esm_layers_transform{{exponent}, by_role.role}}),
        "ESM's factors: exponent must be a finite number that is not negative", catmerge::error);
  CHECK_THROWS_WITH_AS(merged(then{task_arithmetic_method{1}, esm_layers_transform{}}),
                       "ESM's factors: the roles of layers are not known", catmerge::error);
}
