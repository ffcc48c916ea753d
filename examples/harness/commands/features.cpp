// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <harness/commands/command_line.hpp>
#include <harness/commands/commands.hpp>
#include <harness/features/record_features.hpp>
#include <memory>

namespace catmerge::harness {

void add_features(CLI::App& program) {
  auto request = std::make_shared<features_request>();
  auto* command = program.add_subcommand("features", "Record the inputs of each trimmed parameter");
  command
      ->add_option("--model", request->model,
                   "The network, an expert: CLIP vision, BERT, RoBERTa, a decoder or BLIP")
      ->required()
      ->type_name("P");
  command
      ->add_option("--samples", request->samples,
                   "Unlabeled samples: pixel_values (n, channels, height, width) or input_ids (n, "
                   "tokens), for BLIP both")
      ->required()
      ->type_name("F");
  command
      ->add_option("--sample-count", request->sample_count,
                   "Use the first so many samples (0: all)")
      ->check(whole_number())
      ->capture_default_str();
  command
      ->add_option("--output", request->output,
                   "The file of features: rows while they are at most d_in, else Gram "
                   "matrices; second moments for scales")
      ->required()
      ->type_name("F");
  command
      ->add_option("--config", request->config, "The network's config.json, if none lies beside it")
      ->type_name("F");
  command->add_flag("--overwrite", request->overwrite, "Replace an output that exists");
  add_threads(*command, request->threads);
  add_rule_option(*command, request->rules);
  command->callback([request] { record_features(*request); });
}

}  // namespace catmerge::harness
