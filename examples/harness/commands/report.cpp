// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <harness/commands/command_line.hpp>
#include <harness/commands/commands.hpp>
#include <harness/report/rewrite_report.hpp>
#include <memory>

namespace catmerge::harness {

void add_report(CLI::App& program) {
  auto request = std::make_shared<page_request>();
  auto* command = program.add_subcommand(
      "report", "Make a page of a merge's JSON report, with later measurements");
  command->add_option("report", request->report, "The report of `catmerge merge --report F.json`")
      ->required()
      ->type_name("F.json");
  command
      ->add_option("--output", request->outputs,
                   "The page; or a report with the scores, by its name")
      ->required()
      ->type_name("F.html|F.json")
      ->expected(1)
      ->take_all();
  command
      ->add_option("--scores", request->scores,
                   "A network's score on every task, for instance from `catmerge evaluate`: "
                   "'merged:cars=63.1,dtd=55.2'; may be given several times")
      ->type_name("LABEL:TASK=VALUE,...")
      ->expected(1)
      ->take_all();
  command->add_flag("--overwrite", request->overwrite, "Replace outputs that exist");
  command->callback([request] { rewrite_report(*request); });
}

}  // namespace catmerge::harness
