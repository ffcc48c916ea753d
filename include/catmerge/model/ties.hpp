// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <catmerge/error.hpp>
#include <string_view>

/// @file
/// Tied weights: published checkpoints may hold one parameter under two names.
namespace catmerge::model {

/// Classes of tensors that are one parameter if weights are tied. A file holds either or both.
enum class tie_class : unsigned char {
  none,          ///< never tied
  token_table,   ///< an embedding of tokens; several in one network are one table (T5, BART)
  token_head,    ///< the output's weight, which is the table if config.json ties them
  output_bias,   ///< the output's bias
  decoder_bias,  ///< the same under a second name (BERT, RoBERTa, ALBERT)
};

namespace detail {
/// True if `name` is `end` or ends in a dot and `end`.
constexpr bool is_or_ends_with(std::string_view name, std::string_view end) {
  return name.ends_with(end) &&
         (name.size() == end.size() || name[name.size() - end.size() - 1] == '.');
}
}  // namespace detail

/// The class of a name as transformers writes it, with or without a prefix.
constexpr tie_class tie_class_of(std::string_view name) {
  constexpr std::array<std::string_view, 6> tables = {
      "embed_tokens.weight",    "wte.weight",    "embed_in.weight",
      "word_embeddings.weight", "shared.weight", "wte.embedding",
  };
  constexpr std::array<std::string_view, 8> heads = {
      "lm_head.weight",
      "embed_out.weight",
      "lm_head.decoder.weight",
      "proj_out.weight",
      "vocab_projector.weight",
      "generator_lm_head.weight",
      "predictions.decoder.weight",
      "lm_predictions.lm_head.weight",
  };
  constexpr std::array<std::string_view, 2> biases = {"lm_head.bias", "predictions.bias"};
  constexpr std::array<std::string_view, 2> decoder_biases = {"lm_head.decoder.bias",
                                                              "predictions.decoder.bias"};
  const auto any = [&](const auto& ends) {
    for (const auto end : ends)
      if (detail::is_or_ends_with(name, end)) return true;
    return false;
  };
  // The table of BLIP's questions; the output has that of the answers.
  if (detail::is_or_ends_with(name, "text_encoder.embeddings.word_embeddings.weight"))
    return tie_class::none;
  if (any(tables)) return tie_class::token_table;
  if (any(heads)) return tie_class::token_head;
  if (any(biases)) return tie_class::output_bias;
  if (any(decoder_biases)) return tie_class::decoder_bias;
  return tie_class::none;
}

/// True if parameters of these classes can be one.
constexpr bool may_be_tied(tie_class one, tie_class other) {
  const auto of_tokens = [](tie_class c) {
    return c == tie_class::token_table || c == tie_class::token_head;
  };
  const auto of_bias = [](tie_class c) {
    return c == tie_class::output_bias || c == tie_class::decoder_bias;
  };
  return (of_tokens(one) && of_tokens(other)) || (of_bias(one) && of_bias(other));
}

}  // namespace catmerge::model
