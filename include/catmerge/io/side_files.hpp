// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <catmerge/io/atomic_path.hpp>
#include <catmerge/io/mapped_file.hpp>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace catmerge::io {

/// A file beside a checkpoint's weights in its folder: a configuration, a tokenizer.
struct side_file {
  std::filesystem::path name;    ///< inside the folder, such as "1_Pooling/config.json"
  std::filesystem::path source;  ///< a file to copy; empty if `text` holds the contents
  std::string text = {};         ///< the contents if there is no source
};

/// True for names of weights, in any of the usual formats, and of indices of weights.
inline bool is_weights_name(const std::filesystem::path& name) {
  constexpr std::array<std::string_view, 14> formats = {
      ".safetensors", ".bin",       ".pt",   ".pth", ".ckpt", ".h5", ".msgpack",
      ".onnx",        ".onnx_data", ".gguf", ".npy", ".npz",  ".ot", ".tflite"};
  const std::string extension = name.extension().string();
  return std::find(formats.begin(), formats.end(), extension) != formats.end() ||
         name.filename().string().ends_with(".index.json");
}

namespace detail {
/// True if a folder is a checkpoint of its own, or cannot be listed.
inline bool holds_weights(const std::filesystem::path& folder) {
  std::error_code problem;
  for (std::filesystem::directory_iterator it(folder, problem), end; !problem && it != end;
       it.increment(problem)) {
    if (is_weights_name(it->path())) return true;
  }
  return static_cast<bool>(problem);
}
}  // namespace detail

/// The files of a folder and of its subfolders, sorted by name. Left out are weights, folders that
/// hold weights, names that begin with a dot, and the remains of a killed run. Links to files count
/// as files; links to folders are left out. Throws error if a folder cannot be listed.
inline std::vector<side_file> side_files(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  std::vector<side_file> found;
  std::error_code problem, ignored;
  for (fs::recursive_directory_iterator it(folder, problem), end; !problem && it != end;
       it.increment(problem)) {
    const std::string name = it->path().filename().string();
    const bool is_other = it->is_directory(ignored) &&
                          (is_weights_name(it->path()) || detail::holds_weights(it->path()));
    if (is_other || name.front() == '.' || name.find(".partial-") != std::string::npos) {
      it.disable_recursion_pending();
    } else if (it->is_regular_file(ignored) && !is_weights_name(it->path())) {
      found.push_back({it->path().lexically_relative(folder), it->path()});
    }
  }
  if (problem) fail(folder, "cannot list the folder: " + problem.message());
  std::sort(found.begin(), found.end(),
            [](const side_file& a, const side_file& b) { return a.name < b.name; });
  return found;
}

/// Writes the files into a folder. Messages name `reported`, the final name of the folder. Throws
/// error if a source cannot be read or the system cannot write.
inline void write_side_files(const std::vector<side_file>& files,
                             const std::filesystem::path& folder,
                             const std::filesystem::path& reported) {
  for (const side_file& file : files) {
    std::error_code problem;
    std::filesystem::create_directories((folder / file.name).parent_path(), problem);
    if (problem) fail(reported / file.name, "cannot create its folder: " + problem.message());
    output_file copy(folder / file.name, reported / file.name);
    if (file.source.empty()) {
      copy.write_at(0, std::as_bytes(std::span(file.text)));
    } else {
      const mapped_file contents(file.source);
      copy.write_at(0, contents.bytes());
    }
    copy.close();
    if (file.name.has_parent_path()) detail::sync_folder((folder / file.name).parent_path());
  }
}

}  // namespace catmerge::io
