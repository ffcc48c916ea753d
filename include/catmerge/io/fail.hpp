// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/error.hpp>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

/// @file
/// Messages about files: `FILE: what`, or ``FILE: tensor 'NAME': what``.

/// Files: checkpoints (safetensors, Hugging Face folders, folders of .npy) and statistics of
/// features. A reader maps a file and checks it first; a written file appears whole or not at all.
/// Needs nlohmann-json and POSIX. "Throws error" means catmerge::error, with a message that names
/// the file and the tensor.
namespace catmerge::io {

/// A file's text for a message: in quotes, with control characters in hexadecimal (`\x0a`), cut
/// after 200 bytes (a hostile name may be megabytes long).
inline std::string in_quotes(std::string_view text) {
  std::size_t shown_size = std::min<std::size_t>(text.size(), 200);
  for (int i = 0; i < 3 && shown_size < text.size(); ++i) {  // keep UTF-8 characters whole
    if ((text[shown_size] & 0xc0) == 0x80) --shown_size;
  }
  constexpr std::string_view digits = "0123456789abcdef";
  std::string shown = "'";
  for (const char c : text.substr(0, shown_size)) {
    const auto code = static_cast<unsigned char>(c);
    if (code < 0x20 || code == 0x7f) {
      shown += "\\x";
      shown += digits[code >> 4];
      shown += digits[code & 15];
    } else {
      shown += c;
    }
  }
  return shown + (text.size() > shown_size ? "...'" : "'");
}

/// A list of names for a message: 'a', 'b' and 3 more.
inline std::string list_in_quotes(const std::vector<std::string>& names) {
  constexpr std::size_t most_listed = 5;
  std::string list;
  for (std::size_t i = 0; i < std::min(names.size(), most_listed); ++i) {
    list += (i > 0 ? ", " : "") + in_quotes(names[i]);
  }
  if (names.size() > most_listed) {
    list += " and " + std::to_string(names.size() - most_listed) + " more";
  }
  return list;
}

/// Throws error: `FILE: what`.
[[noreturn]] inline void fail(const std::filesystem::path& file, const std::string& what) {
  throw error(file.string() + ": " + what);
}

/// Throws error: ``FILE: tensor 'NAME': what``.
[[noreturn]] inline void fail(const std::filesystem::path& file, std::string_view tensor,
                              const std::string& what) {
  fail(file, "tensor " + in_quotes(tensor) + ": " + what);
}

/// Throws error: `FILE: action: ` and the system's words for `code`, an errno.
[[noreturn]] inline void fail_system(const std::filesystem::path& file, const std::string& action,
                                     int code) {
  fail(file, action + ": " + std::generic_category().message(code));
}

}  // namespace catmerge::io
