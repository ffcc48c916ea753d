// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/checkpoint.hpp>
#include <filesystem>
#include <memory>
#include <network/clip_vision.hpp>
#include <string>

namespace catmerge::harness {

/// The network that a checkpoint holds the parameters of, by the config.json named or, if that is
/// empty, the one beside the weights.
inline std::unique_ptr<network> open_network(const io::checkpoint& weights,
                                             const std::string& config) {
  if (!config.empty()) return open_clip_vision(weights, config);
  if (const auto beside = weights.config()) return open_clip_vision(weights, *beside);
  throw error(weights.path().string() + ": " +
              (weights.format() == io::checkpoint_format::safetensors_file
                   ? "a single file has no config.json of its own"
                   : "there is no config.json in the folder") +
              "; name one with --config");
}

}  // namespace catmerge::harness
