// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include "words.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <catmerge/error.hpp>
#include <harness/commands/commands.hpp>

#include "bindings.hpp"

namespace catmerge::python {

namespace nb = nanobind;

namespace {

/// The options of `merge`: name without dashes, whether it is a flag, whether it may be repeated,
/// and its explanation.
nb::list merge_options() {
  CLI::App program("", "catmerge");
  harness::add_merge(program);
  nb::list list;
  for (const CLI::Option* option : program.get_subcommand("merge")->get_options()) {
    const std::string name = option->get_single_name();
    if (name == "help") continue;
    nb::dict one;
    one["name"] = name;
    one["flag"] = option->get_expected_max() == 0;
    one["list"] = option->get_multi_option_policy() == CLI::MultiOptionPolicy::TakeAll;
    one["default"] = option->get_default_str();
    one["help"] = option->get_description();
    list.append(one);
  }
  return list;
}

}  // namespace

harness::merge_request request_of(std::vector<std::string> words) {
  CLI::App program("", "catmerge");
  harness::merge_request found;
  harness::add_merge(program, [&](const harness::merge_request& request) { found = request; });
  words.insert(words.begin(), "merge");
  std::reverse(words.begin(), words.end());  // as CLI11 takes a vector
  try {
    program.parse(std::move(words));
  } catch (const CLI::ParseError& problem) {
    throw error(problem.what());
  }
  found.how = harness::verbosity::quiet;
  return found;
}

void bind_words(nb::module_& m) {
  m.def("merge_options", &merge_options);
}

}  // namespace catmerge::python
