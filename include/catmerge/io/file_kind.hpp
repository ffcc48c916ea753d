// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <catmerge/io/fail.hpp>
#include <cctype>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

/// @file
/// Recognises a file of an unexpected kind by its first bytes and its name.
namespace catmerge::io {

namespace detail {

inline constexpr std::string_view export_advice =
    "turn it into safetensors with examples/export/export_checkpoint.py";

/// The contents of a zip archive, by the name of its first member. The name follows a header of 30
/// bytes; its length stands at byte 26.
inline std::string zip_kind(std::string_view text) {
  std::string_view member;
  if (text.size() > 30) {
    const auto length = static_cast<std::size_t>(static_cast<unsigned char>(text[26]) |
                                                 static_cast<unsigned char>(text[27]) << 8);
    member = text.substr(30, length);
  }
  if (member.ends_with("/data.pkl") || member.find("/.data/") != std::string_view::npos ||
      member.ends_with("/version") || member.ends_with("/byteorder") ||
      member.ends_with("/.format_version")) {
    return "is a PyTorch file (a pickle in a zip archive): " + std::string(export_advice);
  }
  if (member.ends_with(".npy")) {
    return "is an .npz archive of NumPy: unpack it into a folder of .npy files and name the folder";
  }
  return "is a zip archive: unpack it, and name what is inside (a PyTorch file: " +
         std::string(export_advice) + ")";
}

/// True if the text begins with `word`, after white space and in letters of any case.
inline bool begins_with_tag(std::string_view text, std::string_view word) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) {
    text.remove_prefix(1);
  }
  return text.size() >= word.size() &&
         std::equal(word.begin(), word.end(), text.begin(), [](char a, char b) {
           return a == std::tolower(static_cast<unsigned char>(b));
         });
}

}  // namespace detail

/// The kind of a file and a remedy, as a predicate: "is a pointer of Git LFS ...". Empty for an
/// unknown kind and for safetensors.
inline std::string describe_other_file(const std::filesystem::path& file,
                                       std::span<const std::byte> bytes) {
  using namespace std::string_view_literals;
  // All signatures lie in the first bytes.
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()),
                              std::min<std::size_t>(bytes.size(), 4096));
  if (text.empty()) return "is empty: download or write it again";
  if (text.starts_with("version https://git-lfs.github.com/spec/")) {
    return "is a pointer of Git LFS, not the file that it stands for: fetch that with 'git lfs "
           "pull' (or download the file by itself)";
  }
  if (detail::begins_with_tag(text, "<!doctype html") || detail::begins_with_tag(text, "<html")) {
    return "is a page in HTML, perhaps a server's message in place of the file: download it again";
  }
  if (detail::begins_with_tag(text, "<?xml")) {
    return "is a text in XML, perhaps a server's message in place of the file: download it again";
  }
  if (text.starts_with("PK\x03\x04"sv)) return detail::zip_kind(text);
  // A pickle of protocol 2 to 5: torch.save wrote it before its zip archives, and still can.
  if (text.size() > 1 && text[0] == '\x80' && text[1] >= 2 && text[1] <= 5) {
    return "is a pickle of Python, as older PyTorch files are: " +
           std::string(detail::export_advice);
  }
  if (text.starts_with("GGUF") || text.starts_with("tjgg") || text.starts_with("lmgg")) {
    return "is a GGUF file, made for llama.cpp and usually quantised: use the safetensors files of "
           "the network that it was made from";
  }
  if (text.starts_with("\x89HDF\r\n\x1a\n"sv)) {
    return "is an HDF5 file, as Keras and TensorFlow write: load it there and save it as "
           "safetensors (transformers: from_pretrained(..., from_tf=True), then save_pretrained)";
  }
  if (text.starts_with("\x93NUMPY"sv)) {
    return "is one array of NumPy: a folder of .npy files is a checkpoint, so name the folder";
  }
  if (text.starts_with("\x1f\x8b"sv) ||
      text.starts_with("\xfd"
                       "7zXZ"sv) ||
      text.starts_with("\x28\xb5\x2f\xfd"sv) || text.starts_with("BZh") ||
      (text.size() > 262 && text.substr(257, 5) == "ustar")) {
    return "is an archive or compressed: unpack it, and name what is inside";
  }
  const std::string extension = file.extension().string();
  if (extension == ".onnx") {
    return "is an ONNX file, a graph and not a table of weights: use the safetensors files of the "
           "network that it was made from";
  }
  if (extension == ".msgpack") {
    return "is a msgpack file of Flax: load it there and save it as safetensors (transformers: "
           "from_pretrained(..., from_flax=True), then save_pretrained)";
  }
  if (extension == ".tflite" || text.substr(std::min<std::size_t>(4, text.size()), 4) == "TFL3") {
    return "is a TensorFlow Lite file: use the safetensors files of the network that it was made "
           "from";
  }
  if (text.size() >= 16 && text.find_first_not_of('\0') == std::string_view::npos) {
    return "begins with nothing but zeros, as an unfinished download does: download it "
           "again";
  }
  return {};
}

/// Throws error about a file of an unexpected kind: its description, or `otherwise` if the kind is
/// unknown.
[[noreturn]] inline void fail_unexpected(const std::filesystem::path& file,
                                         std::span<const std::byte> bytes,
                                         const std::string& otherwise) {
  const std::string kind = describe_other_file(file, bytes);
  fail(file, kind.empty() ? otherwise : kind);
}

}  // namespace catmerge::io
