// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <harness/commands/commands.hpp>
#include <harness/methods/list_methods.hpp>
#include <memory>

namespace catmerge::harness {

void add_methods(CLI::App& program) {
  auto markdown = std::make_shared<bool>(false);
  auto& command = *program.add_subcommand("methods", "List the merging methods and their settings");
  command.add_flag("--markdown", *markdown,
                   "Print tables for the README: the needs of each method, and its paper");
  command.callback([markdown] { *markdown ? list_methods_as_markdown() : list_methods(); });
}

}  // namespace catmerge::harness
