// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <catmerge/io/file_kind.hpp>
#include <catmerge/io/json.hpp>
#include <catmerge/io/tensor_entry.hpp>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

/// @file
/// NumPy's .npy format (numpy.lib.format), versions 1.0, 2.0 and 3.0, as bytes:
///
///     6 bytes     \x93NUMPY
///     2 bytes     version: major, minor
///     2 or 4      n, the length of the header, little-endian (2 bytes in version 1.0)
///     n bytes     {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } spaces, newline
///     the rest    the values
namespace catmerge::io {

/// The header of a .npy file.
struct npy_header {
  dtype type = dtype::f32;      ///< of the elements
  shape_t shape;                ///< extents in the order of NumPy's shape
  bool fortran_order = false;   ///< column-major values
  bool big_endian = false;      ///< the most significant byte comes first
  std::size_t data_offset = 0;  ///< of the values in the file
};

namespace detail {

/// NumPy lacks bfloat16 and smaller floats.
inline constexpr std::array<std::pair<std::string_view, dtype>, 13> npy_types = {
    {{"|b1", dtype::boolean},
     {"|u1", dtype::u8},
     {"|i1", dtype::i8},
     {"<i2", dtype::i16},
     {"<u2", dtype::u16},
     {"<f2", dtype::f16},
     {"<i4", dtype::i32},
     {"<u4", dtype::u32},
     {"<f4", dtype::f32},
     {"<c8", dtype::c64},
     {"<f8", dtype::f64},
     {"<i8", dtype::i64},
     {"<u8", dtype::u64}}};

/// Parses the header's Python dictionary, in the form that NumPy writes.
class npy_dictionary_parser {
 public:
  npy_dictionary_parser(std::string_view text, const std::filesystem::path& file)
      : rest_(text), file_(file) {}

  npy_header parse() {
    npy_header header;
    bool seen[3] = {};
    expect('{');
    while (!accept('}')) {
      const std::string_view key = string("a key");
      const int field = key == "descr" ? 0 : key == "fortran_order" ? 1 : key == "shape" ? 2 : -1;
      if (field < 0) bad("unknown key " + in_quotes(key));
      if (std::exchange(seen[field], true)) bad("the key " + in_quotes(key) + " stands twice");
      expect(':');
      if (field == 0) std::tie(header.type, header.big_endian) = type();
      if (field == 1) header.fortran_order = boolean();
      if (field == 2) header.shape = shape();
      if (accept(',')) continue;
      expect('}');
      break;
    }
    if (!seen[0] || !seen[1] || !seen[2]) bad("expected descr, fortran_order and shape");
    skip_space();
    if (!rest_.empty()) bad("found " + in_quotes(rest_) + " after the dictionary");
    return header;
  }

 private:
  [[noreturn]] void bad(const std::string& what) const { fail(file_, "the .npy header: " + what); }

  void skip_space() {
    rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\r\n"), rest_.size()));
  }
  bool accept(char c) {
    skip_space();
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  bool accept(std::string_view word) {
    skip_space();
    if (rest_.substr(0, word.size()) != word) return false;
    rest_.remove_prefix(word.size());
    return true;
  }
  void expect(char c) {
    if (!accept(c))
      bad(std::string("expected '") + c + "', found " + in_quotes(rest_.substr(0, 20)));
  }
  /// A string literal without escapes, which NumPy does not write here.
  std::string_view string(const char* what) {
    skip_space();
    const char quote = rest_.empty() ? '\0' : rest_.front();
    const std::size_t end =
        quote == '\'' || quote == '"' ? rest_.find(quote, 1) : std::string_view::npos;
    if (end == std::string_view::npos) {
      bad(std::string("expected ") + what + " in quotes, found " + in_quotes(rest_.substr(0, 20)));
    }
    const std::string_view text = rest_.substr(1, end - 1);
    rest_.remove_prefix(end + 1);
    return text;
  }
  /// The type, and whether its values are big-endian.
  std::pair<dtype, bool> type() {
    skip_space();
    if (!rest_.empty() && rest_.front() == '[') bad("structured arrays are not supported");
    const std::string_view descr = string("a type");
    const bool big_endian = descr.starts_with('>');
    for (const auto& [name, each] : npy_types) {
      const bool is_named =
          big_endian ? name.front() == '<' && name.substr(1) == descr.substr(1) : name == descr;
      if (is_named) return {each, big_endian};
    }
    bad("unsupported type " + in_quotes(descr));
  }
  bool boolean() {
    if (accept("True")) return true;
    if (accept("False")) return false;
    bad("fortran_order: expected True or False, found " + in_quotes(rest_.substr(0, 20)));
  }
  /// A tuple: (), (3,), (3, 4); from two extents on, a comma at the end is optional.
  shape_t shape() {
    shape_t result;
    expect('(');
    bool comma = true;  // true if an extent may follow
    while (!accept(')')) {
      if (!comma) bad("the shape: expected ',' or ')', found " + in_quotes(rest_.substr(0, 20)));
      result.push_back(extent());
      comma = accept(',');
      if (!comma && result.size() == 1) bad("the shape: expected a tuple");
    }
    return result;
  }
  index_t extent() {
    skip_space();
    std::uint64_t value = 0;
    std::size_t digits = 0;
    for (; digits < rest_.size() && rest_[digits] >= '0' && rest_[digits] <= '9'; ++digits) {
      value = value * 10 + static_cast<std::uint64_t>(rest_[digits] - '0');
      if (digits == 18) bad("the shape: an extent is absurdly large");  // 19 digits may overflow
    }
    if (digits == 0) bad("the shape: expected an extent, found " + in_quotes(rest_.substr(0, 20)));
    rest_.remove_prefix(digits);
    if (!rest_.empty() && rest_.front() == 'L') rest_.remove_prefix(1);  // Python 2
    return static_cast<index_t>(value);
  }

  std::string_view rest_;
  const std::filesystem::path& file_;
};

}  // namespace detail

/// NumPy's name of a type ("<f4"); empty if it has none.
inline std::string_view npy_descr(dtype type) {
  for (const auto& [descr, each] : detail::npy_types) {
    if (each == type) return descr;
  }
  return {};
}

/// Parses the header of a whole .npy file. The values must fill the rest exactly. No allocation
/// relies on the header's numbers. Throws error naming `file`.
inline npy_header parse_npy_header(std::span<const std::byte> bytes,
                                   const std::filesystem::path& file) {
  const std::string_view text = as_text(bytes);
  if (!text.starts_with("\x93NUMPY")) fail_unexpected(file, bytes, "is not a .npy file");
  if (text.size() < 10) fail(file, "is not a .npy file: it ends after its first bytes");
  const int major = static_cast<unsigned char>(text[6]);
  if (major < 1 || major > 3 || text[7] != 0) fail(file, "an unknown version of .npy");
  const std::size_t prefix = major == 1 ? 10 : 12;
  std::size_t length = 0;
  if (text.size() < prefix) fail(file, "the .npy header is truncated");
  for (std::size_t i = prefix; i-- > 8;) {
    length = length << 8 | std::to_integer<std::size_t>(bytes[i]);
  }
  if (length > text.size() - prefix) {
    fail(file, "the .npy header's length, " + std::to_string(length) + ", lies beyond the file's " +
                   std::to_string(text.size()) + " bytes");
  }
  npy_header header = detail::npy_dictionary_parser(text.substr(prefix, length), file).parse();
  header.data_offset = prefix + length;
  const std::size_t found = text.size() - header.data_offset;
  const tensor_info info{"", header.type, header.shape};
  const auto size = byte_count(info);
  if (!size) fail(file, no_byte_count(info));
  if (*size != found) {
    fail(file, describe(info) + " takes " + std::to_string(*size) + " bytes of values, found " +
                   std::to_string(found));
  }
  return header;
}

/// The first bytes of a .npy file (version 1.0, row-major), a multiple of 64 of them as NumPy
/// writes. Throws error, naming `file`, if NumPy lacks the type.
inline std::string make_npy_header(const tensor_info& info, const std::filesystem::path& file) {
  const std::string_view descr = npy_descr(info.type);
  if (descr.empty()) {
    fail(file, info.name,
         ".npy files cannot hold " + std::string(name_of(info.type)) +
             (scalar_of(info.type) ? ": choose another output type (--out-dtype f32)" : ""));
  }
  std::string shape = "(";
  for (std::size_t i = 0; i < info.shape.size(); ++i) {
    shape += (i > 0 ? " " : "") + std::to_string(info.shape[i]) + ",";
  }
  if (info.shape.size() > 1) shape.pop_back();
  std::string text =
      "{'descr': '" + std::string(descr) + "', 'fortran_order': False, 'shape': " + shape + "), }";
  constexpr std::size_t prefix = 10;
  const std::size_t total = (prefix + text.size() + 1 + 63) / 64 * 64;
  if (total - prefix > 0xffff) fail(file, info.name, "too many extents for a .npy file");
  text.resize(total - prefix - 1, ' ');
  text += '\n';
  const std::string length = {static_cast<char>(text.size() & 0xff),
                              static_cast<char>(text.size() >> 8)};
  return "\x93NUMPY" + std::string("\1\0", 2) + length + text;
}

}  // namespace catmerge::io
