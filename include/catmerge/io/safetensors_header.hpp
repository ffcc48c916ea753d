// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/file_kind.hpp>
#include <catmerge/io/json.hpp>
#include <catmerge/io/tensor_entry.hpp>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// @file
/// The safetensors format, as bytes:
///
///     8 bytes   n, the length of the header, little-endian
///     n bytes   JSON: {"__metadata__": {"key": "text", ...},
///                      "NAME": {"dtype": "F32", "shape": [3, 4], "data_offsets": [begin, end]},
///                      ...}
///     the rest  the values; offsets count from the start of this part
///
/// The tensors cover the values without gap or overlap. A file that the reference implementation
/// refuses (github.com/huggingface/safetensors, safetensors/src/tensor.rs) is refused here, too.
namespace catmerge::io {

/// The reference implementation's limit, which keeps a hostile file from filling the memory.
inline constexpr std::uint64_t safetensors_longest_header = 100'000'000;

/// The contents of a safetensors file.
struct safetensors_contents {
  std::vector<tensor_entry> entries;  ///< point into the file's bytes; in the order of offsets
  metadata_t metadata;                ///< the texts under `__metadata__`
};

namespace detail {

inline std::string json_in_quotes(const nlohmann::json& value) {
  constexpr auto replace = nlohmann::json::error_handler_t::replace;
  return in_quotes(value.dump(-1, ' ', false, replace));
}

/// A JSON number that is an index: not negative, an integer, within index_t.
inline bool is_index(const nlohmann::json& value) {
  return value.is_number_unsigned() &&
         value.get<std::uint64_t>() <=
             static_cast<std::uint64_t>(std::numeric_limits<index_t>::max());
}

/// A tensor and its offsets in the header, not yet checked against the file's size.
struct placed_entry : tensor_entry {
  std::uint64_t begin = 0, end = 0;
};

/// Parses one tensor of the header and checks it alone, without the file and the other tensors.
inline placed_entry parse_safetensors_entry(const std::filesystem::path& file,
                                            const std::string& name, const nlohmann::json& info) {
  const auto member = [&](const char* key) -> const nlohmann::json& {
    if (!info.is_object()) fail(file, name, "expected an object, found " + json_in_quotes(info));
    const auto found = info.find(key);
    if (found == info.end()) fail(file, name, std::string("has no ") + key);
    return *found;
  };
  placed_entry entry;
  entry.name = name;

  const nlohmann::json& type = member("dtype");
  const auto known =
      type.is_string() ? parse_dtype(type.get_ref<const std::string&>()) : std::nullopt;
  if (!known) fail(file, name, "unknown dtype " + json_in_quotes(type));
  entry.type = *known;

  const nlohmann::json& shape = member("shape");
  if (!shape.is_array() || !std::all_of(shape.begin(), shape.end(), is_index)) {
    fail(file, name,
         "shape: expected a list of non-negative integers, found " + json_in_quotes(shape));
  }
  entry.shape = shape.get<shape_t>();
  const auto size = byte_count(entry);
  if (!size) fail(file, name, no_byte_count(entry));

  const nlohmann::json& offsets = member("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2 || !is_index(offsets[0]) ||
      !is_index(offsets[1])) {
    fail(file, name, "data_offsets: expected [begin, end], found " + json_in_quotes(offsets));
  }
  entry.begin = offsets[0].get<std::uint64_t>();
  entry.end = offsets[1].get<std::uint64_t>();
  const auto range = [&] {
    return "[" + std::to_string(entry.begin) + ", " + std::to_string(entry.end) + "]";
  };
  if (entry.begin > entry.end) {
    fail(file, name, "data_offsets " + range() + ": the end lies before the begin");
  }
  if (entry.end - entry.begin != *size) {
    fail(file, name,
         describe(entry) + " takes " + std::to_string(*size) + " bytes, data_offsets " + range() +
             " hold " + std::to_string(entry.end - entry.begin));
  }
  return entry;
}

/// Sorts the tensors by offset, checks that they cover the values exactly, and sets their bytes.
inline void place_safetensors_entries(const std::filesystem::path& file,
                                      std::vector<placed_entry>& entries,
                                      std::span<const std::byte> values) {
  std::stable_sort(entries.begin(), entries.end(), [&](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t covered = 0;
  const placed_entry* previous = nullptr;
  const placed_entry* beyond = nullptr;  // the first beyond the file's end
  for (const placed_entry& entry : entries) {
    if (entry.begin < covered) {
      fail(file, entry.name, "overlaps tensor " + in_quotes(previous->name));
    }
    if (entry.begin > covered) {
      fail(file, entry.name,
           "begins at byte " + std::to_string(entry.begin) + ", expected " +
               std::to_string(covered) + ": the bytes between belong to no tensor");
    }
    covered = entry.end;
    if (covered > values.size() && beyond == nullptr) beyond = &entry;
    previous = &entry;
  }
  if (beyond != nullptr) {
    fail(file, "is cut short: its tensors take " + std::to_string(covered) +
                   " bytes of values, found " + std::to_string(values.size()) +
                   "; the first without its bytes is tensor " + in_quotes(beyond->name) +
                   ". Download or copy the file again");
  }
  if (covered != values.size()) {
    fail(file, "the tensors end after " + std::to_string(covered) + " bytes of values, found " +
                   std::to_string(values.size()) + " in the file");
  }
  for (placed_entry& entry : entries) {
    entry.bytes = values.subspan(static_cast<std::size_t>(entry.begin),
                                 static_cast<std::size_t>(entry.end - entry.begin));
  }
}

}  // namespace detail

/// Parses the bytes of a whole safetensors file and checks everything except the values. Throws
/// error naming the file, the tensor, the expected value and the value found.
inline safetensors_contents parse_safetensors(std::span<const std::byte> bytes,
                                              const std::filesystem::path& file) {
  constexpr std::size_t prefix = 8;
  if (bytes.size() < prefix) {
    fail_unexpected(file, bytes,
                    "is not a safetensors file: it has " + std::to_string(bytes.size()) + " bytes");
  }
  std::uint64_t length = 0;
  for (std::size_t i = prefix; i-- > 0;) {
    length = length << 8 | std::to_integer<std::uint64_t>(bytes[i]);
  }
  if (length > safetensors_longest_header) {
    fail_unexpected(file, bytes,
                    "the header's length, " + std::to_string(length) + ", exceeds the limit of " +
                        std::to_string(safetensors_longest_header) +
                        " (is it a safetensors file?)");
  }
  if (length > bytes.size() - prefix) {
    fail_unexpected(file, bytes,
                    "the header's length, " + std::to_string(length) + ", lies beyond the file's " +
                        std::to_string(bytes.size()) + " bytes (is it cut short?)");
  }
  const auto header_size = static_cast<std::size_t>(length);
  const std::string_view header = as_text(bytes.subspan(prefix, header_size));
  const std::span<const std::byte> values = bytes.subspan(prefix + header_size);
  if (header.empty() || header.front() != '{') {
    fail_unexpected(file, bytes, "the header does not start with '{'");
  }

  safetensors_contents contents;
  std::vector<detail::placed_entry> entries;
  for_each_member(header, file, "header", [&](const std::string& name, nlohmann::json& info) {
    if (name != "__metadata__") {
      entries.push_back(detail::parse_safetensors_entry(file, name, info));
      return;
    }
    if (info.is_null()) return;
    if (!info.is_object()) fail(file, "__metadata__: expected an object of strings");
    for (const auto& [key, text] : info.items()) {
      if (!text.is_string()) {
        fail(file, "__metadata__: " + in_quotes(key) + ": expected a string, found " +
                       detail::json_in_quotes(text));
      }
      contents.metadata.emplace(key, std::move(text.get_ref<std::string&>()));
    }
  });
  detail::place_safetensors_entries(file, entries, values);
  contents.entries.assign(std::move_iterator(entries.begin()), std::move_iterator(entries.end()));
  return contents;
}

/// The first bytes of a safetensors file: length and header, padded with spaces to a multiple of 8.
/// The values follow in the order given. Precondition: each tensor has a byte_count.
/// Throws error if a text is not UTF-8 or the header exceeds the format's limit.
inline std::string make_safetensors_header(const std::filesystem::path& file,
                                           const std::vector<tensor_info>& tensors,
                                           const metadata_t& metadata) {
  std::string text = "{";
  try {
    if (!metadata.empty()) text += "\"__metadata__\":" + nlohmann::json(metadata).dump();
    std::uint64_t offset = 0;
    for (const tensor_info& info : tensors) {
      const std::uint64_t end = offset + byte_count(info).value();
      if (text.size() > 1) text += ',';
      text += nlohmann::json(info.name).dump() + ":{\"dtype\":\"" +
              std::string(name_of(info.type)) +
              "\",\"shape\":" + nlohmann::json(info.shape).dump() + ",\"data_offsets\":[" +
              std::to_string(offset) + "," + std::to_string(end) + "]}";
      offset = end;
    }
  } catch (const nlohmann::json::exception&) {
    fail(file, "a tensor's name or the metadata is not valid UTF-8");
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > safetensors_longest_header) fail(file, "the header exceeds the format's limit");
  std::string prefix(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) prefix[i] = static_cast<char>(text.size() >> 8 * i & 0xff);
  return prefix + text;
}

}  // namespace catmerge::io
