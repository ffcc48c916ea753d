// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <harness/checkpoints/checkpoint_rules.hpp>
#include <tuple>

#include "bindings.hpp"

namespace catmerge::python {

namespace {

/// The role of a parameter in merges: its kind, true if methods trim it, the source of the rule.
using role = std::tuple<std::string, bool, std::string>;

std::vector<role> roles(const std::vector<std::string>& names,
                        const std::vector<std::vector<index_t>>& shapes,
                        const std::string& model_type, const std::vector<std::string>& given) {
  model::name_rules rules = harness::rules_of(model_type);
  harness::add_rules(given, rules);
  std::vector<role> all;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto c = rules.classify({names[i], io::dtype::f32, shapes[i]});
    all.emplace_back(model::name_of(c.kind), c.trim, model::name_of(c.source));
  }
  return all;
}

}  // namespace

void bind_kinds(nanobind::module_& m) {
  namespace nb = nanobind;
  m.def("roles", &roles, nb::arg("names"), nb::arg("shapes"), nb::arg("model_type"),
        nb::arg("rules"));
}

}  // namespace catmerge::python
