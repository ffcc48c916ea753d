// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <harness/commands/commands.hpp>
#include <harness/methods/list_methods.hpp>

namespace catmerge::harness {

void add_methods(CLI::App& program) {
  program.add_subcommand("methods", "List the merging methods and their settings")
      ->callback(list_methods);
}

}  // namespace catmerge::harness
