// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <filesystem>
#include <harness/networks/activations.hpp>
#include <harness/networks/config_object.hpp>
#include <harness/networks/layers.hpp>
#include <string>

namespace catmerge::harness {

/// The configuration of a BERT or a RoBERTa.
struct bert_config {
  std::filesystem::path file;  ///< its path, for messages
  index_t width = 0;           ///< hidden_size, d
  index_t mlp_width = 0;       ///< intermediate_size
  index_t layers = 0;          ///< num_hidden_layers
  index_t heads = 0;           ///< num_attention_heads; divides width
  index_t words = 0;           ///< vocab_size
  index_t positions = 0;       ///< max_position_embeddings
  index_t types = 0;           ///< type_vocab_size
  /// RoBERTa: positions count from pad_token_id + 1, and the output is the first token's row. BERT:
  /// they count from 0, and the output is the first token's row after the pooler.
  bool is_roberta = false;
  index_t pad = 0;  ///< RoBERTa: pad_token_id
  activation mlp_activation = activation::gelu;
  float epsilon = 1e-12F;  ///< layer_norm_eps
};

/// True if read_bert reads this "model_type".
inline bool is_bert(const std::string& model_type) {
  return model_type == "bert" || model_type == "roberta" || model_type == "xlm-roberta" ||
         model_type == "camembert";
}

/// Reads a config.json of transformers with a model_type of is_bert. Sizes are required. Throws
/// catmerge::error naming the file and the key, also for settings of another network: a decoder,
/// relative positions, an activation other than gelu and quick_gelu.
inline bert_config read_bert(const config_object& top) {
  bert_config c;
  c.file = top.file();
  c.is_roberta = top.text("model_type", "bert") != "bert";
  c.width = top.size("hidden_size");
  c.mlp_width = top.size("intermediate_size");
  c.layers = top.size("num_hidden_layers");
  c.heads = top.heads_of(c.width);
  c.words = top.size("vocab_size");
  c.positions = top.size("max_position_embeddings");
  c.types = top.size("type_vocab_size", 2);
  if (c.is_roberta) c.pad = top.index("pad_token_id", 1);
  c.epsilon = static_cast<float>(top.positive("layer_norm_eps", 1e-12));
  c.mlp_activation = top.nonlinearity("hidden_act", "gelu");
  top.require_usual("position_embedding_type", "absolute");
  top.require_usual("is_decoder");
  top.require_usual("add_cross_attention");
  return c;
}

}  // namespace catmerge::harness
