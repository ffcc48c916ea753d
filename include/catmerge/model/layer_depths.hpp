// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <charconv>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::model {

namespace detail {

/// The first part of a name that is a number, and the text around it.
struct numbered_layer {
  std::string before, after;
  int number;

  static std::optional<numbered_layer> in(const std::string& name) {
    for (std::size_t begin = 0, dot; (dot = name.find('.', begin)) != std::string::npos;
         begin = dot + 1) {
      int number = 0;
      const char *const from = name.data() + begin, *const to = name.data() + dot;
      const auto [end, problem] = std::from_chars(from, to, number);
      if (end == to && problem == std::errc() && number >= 0)
        return numbered_layer{name.substr(0, begin), name.substr(dot), number};
    }
    return std::nullopt;
  }
};

}  // namespace detail

/// The role that a parameter has in every layer of its stack (layer_depths): its name without the
/// layer's number, "encoder.layers.*.mlp.fc1.weight". None for a name outside of the stacks.
inline std::optional<std::string> role_in_layer(const std::string& name) {
  const auto layer = detail::numbered_layer::in(name);
  if (!layer) return std::nullopt;
  return layer->before + "*" + layer->after;
}

/// The depths of a network's layers, by the names of its parameters. A layer is the first part of a
/// name that is a number, "3" in "encoder.layers.3.mlp.fc1.weight"; all layers with the same text
/// before their numbers are one stack, of as many layers as the largest number and one. An encoder
/// and a decoder are two stacks. So are the stages of networks that number the layers in each
/// ("stages.0.layers.1" is in stage 0 of the stack of stages).
class layer_depths {
 public:
  /// names: of all parameters.
  explicit layer_depths(const std::vector<std::string>& names) {
    for (const auto& name : names)
      if (const auto layer = detail::numbered_layer::in(name)) {
        int& last = last_[layer->before];
        last = (std::max)(last, layer->number);
      }
  }

  /// From 0, the first layer of its stack, to 1, the last one; 0 in a stack of one layer. None for
  /// a name outside of the stacks.
  std::optional<double> operator()(const std::string& name) const {
    const auto layer = detail::numbered_layer::in(name);
    if (!layer) return std::nullopt;
    const auto stack = last_.find(layer->before);
    if (stack == last_.end()) return std::nullopt;
    return stack->second > 0 ? static_cast<double>(layer->number) / stack->second : 0;
  }

 private:
  std::map<std::string, int> last_;  // the largest number in each stack
};

}  // namespace catmerge::model
