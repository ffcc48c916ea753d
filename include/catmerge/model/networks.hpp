// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/model/bert.hpp>
#include <catmerge/model/blip.hpp>
#include <catmerge/model/clip.hpp>
#include <catmerge/model/decoders.hpp>
#include <catmerge/model/encoder_decoders.hpp>
#include <catmerge/model/encoders.hpp>
#include <catmerge/model/mixtures.hpp>
#include <catmerge/model/name_rules.hpp>
#include <catmerge/model/vision.hpp>
#include <initializer_list>
#include <string_view>

namespace catmerge::model {

/// The rules of all networks that this library knows, and the general rule for other names. Some
/// names mean different things in different networks: here GPT-2's c_attn, c_fc and c_proj are
/// stored d_in x d_out, and stacks of experts of unknown layout are not trimmed. See rules_for.
inline name_rules known_networks() {
  name_rules all;
  for (const auto& rules : {mixtures,
                            llama_like,
                            gpt2,
                            gpt_neo_and_j,
                            neox_like,
                            mpt,
                            distilbert,
                            albert,
                            deberta_and_electra,
                            modernbert,
                            wav2vec2,
                            t5,
                            bart_like,
                            vit_like,
                            swin,
                            convnext,
                            resnet,
                            two_towers,
                            open_clip_text,
                            hugging_face_clip_vision,
                            open_clip_vision,
                            hugging_face_bert,
                            blip}) {
    all.append(rules());
  }
  all.use_general_rule();
  return all;
}

/// The rules for the model_type in config.json: known_networks, and this network's meaning of
/// ambiguous names. For an unknown or empty model_type, known_networks.
inline name_rules rules_for(std::string_view model_type) {
  const auto is_one_of = [&](std::initializer_list<std::string_view> types) {
    return std::find(types.begin(), types.end(), model_type) != types.end();
  };
  name_rules all = known_networks();
  if (is_one_of({"gpt_neo", "gpt_bigcode", "qwen"})) all.append(gpt2_stored_out_in());
  if (is_one_of({"gpt_oss"})) all.append(gpt_oss_stacks());
  if (is_one_of({"blip"})) all.append(blip_retrieval());
  // Networks with Mixtral's or Qwen's experts in transformers 5; qwen3_vl_moe has had both forms.
  if (is_one_of({"afmoe",
                 "cohere2_moe",
                 "deepseek_v2",
                 "deepseek_v3",
                 "dots1",
                 "ernie4_5_moe",
                 "exaone_moe",
                 "flex_olmo",
                 "glm4_moe",
                 "glm4v_moe",
                 "granitemoe",
                 "granitemoehybrid",
                 "granitemoeshared",
                 "hunyuan_v1_moe",
                 "lfm2_moe",
                 "longcat_flash",
                 "minimax",
                 "minimax_m2",
                 "mixtral",
                 "olmoe",
                 "phimoe",
                 "qwen2_moe",
                 "qwen3_moe",
                 "qwen3_next",
                 "qwen3_omni_moe"})) {
    all.append(expert_stacks());
  }
  return all;
}

}  // namespace catmerge::model
