// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <harness/checkpoints/inspect.hpp>
#include <harness/commands/command_line.hpp>
#include <harness/commands/commands.hpp>
#include <iostream>
#include <memory>

namespace catmerge::harness {

void add_inspect(CLI::App& program) {
  auto request = std::make_shared<inspection_request>();
  auto* command = program.add_subcommand(
      "inspect", "Names, shapes, types and kinds of the tensors of checkpoints");
  command->add_option("P", request->checkpoints, "Checkpoints")->required()->expected(-1);
  add_rule_option(*command, request->rules);
  command->callback([request] { inspect(*request, std::cout); });
}

}  // namespace catmerge::harness
