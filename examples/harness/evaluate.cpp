// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <cstdio>
#include <harness/commands.hpp>
#include <harness/open_network.hpp>
#include <harness/pool.hpp>
#include <harness/progress.hpp>
#include <network/checkpoint_weights.hpp>
#include <network/head.hpp>
#include <network/labels.hpp>
#include <network/metrics.hpp>
#include <network/predict.hpp>

namespace catmerge::harness {

namespace {

struct arguments {
  std::string model, data, head, config;
  std::vector<std::string> metrics;
  unsigned threads = default_threads();
};

/// Whether a metric compares values; else it compares classes.
bool is_of_values(const std::string& metric) {
  return metric == "pearson" || metric == "spearman";
}

/// Throws, before the network runs, if the labels or the head do not suit a metric.
void check_metric(const std::string& metric, const task_labels& labels, const task_head& head,
                  const std::string& head_file) {
  const auto expect = [&](index_t outputs) {
    if (head.outputs() == outputs) return;
    throw error(head_file + ": expected a head with " + std::to_string(outputs) +
                (outputs == 1 ? " output" : " outputs") + " for --metric " + metric + ", found " +
                std::to_string(head.outputs()));
  };
  if (is_of_values(metric)) return expect(1);
  labels.classes(head.outputs());
  if (metric == "f1") expect(2);
}

double measure(const std::string& metric, const matrix& outputs, const task_labels& labels) {
  if (is_of_values(metric)) {
    const std::vector<double> values(outputs.data(), outputs.data() + outputs.size());
    return metric == "pearson" ? pearson(values, labels.values())
                               : spearman(values, labels.values());
  }
  const auto predicted = top1(view(outputs));
  const auto& classes = labels.classes(outputs.cols());
  if (metric == "matthews") return matthews(predicted, classes);
  if (metric == "f1") return f1(predicted, classes);
  const auto correct = count_correct(predicted, classes);
  std::printf("%lld of %lld correct\n", static_cast<long long>(correct),
              static_cast<long long>(classes.size()));
  return accuracy(predicted, classes);
}

void run_evaluate(const arguments& a) {
  const io::checkpoint model(a.model);
  const auto network = open_network(model, a.config);
  const checkpoint_weights weights(model);
  check_weights(*network, weights);
  const task_head head(a.head, network->output(), network->output_width());
  const auto samples = network->open_samples(a.data);
  const task_labels labels(a.data, samples->size());
  std::vector<std::string> metrics = a.metrics;
  if (metrics.empty()) metrics = {labels.are_classes() ? "accuracy" : "pearson"};
  for (const auto& metric : metrics) check_metric(metric, labels, head, a.head);

  pool threads(a.threads);
  progress terminal;
  const matrix outputs =
      predict(*network, weights, *samples, head, 64, threads.runner(),
              [&](index_t done) { terminal.show("samples", done, samples->size()); });
  terminal.clear();
  std::vector<double> results;
  for (const auto& metric : metrics) results.push_back(measure(metric, outputs, labels));
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
