// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <cstdio>
#include <harness/commands/command_line.hpp>
#include <harness/commands/commands.hpp>
#include <harness/experiment/evaluate.hpp>
#include <memory>

namespace catmerge::harness {

namespace {

void print(const evaluation& found) {
  for (const auto& score : found) {
    if (score.of == 0) continue;
    std::printf("%lld of %lld correct\n", static_cast<long long>(score.correct),
                static_cast<long long>(score.of));
  }
  if (found.size() > 1)
    for (const auto& score : found) std::printf("%s %.2f\n", score.metric.c_str(), score.value);
  std::printf("%.2f\n", found.front().value);
}

}  // namespace

void add_evaluate(CLI::App& program) {
  auto request = std::make_shared<evaluation_request>();
  auto* command = program.add_subcommand("evaluate", "Score a network on a task");
  command
      ->add_option("--model", request->model,
                   "The network: CLIP vision, BERT or RoBERTa, a decoder or BLIP")
      ->required()
      ->type_name("P");
  command
      ->add_option("--data", request->data,
                   "labels (n), and pixel_values (n, channels, height, width) or input_ids (n, "
                   "tokens), attention_mask and token_type_ids; for a decoder labels (n, tokens), "
                   "-100 where nothing is asked, or none for every token but the first, and for "
                   "choices question (n) and correct (n); for BLIP images and texts, with "
                   "decoder_input_ids for answers (n, tokens), image (n) where texts share images, "
                   "and references (n, texts, tokens) for texts that are written")
      ->required()
      ->type_name("F");
  command
      ->add_option("--head", request->head,
                   "weight (classes, d) and bias (classes), or classifier.* as in a checkpoint of "
                   "transformers, which this may be; none for a decoder or BLIP")
      ->type_name("P");
  command
      ->add_option(
          "--metric", request->metrics,
          "accuracy, matthews, f1 (of class 1), pearson or spearman; several with commas "
          "between them. Default: accuracy, for labels that are not integers pearson. For "
          "a decoder perplexity, likelihood (100 / perplexity), accuracy (of tokens), "
          "exact (samples of which every token is right), choice or choice-per-token "
          "(the likeliest answer of each question); default perplexity. Of texts that a BLIP "
          "writes answer (its words are right), vqa (VQA accuracy) or cider (CIDEr-D)")
      ->check(CLI::IsMember({"accuracy", "matthews", "f1", "pearson", "spearman", "perplexity",
                             "likelihood", "exact", "choice", "choice-per-token", "answer", "vqa",
                             "cider"}))
      ->type_name("M")
      ->delimiter(',')
      ->expected(1)
      ->take_all();
  command
      ->add_option("--config", request->config, "The network's config.json, if none lies beside it")
      ->type_name("F");
  command
      ->add_option("--beams", request->beams,
                   "Beams of texts that are written; 1 is greedy. Default: 3")
      ->check(CLI::Range(1, 100));
  command
      ->add_option(
          "--min-tokens", request->min_length,
          "The least tokens of a written text before its end, with its beginning. Default: 1")
      ->check(CLI::Range(1, 1 << 20));
  command
      ->add_option("--max-tokens", request->max_length,
                   "The most tokens of a written text, with its beginning and its end. Default: 20")
      ->check(CLI::Range(2, 1 << 20));
  command->add_flag("--rank-answers", request->rank_answers,
                    "Texts are not written, but chosen among the tensor answers (m, tokens) of the "
                    "data, as BLIP does");
  add_threads(*command, request->threads);
  command->footer(
      "The last line of the output is the first metric, in percent, but for "
      "perplexity.");
  command->callback([request] { print(evaluate(*request)); });
}

}  // namespace catmerge::harness
