// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/model/bert.hpp>
#include <catmerge/model/clip.hpp>
#include <catmerge/model/convnet.hpp>
#include <catmerge/model/name_rules.hpp>

namespace catmerge::model {

/// The rules of all networks that this library knows, for tools that are given any of them:
/// hugging_face_clip_vision, open_clip_vision, hugging_face_bert and small_convnet. What two of
/// them match is the same in both.
inline name_rules known_networks() {
  name_rules all = hugging_face_clip_vision();
  all.append(open_clip_vision());
  all.append(hugging_face_bert());
  all.append(small_convnet());
  return all;
}

}  // namespace catmerge::model
