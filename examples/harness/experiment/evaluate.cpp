// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <harness/checkpoints/checkpoint_warnings.hpp>
#include <harness/experiment/evaluate.hpp>
#include <harness/networks/checkpoint_weights.hpp>
#include <harness/networks/data/metric_names.hpp>
#include <harness/networks/data/predict.hpp>
#include <harness/networks/data/token_scores.hpp>
#include <harness/networks/open_network.hpp>
#include <harness/system/progress.hpp>

namespace catmerge::harness {

namespace {

evaluation evaluate_tokens(const evaluation_request& request, const network& net,
                           const weight_source& weights) {
  if (!request.head.empty())
    throw error("--head: a language model has no heads of tasks; leave the option out");
  std::vector<std::string> metrics = request.metrics;
  if (metrics.empty()) metrics = {"perplexity"};
  const auto samples = net.open_samples(request.data);
  std::vector<token_metric> measures;
  for (const auto& metric : metrics)
    measures.emplace_back(metric, "--metric " + metric, request.data, samples->size());
  pool threads(request.threads);
  progress terminal;
  const auto scores = score_tokens(net, weights, *samples, threads.runner(), [&](index_t done) {
    terminal.show("samples", done, samples->size());
  });
  terminal.clear();
  evaluation found;
  for (std::size_t i = 0; i < metrics.size(); ++i)
    found.push_back({metrics[i], measures[i](scores)});
  return found;
}

}  // namespace

evaluation evaluate(const evaluation_request& request) {
  const io::checkpoint model(request.model);
  print_warnings(model);
  const auto network = open_network(model, request.config);
  const checkpoint_weights weights(model);
  check_weights(*network, weights);
  if (network->output() == output_kind::next_token)
    return evaluate_tokens(request, *network, weights);
  if (request.head.empty())
    throw error("--head is missing: the network puts out no classes of its own");
  const task_head head(request.head, network->output(), network->output_width());
  const auto samples = network->open_samples(request.data);
  const task_labels labels(request.data, samples->size());
  std::vector<std::string> metrics = request.metrics;
  if (metrics.empty()) metrics = {labels.are_classes() ? "accuracy" : "pearson"};
  for (const auto& metric : metrics)
    check_metric(metric, "--metric " + metric, labels, head, request.head);

  pool threads(request.threads);
  progress terminal;
  const matrix outputs =
      predict(*network, weights, *samples, head, 64, threads.runner(),
              [&](index_t done) { terminal.show("samples", done, samples->size()); });
  terminal.clear();
  evaluation found;
  for (const auto& metric : metrics) {
    found.push_back({metric, measure(metric, outputs, labels)});
    if (metric != "accuracy") continue;
    const auto& classes = labels.classes(outputs.cols());
    found.back().correct = count_correct(top1(view(outputs)), classes);
    found.back().of = std::ssize(classes);
  }
  return found;
}

}  // namespace catmerge::harness
