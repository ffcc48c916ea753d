// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/bert.hpp>
#include <catmerge/model/clip.hpp>
#include <catmerge/model/convnet.hpp>
#include <catmerge/model/name_rules.hpp>
#include <string_view>

namespace catmerge::model {

/// The rules for a network whose config.json has this model_type. What another network would call
/// by the same name is what it is in this one. Without a model_type, or with one that is not known:
/// the rules of all networks, where two networks contradict each other what holds in both, and the
/// general rule for the rest.
inline name_rules rules_for(std::string_view /*model_type*/) {
  name_rules all = hugging_face_clip_vision();
  all.append(open_clip_vision());
  all.append(hugging_face_bert());
  all.append(small_convnet());
  all.use_general_rule();
  return all;
}

/// The rules of all networks that this library knows, for tools that are given any of them.
inline name_rules known_networks() {
  return rules_for("");
}

}  // namespace catmerge::model
