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

/// What the families have in common in finding their parameters among a checkpoint's names.
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

/// What stands before `suffix` in the one name that ends with it ("", "bert.", "model.bert.", ...);
/// none if no name does. Throws catmerge::error, naming `file` and `what`, which the suffix marks,
/// if two do.
inline std::optional<std::string> prefix_before(const std::vector<std::string>& names,
                                                std::string_view suffix, const std::string& what,
                                                const std::filesystem::path& file) {
  const std::string* found = nullptr;
  for (const std::string& name : names) {
    if (!name.ends_with(suffix)) continue;
    // A part of a name ends with a dot: "my_embeddings" is not "embeddings".
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

/// Throws if a name says that there are more encoder layers than the configuration counts (the
/// network would run, and be another one), and if it counts more than there are tensors (their
/// names alone would fill the memory). layers_prefix: what stands before a layer's number;
/// `source`: the key and the file that `layers` is from.
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
