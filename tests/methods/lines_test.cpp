// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// LiNeS, on parameters of several names.
#include <doctest/doctest.h>

#include <catmerge/merge/merge_parameter.hpp>
#include <catmerge/methods/lines.hpp>
#include <catmerge/methods/task_arithmetic.hpp>
#include <limits>
#include <optional>

#include "support/backends/eigen.hpp"
#include "support/fake_device.hpp"
#include "support/tolerance.hpp"

using namespace test;
using catmerge::layer_kind;
using catmerge::lines_transform;
using catmerge::then;

namespace {

/// The layer's number over 4; none for names of another form.
std::optional<double> fourths(const std::string& name) {
  if (!name.starts_with("layers.")) return std::nullopt;
  return (name[7] - '0') / 4.0;
}

template <class Base, class Experts, class Context>
auto merge(const std::string& name, const lines_transform& t, const Base& base,
           const Experts& experts, Context& c, layer_kind kind = layer_kind::linear) {
  catmerge::layer_problem<Context> p;
  p.kind = kind;
  p.names.parameter = name;
  return catmerge::merge_parameter(then{catmerge::task_arithmetic_method{2}, t}, p, base, experts,
                                   c)
      .merged;
}

}  // namespace

TEST_CASE_TEMPLATE("a factor that is linear in depth", S, double, float) {
  const auto l = random_linear<S>(1, 6, 5, {1, 1, 1});
  catmerge::context<catmerge::host> c;
  matrix_of<S> sum = matrix_of<S>::Zero(6, 5);
  for (const auto& e : l.experts) sum += e - l.base;
  const lines_transform t{{0.5, 3}, fourths};
  for (const auto& [name, factor] : {std::pair<const char*, double>{"layers.0.w", 0.5},
                                     {"layers.1.w", 1.125},
                                     {"layers.2.w", 1.75},
                                     {"layers.4.w", 3},
                                     {"embeddings", 0.5},
                                     {"", 0.5}}) {
    const matrix_of<S> expected = l.base + sum * static_cast<S>(2 * factor);
    CHECK((merge(name, t, l.base, l.experts, c) - expected).norm() <=
          30 * tolerance::eps<S> * expected.norm());
  }
  // Every kind; and a piece of a tensor counts as the tensor.
  const matrix_of<S> last = merge("layers.4.w", t, l.base, l.experts, c);
  CHECK(same_bits(merge("layers.4.b", t, l.base, l.experts, c, layer_kind::other), last));
  catmerge::layer_problem<catmerge::context<catmerge::host>> p;
  p.names.parameter = "piece";
  p.names.whole = "layers.4.w";
  CHECK(same_bits(catmerge::merge_parameter(then{catmerge::task_arithmetic_method{2}, t}, p, l.base,
                                            l.experts, c)
                      .merged,
                  last));
  // The device.
  catmerge::context<fake_device> device;
  std::vector<fake_tensor<2>> experts;
  for (const auto& e : l.experts) experts.push_back(fake_tensor<2>::upload(e));
  CHECK(same_bits(merge("layers.4.w", t, fake_tensor<2>::upload(l.base), experts, device)
                      .template download<S>(),
                  last));
}

TEST_CASE("factors that are no numbers, and depths that are not known") {
  const auto l = random_linear<double>(2, 3, 4, {1, 1});
  catmerge::context<catmerge::host> c;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const auto& o : {catmerge::lines_options{nan, 1}, {1, nan}})
    CHECK_THROWS_WITH_AS(merge("", lines_transform{o, fourths}, l.base, l.experts, c),
                         "LiNeS: first and last must be finite numbers", catmerge::error);
  CHECK_THROWS_WITH_AS(merge("", lines_transform{}, l.base, l.experts, c),
                       "LiNeS: the depths of layers are not known", catmerge::error);
}
