// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <filesystem>
#include <harness/checkpoints/checkpoint_warnings.hpp>
#include <harness/experiment/evaluate.hpp>
#include <harness/networks/checkpoint_weights.hpp>
#include <harness/networks/data/average.hpp>
#include <harness/networks/data/metric_names.hpp>
#include <harness/networks/data/predict.hpp>
#include <harness/networks/data/references.hpp>
#include <harness/networks/data/token_scores.hpp>
#include <harness/networks/open_network.hpp>
#include <harness/networks/writing/texts_of.hpp>
#include <harness/report/tell.hpp>
#include <harness/system/progress.hpp>
#include <optional>
#include <utility>

namespace catmerge::harness {

namespace {

/// Throws for options of written texts that would not be used.
void require_written_texts(const evaluation_request& request) {
  const bool limits = request.min_length || request.max_length || request.beams;
  const bool written =
      std::any_of(request.metrics.begin(), request.metrics.end(), is_of_written_texts);
  if (!written && (limits || request.rank_answers))
    throw error(
        "--beams, --min-tokens, --max-tokens and --rank-answers: no metric of written texts is "
        "asked for (--metric answer, cider or vqa)");
  if (limits && request.rank_answers)
    throw error(
        "--rank-answers chooses among given texts: leave --beams, --min-tokens and --max-tokens "
        "out");
}

writing_options options_of(const evaluation_request& request, const text_writing& how) {
  writing_options options;
  options.origin = request.data;
  options.beams = request.beams.value_or(3);
  options.min_length = request.min_length.value_or(1);
  options.max_length = request.max_length.value_or(std::min(options.max_length, how.longest));
  if (options.max_length > how.longest)
    throw error("--max-tokens: the network reads " + std::to_string(how.longest) +
                " tokens at most, found " + std::to_string(options.max_length));
  if (options.min_length >= options.max_length)
    throw error("--min-tokens: expected less than the most tokens, " +
                std::to_string(options.max_length) + ", found " +
                std::to_string(options.min_length));
  return options;
}

/// The folder of the model, or that of --config, where the tokenizer's files lie.
std::filesystem::path folder_of_tokenizer(const evaluation_request& request) {
  const std::filesystem::path model(request.model), config(request.config);
  if (!config.empty()) return config.parent_path();
  return std::filesystem::is_directory(model) ? model : model.parent_path();
}

/// The scores of texts that a network writes, or chooses. The constructor reads and checks all that
/// they need.
class text_scores {
 public:
  text_scores(std::vector<std::string> metrics, const evaluation_request& request,
              const network& net, const sample_reader& samples)
      : metrics_(std::move(metrics)), net_(net), samples_(samples) {
    if (!net.writing())
      throw error("--metric " + metrics_.front() +
                  ": the network writes no texts; expected one for captions or answers (BLIP)");
    special_ = *net.writing();
    options_ = options_of(request, special_);
    if (request.rank_answers)
      options_.answers = candidates_of(request.data, net.output_width(), special_);
    pieces_ = word_pieces(folder_of_tokenizer(request));
    references_ = references_of(request.data, samples, net.output_width(), special_, pieces_);
    for (const auto& metric : metrics_) check_references(metric, references_, request.data);
    if (!pieces_.is_known() &&
        std::find(metrics_.begin(), metrics_.end(), "cider") != metrics_.end())
      tell_one(tokens_are_words);
  }

  /// One per metric.
  evaluation measure(const weight_source& weights, const executor& threads) {
    progress terminal;
    std::vector<word_list> written;
    for (const auto& text : texts_of(net_, weights, samples_, options_, threads, [&](index_t done) {
           terminal.show("texts", done, samples_.size());
         }))
      written.push_back(pieces_.words(without_special(text, special_)));
    terminal.clear();
    evaluation found;
    for (const auto& metric : metrics_)
      found.push_back({metric, average_of(scores_of_texts(metric, written, references_))});
    return found;
  }

 private:
  std::vector<std::string> metrics_;
  const network& net_;
  const sample_reader& samples_;
  text_writing special_{};
  writing_options options_;
  word_pieces pieces_;
  reference_lists references_;
};

/// The scores of next tokens. The constructor checks all that they need.
class next_token_scores {
 public:
  next_token_scores(std::vector<std::string> metrics, const evaluation_request& request,
                    const network& net, const sample_reader& samples)
      : metrics_(std::move(metrics)), net_(net), samples_(samples) {
    for (const auto& metric : metrics_)
      measures_.emplace_back(metric, "--metric " + metric, request.data, samples.size());
  }

  /// One per metric.
  evaluation measure(const weight_source& weights, const executor& threads) const {
    progress terminal;
    const auto scores = score_tokens(net_, weights, samples_, threads, [&](index_t done) {
      terminal.show("samples", done, samples_.size());
    });
    terminal.clear();
    evaluation found;
    for (std::size_t i = 0; i < metrics_.size(); ++i)
      found.push_back({metrics_[i], measures_[i](scores)});
    return found;
  }

 private:
  std::vector<std::string> metrics_;
  std::vector<token_metric> measures_;
  const network& net_;
  const sample_reader& samples_;
};

evaluation evaluate_tokens(const evaluation_request& request, const network& net,
                           const weight_source& weights) {
  const std::vector<std::string> metrics =
      request.metrics.empty() ? std::vector<std::string>{"perplexity"} : request.metrics;
  std::vector<std::string> of_texts, of_tokens;
  for (const auto& metric : metrics)
    (is_of_written_texts(metric) ? of_texts : of_tokens).push_back(metric);
  const auto samples = net.open_samples(request.data);
  // Their constructors check the data, so errors come before the network runs.
  std::optional<next_token_scores> next_tokens;
  std::optional<text_scores> texts;
  if (!of_tokens.empty()) next_tokens.emplace(of_tokens, request, net, *samples);
  if (!of_texts.empty()) texts.emplace(of_texts, request, net, *samples);
  pool threads(request.threads);
  evaluation of_next_tokens, of_written;
  if (next_tokens) of_next_tokens = next_tokens->measure(weights, threads.runner());
  if (texts) of_written = texts->measure(weights, threads.runner());
  evaluation found;  // in the order of the request
  auto token = of_next_tokens.begin(), text = of_written.begin();
  for (const auto& metric : metrics)
    found.push_back(is_of_written_texts(metric) ? *text++ : *token++);
  return found;
}

}  // namespace

evaluation evaluate(const evaluation_request& request) {
  require_written_texts(request);
  const io::checkpoint model(request.model);
  print_warnings(model);
  const auto network = open_network(model, request.config, untied_in(model, tell_one));
  const checkpoint_weights weights(model);
  check_weights(*network, weights);
  const bool needs_head = !has_no_head(network->output());
  if (!needs_head && !request.head.empty())
    throw error("--head: the network has no heads of tasks; leave the option out");
  if (network->output() == output_kind::next_token)
    return evaluate_tokens(request, *network, weights);
  if (needs_head && request.head.empty())
    throw error("--head is missing: the network puts out no classes of its own");
  const task_head head(request.head, network->output(), network->output_width());
  const auto samples = network->open_samples(request.data);
  const task_labels labels(request.data, samples->size());
  std::vector<std::string> metrics = request.metrics;
  if (metrics.empty()) metrics = {labels.are_classes() ? "accuracy" : "pearson"};
  for (const auto& metric : metrics)
    check_metric(metric, "--metric " + metric, labels, head,
                 request.head.empty() ? request.model : request.head);

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
