// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/fail.hpp>
#include <charconv>
#include <filesystem>
#include <harness/networks/activations.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Helpers that find a network's parameters among a checkpoint's names.
namespace catmerge::harness {

/// The names of a layer's two parameters in a checkpoint.
struct affine_names {
  std::string weight;
  std::string bias;
};

/// MODULE.weight and MODULE.bias.
inline affine_names affine(const std::string& module) {
  return {module + ".weight", module + ".bias"};
}

/// The prefix before `suffix` in the one name that ends with it ("", "bert.", "model.bert.", ...);
/// none if no name does. Throws catmerge::error if two do, naming `file` and `what`, the parameter
/// of that suffix.
inline std::optional<std::string> prefix_before(const std::vector<std::string>& names,
                                                std::string_view suffix, const std::string& what,
                                                const std::filesystem::path& file) {
  const std::string* found = nullptr;
  for (const std::string& name : names) {
    if (!name.ends_with(suffix)) continue;
    // A component of a name ends with a dot: "my_embeddings" is not "embeddings".
    if (name.size() > suffix.size() && name[name.size() - suffix.size() - 1] != '.') continue;
    if (found != nullptr) {
      io::fail(file, "two tensors could be the " + what + ": " + io::in_quotes(*found) + " and " +
                         io::in_quotes(name));
    }
    found = &name;
  }
  if (found == nullptr) return std::nullopt;
  return found->substr(0, found->size() - suffix.size());
}

/// Throws if a name belongs to an encoder layer beyond the configuration's count (the network would
/// run, and be another one), or if the count exceeds the number of tensors (the names alone would
/// fill the memory). layers_prefix: the part of a name before a layer's number; `source`: the key
/// and the file of `layers`.
inline void check_depth(const std::vector<std::string>& names, const std::string& layers_prefix,
                        index_t layers, const std::string& source,
                        const std::filesystem::path& file) {
  if (layers > std::ssize(names)) {
    io::fail(file, "expected " + std::to_string(layers) + " layers, as " + source +
                       " says, found " + std::to_string(names.size()) + " tensors");
  }
  for (const std::string& name : names) {
    if (!name.starts_with(layers_prefix)) continue;
    index_t number = -1;
    const char* const begin = name.data() + layers_prefix.size();
    std::from_chars(begin, name.data() + name.size(), number);
    if (number >= layers) {
      io::fail(file, name,
               "expected " + std::to_string(layers) + " layers, as " + source + " says");
    }
  }
}

}  // namespace catmerge::harness
