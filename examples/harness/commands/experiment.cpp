// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <harness/commands/command_line.hpp>
#include <harness/commands/commands.hpp>
#include <harness/experiment/run_experiment.hpp>
#include <harness/methods/catalogue.hpp>
#include <iostream>
#include <memory>

namespace catmerge::harness {

void add_experiment(CLI::App& program) {
  auto request = std::make_shared<experiment_request>();
  auto* command = program.add_subcommand(
      "experiment", "Compare the methods on a family of networks, and study their settings");
  command
      ->add_option(
          "folder", request->folder,
          "The family: base/, experts/, heads/ (or in the experts), samples/, validation/, "
          "test/; fisher/ and sensitivity/ if there are any")
      ->required()
      ->type_name("FOLDER");
  command
      ->add_option("--output", request->output,
                   "A folder for results.json, results.csv, tables.md and index.html; the tables "
                   "are printed in any case")
      ->type_name("D");
  command->add_flag("--overwrite", request->overwrite, "Replace an output that exists");
  command
      ->add_option("--studies", request->studies,
                   "The studies, with commas between them (default: all)")
      ->check(CLI::IsMember(study_names()))
      ->delimiter(',')
      ->expected(1)
      ->take_all();
  std::vector<std::string> methods = {"auto"};
  for (const auto& m : all_methods())
    if (!m.trials.empty()) methods.push_back(m.name);
  command
      ->add_option("--methods", request->plan.methods,
                   "The methods to compare, with commas between them (default: all)")
      ->check(CLI::IsMember(methods))
      ->delimiter(',')
      ->expected(1)
      ->take_all();
  command->add_option("--samples", request->plan.samples, "Unlabeled samples per task")
      ->check(CLI::Range(index_t{1}, index_t{1000000}))
      ->capture_default_str();
  command->add_option("--seeds", request->plan.seeds, "Draws of samples")
      ->check(CLI::Range(index_t{1}, index_t{1000}))
      ->capture_default_str();
  command->add_option("--alphas", request->plan.alphas, "The grid of alphas")
      ->delimiter(',')
      ->check(finite_number(true))
      ->expected(1)
      ->take_all();
  command->add_option("--lambdas", request->plan.lambdas, "The grid of CAT's lambdas")
      ->delimiter(',')
      ->check(finite_number(false))
      ->expected(1)
      ->take_all();
  command->add_option("--ranks", request->plan.ranks, "The grid of CAT's ranks")
      ->delimiter(',')
      ->check(whole_number())
      ->expected(1)
      ->take_all();
  add_list(*command, "--drop", request->drop, "PATTERN",
           "Tensors to leave out (PATTERN: *, ? and {a,b})");
  add_list(*command, "--task-heads", request->task_heads, "PATTERN",
           "Tensors that are each task's own");
  add_rule_option(*command, request->rules);
  add_threads(*command, request->threads);
  add_verbosity(*command, request->how);
  command->callback([request] { run_experiment(*request, std::cout); });
}

}  // namespace catmerge::harness
