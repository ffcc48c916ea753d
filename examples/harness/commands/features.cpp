// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <catmerge/model/layer_of.hpp>
#include <catmerge/model/networks.hpp>
#include <harness/checkpoints/checkpoint_rules.hpp>
#include <harness/checkpoints/checkpoint_warnings.hpp>
#include <harness/commands/command_line.hpp>
#include <harness/features/input_statistics.hpp>
#include <harness/networks/open_network.hpp>
#include <harness/system/progress.hpp>
#include <map>

namespace catmerge::harness {

namespace {

struct arguments {
  std::string model, samples, output, config;
  std::vector<std::string> rules;
  index_t sample_count = 0;
  bool overwrite = false;
  unsigned threads = default_threads();
};

/// What a block recorded, kept in the form in which it is written.
struct kept_statistics {
  statistics_form form;
  host_matrix data;
  index_t rows;
};

void run_features(const arguments& a) {
  require_apart(a.output, {a.model, a.samples, a.config});
  if (!a.overwrite) io::require_free(a.output);
  const io::checkpoint model(a.model);
  print_warnings(model);
  auto rules = rules_of(model);
  add_rules(a.rules, rules);
  const auto network = open_network(model, a.config);
  std::map<std::string, layer_kind> kinds;
  for (const auto& name : model.names()) {
    const auto kind = layer_of(rules.classify(model.at(name)));
    if (kind == layer_kind::linear || kind == layer_kind::scale) kinds.emplace(name, kind);
  }
  pool threads(a.threads);
  context<host> c(threads.runner());
  sample_run run(*network, a.samples, a.sample_count, std::make_unique<checkpoint_weights>(model),
                 kinds);

  std::map<std::string, kept_statistics> kept;
  std::map<std::string, std::string> aliases;
  progress terminal;
  for (std::size_t block = 0; block < network->block_count(); ++block) {
    terminal.show("running blocks", static_cast<index_t>(block),
                  static_cast<index_t>(network->block_count()));
    run.advance(threads.runner());
    for (const auto& [name, owner] : run.recorded().owners()) {
      if (name != owner) {
        aliases.emplace(name, owner);
        continue;
      }
      const auto s = *run.recorded().find(name);
      host_matrix copy(s.data.type, s.data.rows, s.data.columns);
      c.assign(s.data, copy);
      kept.emplace(name, kept_statistics{s.form, std::move(copy), static_cast<index_t>(s.rows)});
    }
    for (const auto& p : network->parameters(block)) model.release(p.name);
  }
  terminal.clear();

  std::vector<io::statistics_writer::declaration> declarations;
  for (const auto& [name, s] : kept) {
    const host_const_view v = s.data;
    const auto shape = s.form == statistics_form::second_moment ? io::shape_t{v.rows}
                                                                : io::shape_t{v.rows, v.columns};
    declarations.push_back({name, s.form, io::dtype_of(v.type), shape, s.rows});
  }
  io::statistics_writer writer(a.output, declarations, aliases, {},
                               a.overwrite ? io::existing::replace : io::existing::refuse);
  for (const auto& [name, s] : kept) {
    const host_const_view v = s.data;
    writer.write(name, {static_cast<const std::byte*>(v.data),
                        static_cast<std::size_t>(v.rows * v.columns) * size_of(v.type)});
  }
  writer.commit();
}

}  // namespace

void add_features(CLI::App& program) {
  auto a = std::make_shared<arguments>();
  auto* command = program.add_subcommand("features", "Record what enters each trimmed parameter");
  command->add_option("--model", a->model, "The network, an expert: CLIP vision, BERT or RoBERTa")
      ->required()
      ->type_name("P");
  command
      ->add_option(
          "--samples", a->samples,
          "Unlabeled samples: pixel_values (n, channels, height, width) or input_ids (n, tokens)")
      ->required()
      ->type_name("F");
  command->add_option("--sample-count", a->sample_count, "Use the first so many samples (0: all)")
      ->check(whole_number())
      ->capture_default_str();
  command
      ->add_option("--output", a->output,
                   "The file of features: rows while they are at most d_in, else Gram "
                   "matrices; second moments for scales")
      ->required()
      ->type_name("F");
  command->add_option("--config", a->config, "The network's config.json, where none lies beside it")
      ->type_name("F");
  command->add_flag("--overwrite", a->overwrite, "Replace an output that exists");
  command->add_option("--threads", a->threads, "Threads; the result does not depend on it")
      ->check(CLI::Range(1U, 1024U));
  add_rule_option(*command, a->rules);
  command->callback([a] { run_features(*a); });
}

}  // namespace catmerge::harness
