// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <catmerge/io/tensor_entry.hpp>
#include <catmerge/model/ties.hpp>
#include <string_view>

/// @file
/// Tables of tokens: a row for each token, at the input or at the output, tied or not.
namespace catmerge::model {

/// True if the tensor is a table of tokens by its name, as transformers, OpenCLIP and others write
/// it, with or without a prefix. Tables of positions, of types of tokens and of classes are none.
/// Names that other networks give to linear weights (`shared`, `proj_out`) count if the tensor has
/// more rows than columns.
inline bool is_token_table(const io::tensor_info& info) {
  constexpr std::array<std::string_view, 9> never_tied = {
      "token_embedding.weight",
      "token_embeddings.weight",
      "tok_embeddings.weight",
      "tok_emb.weight",
      "token_emb.weight",
      "word_embedding.weight",
      "backbone.embedding.weight",
      "backbone.embeddings.weight",
      "text_encoder.embeddings.word_embeddings.weight",
  };
  if (info.shape.size() != 2) return false;
  const auto ends_with = [&](std::string_view end) {
    return detail::is_or_ends_with(info.name, end);
  };
  if (std::any_of(never_tied.begin(), never_tied.end(), ends_with)) return true;
  const tie_class tie = tie_class_of(info.name);
  if (tie != tie_class::token_table && tie != tie_class::token_head) return false;
  const bool ambiguous = ends_with("shared.weight") || ends_with("proj_out.weight");
  return !ambiguous || info.shape[0] > info.shape[1];
}

}  // namespace catmerge::model
