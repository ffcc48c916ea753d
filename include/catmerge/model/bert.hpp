// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/name_rules.hpp>
#include <string>
#include <utility>

namespace catmerge::model {

/// BERT and RoBERTa (also XLM-RoBERTa and CamemBERT), by the names of the transformers library.
/// `bert.` or `roberta.`, with any prefix, may stand before them. Norms may have a `gamma` and a
/// `beta`, as in old checkpoints. Heads (`classifier.weight`) have no rules.
///
/// By default the three embedding tables are left alone.
inline name_rules hugging_face_bert() {
  using kind = parameter_kind;
  const std::string model = "{,*.}";
  const std::string layer = model + "encoder.layer.*.";
  const std::string dense = "{attention.output.dense,intermediate.dense,output.dense}";
  const auto rule = [](std::string pattern, kind what, bool trim = true) {
    parameter_rule result;
    result.pattern = std::move(pattern);
    result.kind = what;
    result.trim = trim;
    return result;
  };
  parameter_rule query_key_value =
      rule(layer + "attention.self.{query,key,value}.weight", kind::linear);
  query_key_value.siblings_share_input = true;
  return network_rules({
      query_key_value,
      rule(layer + "attention.self.{query,key,value}.bias", kind::shift),
      rule(layer + dense + ".weight", kind::linear),
      rule(layer + dense + ".bias", kind::shift),
      rule(layer + "{attention.output,output}.LayerNorm.{weight,gamma}", kind::scale),
      rule(layer + "{attention.output,output}.LayerNorm.{bias,beta}", kind::shift),
      rule(model + "pooler.dense.weight", kind::linear),
      rule(model + "pooler.dense.bias", kind::shift),
      rule(model + "embeddings.LayerNorm.{weight,gamma}", kind::scale),
      rule(model + "embeddings.LayerNorm.{bias,beta}", kind::shift),
      rule(model + "embeddings.word_embeddings.weight", kind::token_table, false),
      rule(model + "embeddings.{position,token_type}_embeddings.weight", kind::embedding, false),
      rule(model + "embeddings.{position_ids,token_type_ids}", kind::fixed, false),
  });
}

}  // namespace catmerge::model
