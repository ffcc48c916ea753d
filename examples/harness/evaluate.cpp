// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <cstdio>
#include <harness/commands.hpp>
#include <harness/open_network.hpp>
#include <harness/pool.hpp>
#include <harness/progress.hpp>
#include <network/accuracy.hpp>
#include <network/checkpoint_weights.hpp>
#include <network/labels.hpp>

namespace catmerge::harness {

namespace {

struct arguments {
  std::string model, data, head, config;
  unsigned threads = default_threads();
};

void run_evaluate(const arguments& a) {
  const io::checkpoint model(a.model);
  const auto network = open_network(model, a.config);
  const checkpoint_weights weights(model);
  check_weights(*network, weights);
  const classification_head head(a.head, network->output_width());
  const auto samples = network->open_samples(a.data);
  const auto labels = read_labels(io::safetensors_file(a.data), samples->size(), head.classes());
  pool threads(a.threads);
  progress terminal;
  const accuracy result = measure_accuracy(
      *network, weights, *samples, labels, head, 64, threads.runner(),
      [&](const accuracy& so_far) { terminal.show("samples", so_far.total, samples->size()); });
  terminal.clear();
  std::printf("%lld of %lld correct\n%.2f\n", static_cast<long long>(result.correct),
              static_cast<long long>(result.total), result.percent());
}

}  // namespace

void add_evaluate(CLI::App& program) {
  auto a = std::make_shared<arguments>();
  auto* command = program.add_subcommand("evaluate", "Top-1 accuracy of a network on a task");
  command->add_option("--model", a->model, "The network (CLIP vision)")->required()->type_name("P");
  command->add_option("--data", a->data, "pixel_values (n, channels, height, width) and labels (n)")
      ->required()
      ->type_name("F");
  command->add_option("--head", a->head, "weight (classes, d) and, if there is one, bias (classes)")
      ->required()
      ->type_name("F");
  command->add_option("--config", a->config, "The network's config.json, where none lies beside it")
      ->type_name("F");
  command->add_option("--threads", a->threads, "Threads; the result does not depend on it")
      ->check(CLI::Range(1U, 1024U));
  command->footer("The last line of the output is the accuracy in percent.");
  command->callback([a] { run_evaluate(*a); });
}

}  // namespace catmerge::harness
