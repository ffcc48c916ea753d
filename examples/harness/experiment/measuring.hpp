// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <harness/experiment/family.hpp>
#include <harness/networks/data/average.hpp>
#include <harness/networks/data/metric_names.hpp>
#include <harness/networks/data/predict.hpp>
#include <harness/networks/data/references.hpp>
#include <harness/networks/data/token_scores.hpp>
#include <harness/networks/network.hpp>
#include <harness/networks/writing/texts_of.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// The scores of networks on a task.
namespace catmerge::harness {

/// The labelled inputs of one split of one task.
class measured_split {
 public:
  /// The file's metadata may name the metric; the default is accuracy for classes, pearson for
  /// values, likelihood for a language model. pieces: of the network's tokens.
  measured_split(const network& net, word_pieces pieces, const task_head& head,
                 const std::string& head_file, const std::string& file)
      : head_(head), samples_(net.open_samples(file)), pieces_(std::move(pieces)) {
    const io::safetensors_file data(file);
    const auto named = data.metadata().find("metric");
    if (named != data.metadata().end()) metric_ = named->second;
    const auto called = [&] { return "the metric " + metric_ + " of " + file; };
    if (net.output() == output_kind::next_token) {
      if (metric_.empty()) metric_ = "likelihood";
      if (is_of_written_texts(metric_)) {
        if (!net.writing()) throw error(called() + ": the network writes no texts");
        references_ = references_of(file, *samples_, net.output_width(), *net.writing(), pieces_);
        check_references(metric_, *references_, file);
        return;
      }
      if (metric_ == "perplexity")
        throw error(called() + ": less is better of it; expected likelihood, which is 100 over it");
      of_tokens_.emplace(metric_, called(), file, samples_->size());
      return;
    }
    labels_.emplace(file, samples_->size());
    if (metric_.empty()) metric_ = labels_->are_classes() ? "accuracy" : "pearson";
    check_metric(metric_, called(), *labels_, head, head_file);
  }

  const std::string& metric() const { return metric_; }

  /// The network's score on the data, on this thread. 0 if the metric is not defined for the
  /// outputs (a correlation of a constant), or if the outputs are not finite, as at too large an
  /// alpha. not_finite() counts the latter.
  double operator()(const network& net, const weight_source& weights) const {
    try {
      if (references_) return score_texts(net, weights);
      if (of_tokens_) return (*of_tokens_)(score_tokens(net, weights, *samples_));
      const matrix outputs = predict(net, weights, *samples_, head_);
      if (is_of_values(metric_) && (outputs.array() == outputs(0, 0)).all()) return 0;
      return measure(metric_, outputs, *labels_);
    } catch (const output_not_finite&) {
      ++not_finite_;
      return 0;
    }
  }

  /// The number of networks with outputs that are not finite.
  index_t not_finite() const { return not_finite_; }

 private:
  /// Of texts that the network writes greedily.
  double score_texts(const network& net, const weight_source& weights) const {
    word_pieces pieces = pieces_;  // words that no reference has get numbers of their own
    std::vector<word_list> written;
    for (const auto& text : texts_of(net, weights, *samples_, {}))
      written.push_back(pieces.words(without_special(text, *net.writing())));
    return average_of(scores_of_texts(metric_, written, *references_));
  }

  const task_head& head_;
  std::unique_ptr<sample_reader> samples_;
  word_pieces pieces_;
  std::optional<task_labels> labels_;          // or, of a language model,
  std::optional<token_metric> of_tokens_;      // next tokens, or
  std::optional<reference_lists> references_;  // the right texts
  std::string metric_;
  mutable std::atomic<index_t> not_finite_{0};
};

/// The splits of a task's labelled inputs: settings are chosen on validation, test is reported.
enum class data_split { validation, test };

/// A task's head and splits.
struct measured_task {
  measured_task(const network& net, const word_pieces& pieces, const family_task& files)
      : head(files.head, net.output(), net.output_width()),
        validation(net, pieces, head, files.head, files.validation),
        test(net, pieces, head, files.head, files.test),
        samples(net.open_samples(files.samples)) {
    if (has_no_head(net.output()) && files.head != files.expert)
      throw error(files.head + ": the network has no heads of tasks; take the file away");
  }

  const measured_split& on(data_split which) const {
    return which == data_split::validation ? validation : test;
  }

  task_head head;
  measured_split validation, test;
  std::unique_ptr<sample_reader> samples;
};

}  // namespace catmerge::harness
