// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/fail.hpp>
#include <cstddef>
#include <filesystem>
#include <harness/networks/activations.hpp>
#include <harness/networks/config_object.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace catmerge::harness {

/// The shapes of a convolution and its norm.
struct convnet_stage {
  index_t inputs = 0;    ///< channels of the input
  index_t channels = 0;  ///< channels of the output
  index_t stride = 0;    ///< 1 or 2
  index_t side_in = 0;   ///< pixels along each side of the input
  index_t side = 0;      ///< pixels along each side of the output
};

/// The configuration of a convolutional network of examples/families/convnet.
struct convnet_config {
  std::filesystem::path file;         ///< its path, for messages
  index_t channels = 0;               ///< num_channels, of the images
  index_t image_size = 0;             ///< pixels along each side
  std::vector<convnet_stage> stages;  ///< channels and strides; at least one
  index_t projection = 0;             ///< projection_dim
  float epsilon = 1e-5F;              ///< layer_norm_eps
};

/// Reads a list of sizes under `key`. Errors name its elements `key.0`, `key.1`, ...
inline std::vector<index_t> read_sizes(const config_object& top, const nlohmann::json& values,
                                       const std::string& key) {
  if (!top.has(key)) io::fail(top.file(), "lacks the key " + io::in_quotes(key));
  const nlohmann::json& list = values.at(key);
  if (!list.is_array() || list.empty()) {
    top.fail(key, "expected a list of integers, one per stage");
  }
  nlohmann::json numbered = nlohmann::json::object();
  for (std::size_t i = 0; i < list.size(); ++i) numbered[std::to_string(i)] = list[i];
  const config_object elements(top.file(), numbered, key + ".");
  std::vector<index_t> sizes;
  for (std::size_t i = 0; i < list.size(); ++i) sizes.push_back(elements.size(std::to_string(i)));
  return sizes;
}

/// Reads the configuration of model_type "catmerge_convnet". Every key but layer_norm_eps is
/// required, and no other is allowed. Throws catmerge::error naming the file and the key.
inline convnet_config read_convnet(const std::filesystem::path& file,
                                   const nlohmann::json& values) {
  const config_object top(file, values);
  const std::string kind = top.text("model_type", "");
  if (kind != "catmerge_convnet") {
    top.fail("model_type", "expected 'catmerge_convnet', found " + io::in_quotes(kind));
  }
  const std::string_view known_keys =
      " model_type num_channels image_size channels strides projection_dim layer_norm_eps ";
  for (const std::string& key : top.keys()) {
    if (known_keys.find(" " + key + " ") == std::string_view::npos) {
      top.fail(key, "is not a key of a catmerge_convnet, expected one of" +
                        std::string(known_keys.substr(0, known_keys.size() - 1)));
    }
  }
  convnet_config c;
  c.file = file;
  c.channels = top.size("num_channels");
  c.image_size = top.size("image_size");
  c.projection = top.size("projection_dim");
  c.epsilon = static_cast<float>(top.positive("layer_norm_eps", 1e-5));
  const std::vector<index_t> channels = read_sizes(top, values, "channels");
  const std::vector<index_t> strides = read_sizes(top, values, "strides");
  if (strides.size() != channels.size()) {
    top.fail("strides", "expected " + std::to_string(channels.size()) +
                            " strides, as many as channels, found " +
                            std::to_string(strides.size()));
  }
  index_t inputs = c.channels;
  index_t side = c.image_size;
  for (std::size_t i = 0; i < channels.size(); ++i) {
    if (strides[i] > 2) {
      top.fail("strides." + std::to_string(i),
               "expected 1 or 2, found " + std::to_string(strides[i]));
    }
    // The 3 x 3 window, with a border of one pixel, starts at every stride-th pixel.
    const index_t next = (side - 1) / strides[i] + 1;
    c.stages.push_back({inputs, channels[i], strides[i], side, next});
    inputs = channels[i];
    side = next;
  }
  return c;
}

}  // namespace catmerge::harness
