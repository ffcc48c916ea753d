// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <cstdio>
#include <harness/checkpoints/checkpoint_warnings.hpp>
#include <harness/commands/command_line.hpp>
#include <harness/networks/checkpoint_weights.hpp>
#include <harness/networks/data/metric_names.hpp>
#include <harness/networks/data/predict.hpp>
#include <harness/networks/open_network.hpp>
#include <harness/system/pool.hpp>
#include <harness/system/progress.hpp>

namespace catmerge::harness {

namespace {

struct arguments {
  std::string model, data, head, config;
  std::vector<std::string> metrics;
  unsigned threads = default_threads();
};

void run_evaluate(const arguments& a) {
  const io::checkpoint model(a.model);
  print_warnings(model);
  const auto network = open_network(model, a.config);
  const checkpoint_weights weights(model);
  check_weights(*network, weights);
  const task_head head(a.head, network->output(), network->output_width());
  const auto samples = network->open_samples(a.data);
  const task_labels labels(a.data, samples->size());
  std::vector<std::string> metrics = a.metrics;
  if (metrics.empty()) metrics = {labels.are_classes() ? "accuracy" : "pearson"};
  for (const auto& metric : metrics)
    check_metric(metric, "--metric " + metric, labels, head, a.head);

  pool threads(a.threads);
  progress terminal;
  const matrix outputs =
      predict(*network, weights, *samples, head, 64, threads.runner(),
              [&](index_t done) { terminal.show("samples", done, samples->size()); });
  terminal.clear();
  std::vector<double> results;
  for (const auto& metric : metrics) {
    results.push_back(measure(metric, outputs, labels));
    if (metric != "accuracy") continue;
    const auto& classes = labels.classes(outputs.cols());
    std::printf("%lld of %lld correct\n",
                static_cast<long long>(count_correct(top1(view(outputs)), classes)),
                static_cast<long long>(classes.size()));
  }
  for (std::size_t i = 0; metrics.size() > 1 && i < metrics.size(); ++i) {
    std::printf("%s %.2f\n", metrics[i].c_str(), results[i]);
  }
  std::printf("%.2f\n", results.front());
}

}  // namespace

void add_evaluate(CLI::App& program) {
  auto a = std::make_shared<arguments>();
  auto* command = program.add_subcommand("evaluate", "How well a network does a task");
  command->add_option("--model", a->model, "The network: CLIP vision, BERT or RoBERTa")
      ->required()
      ->type_name("P");
  command
      ->add_option("--data", a->data,
                   "labels (n), and pixel_values (n, channels, height, width) or input_ids (n, "
                   "tokens), attention_mask and token_type_ids")
      ->required()
      ->type_name("F");
  command
      ->add_option("--head", a->head,
                   "weight (classes, d) and bias (classes), or classifier.* as in a checkpoint of "
                   "transformers, which this may be")
      ->required()
      ->type_name("P");
  command
      ->add_option("--metric", a->metrics,
                   "accuracy, matthews, f1 (of class 1), pearson or spearman; several with commas "
                   "between them. Default: accuracy, for labels that are not integers pearson")
      ->check(CLI::IsMember({"accuracy", "matthews", "f1", "pearson", "spearman"}))
      ->type_name("M")
      ->delimiter(',')
      ->expected(1)
      ->take_all();
  command->add_option("--config", a->config, "The network's config.json, where none lies beside it")
      ->type_name("F");
  command->add_option("--threads", a->threads, "Threads; the result does not depend on it")
      ->check(CLI::Range(1U, 1024U));
  command->footer("The last line of the output is the first metric, in percent.");
  command->callback([a] { run_evaluate(*a); });
}

}  // namespace catmerge::harness
