// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/file_kind.hpp>
#include <catmerge/io/side_files.hpp>
#include <filesystem>
#include <initializer_list>
#include <iterator>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace catmerge::io {

namespace detail {

/// True for the name of a shard: it ends in -00001-of-00002.safetensors.
inline bool is_shard_name(std::string_view name) {
  const auto of = name.rfind("-of-");
  return of != std::string_view::npos && of > 5 && name.ends_with(".safetensors") &&
         name.substr(of - 5, 5).find_first_not_of("0123456789") == std::string_view::npos;
}

}  // namespace detail

/// A sentence on the contents of a folder that is no checkpoint, and a remedy. Throws error if the
/// folder cannot be listed.
inline std::string describe_other_folder(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  std::vector<std::string> names, folders;
  std::error_code problem, ignored;
  for (fs::directory_iterator it(folder, problem), end; !problem && it != end;
       it.increment(problem)) {
    const std::string name = it->path().filename().string();
    if (name.front() == '.') continue;
    if (!it->is_directory(ignored))
      names.push_back(name);
    else if (detail::holds_weights(it->path()))
      folders.push_back(name);
  }
  if (problem) fail(folder, "cannot list the folder: " + problem.message());
  std::sort(names.begin(), names.end());
  std::sort(folders.begin(), folders.end());
  const auto names_with = [&](auto&& test) {
    std::vector<std::string> found;
    std::copy_if(names.begin(), names.end(), std::back_inserter(found), test);
    return found;
  };
  const auto ending_in = [&](std::initializer_list<std::string_view> ends) {
    return names_with([&](std::string_view name) {
      return std::any_of(ends.begin(), ends.end(), [&](auto end) { return name.ends_with(end); });
    });
  };
  const auto path_of = [&](const std::string& name) { return (folder / name).string(); };

  const auto adapters = names_with([](std::string_view name) {
    return name == "adapter_config.json" || name.starts_with("adapter_model.");
  });
  if (!adapters.empty()) {
    return "is an adapter (such as LoRA: it holds " + list_in_quotes(adapters) +
           "), not a network: catmerge merge takes it as an --expert; elsewhere, merge it into the "
           "network that it was trained on (--expert NAME=ADAPTER --method "
           "task-arithmetic:alpha=1) "
           "and name the result";
  }
  const auto indices = names_with([](std::string_view name) {
    return name.find(".safetensors.index.") != std::string_view::npos && name.ends_with(".json");
  });
  if (!indices.empty()) {
    return "no model.safetensors.index.json in this folder, but " + list_in_quotes(indices) +
           ": name the index itself: " + path_of(indices.front());
  }
  const auto tables = ending_in({".safetensors"});
  if (!tables.empty()) {
    const bool are_shards = std::all_of(tables.begin(), tables.end(), detail::is_shard_name);
    std::string text = "no model.safetensors in this folder, but " + list_in_quotes(tables) +
                       ": name " + (tables.size() == 1 ? "that file" : "one of them") +
                       " itself: " + path_of(tables.front());
    if (are_shards) {
      text += tables.size() == 1 ? " (it is called a shard, and there is no index of shards)"
                                 : " (they are called shards: their index, "
                                   "model.safetensors.index.json, is missing; download it)";
    }
    return text;
  }
  const auto pickles = ending_in({".bin", ".pt", ".pth", ".ckpt", ".bin.index.json"});
  if (!pickles.empty()) {
    return "holds PyTorch files (" + list_in_quotes(pickles) +
           ") and no safetensors: turn them into safetensors with "
           "examples/export/export_checkpoint.py";
  }
  const auto others = ending_in({".gguf", ".h5", ".msgpack", ".onnx", ".npz", ".tflite", ".ot"});
  if (!others.empty()) {
    return "holds weights in a format that is not read here (" + list_in_quotes(others) +
           "): use the safetensors files of the same network, or load it where it was made and "
           "save it as safetensors";
  }
  std::string expected =
      "no checkpoint in this folder: expected model.safetensors, model.safetensors.index.json or "
      ".npy files";
  if (folders.empty()) return expected;
  return expected + "; there are weights in its folders " + list_in_quotes(folders) +
         ": name one of them, such as " + path_of(folders.front());
}

}  // namespace catmerge::io
