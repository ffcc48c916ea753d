// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/fail.hpp>
#include <filesystem>
#include <harness/networks/bert/bert_config.hpp>
#include <harness/networks/encoder_layer.hpp>
#include <harness/networks/parameter_names.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The names of the parameters of a BERT or a RoBERTa in one checkpoint.
struct bert_names {
  std::string words, positions, types;  ///< the embedding tables
  affine_names embedding_norm;
  std::vector<encoder_names> layers;
  affine_names pooler;  ///< empty if there is no pooler
};

/// The names of transformers with any prefix ("", "bert.", "model.roberta.", ...), which the name
/// of the table of words decides. Old checkpoints call a norm's parameters gamma and beta. `names`:
/// all tensors of the checkpoint. A BERT has a pooler if the checkpoint does. A RoBERTa has none
/// here: pretrained ones have one, but those that classify sequences do not use it. Throws
/// catmerge::error naming `file`.
inline bert_names find_bert_names(const std::vector<std::string>& names, const bert_config& config,
                                  const std::filesystem::path& file) {
  const std::string words = "embeddings.word_embeddings.weight";
  const auto found = prefix_before(names, words, "word embeddings of a BERT", file);
  if (!found) {
    io::fail(file,
             "not a BERT or RoBERTa with the names of Hugging Face: no tensor's name ends "
             "with " +
                 io::in_quotes(words));
  }
  const std::string& prefix = *found;
  check_depth(names, prefix + "encoder.layer.", config.layers,
              "num_hidden_layers in " + config.file.string(), file);
  const auto has = [&](const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  const bool old = has(prefix + "embeddings.LayerNorm.gamma");
  const auto norm = [&](const std::string& module) {
    return old ? affine_names{module + ".gamma", module + ".beta"} : affine(module);
  };

  bert_names n;
  n.words = prefix + words;
  n.positions = prefix + "embeddings.position_embeddings.weight";
  n.types = prefix + "embeddings.token_type_embeddings.weight";
  n.embedding_norm = norm(prefix + "embeddings.LayerNorm");
  for (index_t i = 0; i < config.layers; ++i) {
    const std::string at = prefix + "encoder.layer." + std::to_string(i) + ".";
    n.layers.push_back({norm(at + "attention.output.LayerNorm"),
                        {affine(at + "attention.self.query"), affine(at + "attention.self.key"),
                         affine(at + "attention.self.value")},
                        affine(at + "attention.output.dense"),
                        norm(at + "output.LayerNorm"),
                        affine(at + "intermediate.dense"),
                        affine(at + "output.dense")});
  }
  const affine_names pooler = affine(prefix + "pooler.dense");
  if (!config.is_roberta && has(pooler.weight)) n.pooler = pooler;
  return n;
}

}  // namespace catmerge::harness
