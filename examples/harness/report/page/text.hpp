// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>
#include <string_view>
#include <system_error>

/// Text on a page: escaped, shortened, and numbers as text.
namespace catmerge::harness::page {

inline constexpr char32_t replacement = 0xFFFD;
inline constexpr const char* dash = "\u2013";  ///< for an unknown number

namespace detail {

/// Decodes the code point at s[at] and moves `at` behind it. U+FFFD for a byte that begins none
/// (too short, overlong, a surrogate, beyond U+10FFFF).
inline char32_t next_code_point(std::string_view s, std::size_t& at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char first = byte(at++);
  if (first < 0x80) return first;
  const std::size_t more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
  if (first < 0xC2 || first > 0xF4 || at + more > s.size()) return replacement;
  char32_t c = first & (0x3FU >> more);
  for (std::size_t i = 0; i < more; ++i) {
    if ((byte(at + i) & 0xC0U) != 0x80) return replacement;
    c = (c << 6U) | (byte(at + i) & 0x3FU);
  }
  constexpr char32_t least[] = {0, 0x80, 0x800, 0x10000};
  if (c < least[more] || (c >= 0xD800 && c < 0xE000) || c > 0x10FFFF) return replacement;
  at += more;
  return c;
}

inline void append(std::string& s, char32_t c) {
  const auto put = [&](char32_t byte) { s += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xC0 | (c >> 6U));
  } else {
    if (c < 0x10000) {
      put(0xE0 | (c >> 12U));
    } else {
      put(0xF0 | (c >> 18U));
      put(0x80 | ((c >> 12U) & 0x3FU));
    }
    put(0x80 | ((c >> 6U) & 0x3FU));
  }
  put(0x80 | (c & 0x3FU));
}

/// True for control characters and for those that change the direction of text.
inline bool is_hidden(char32_t c) {
  return (c < 0x20 && c != '\n' && c != '\t') || (c >= 0x7F && c < 0xA0) ||
         (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069) || (c & 0xFFFEU) == 0xFFFE;
}

}  // namespace detail

/// The code points of UTF-8 text, with U+FFFD for invalid ones, control characters and changes of
/// the text's direction.
inline std::u32string code_points(std::string_view s) {
  std::u32string points;
  for (std::size_t at = 0; at < s.size();) {
    const char32_t c = detail::next_code_point(s, at);
    points += detail::is_hidden(c) ? replacement : c;
  }
  return points;
}

/// Text escaped for an element or for an attribute in either kind of quotes.
inline std::string escaped(std::string_view s) {
  std::string safe;
  for (const char32_t c : code_points(s)) switch (c) {
      case '&': safe += "&amp;"; break;
      case '<': safe += "&lt;"; break;
      case '>': safe += "&gt;"; break;
      case '"': safe += "&quot;"; break;
      case '\'': safe += "&#39;"; break;
      default: detail::append(safe, c);
    }
  return safe;
}

namespace detail {

/// Width of a character in ems. ASCII (from space to ~): that of DejaVu Sans, which is wider than
/// the default fonts of browsers, in 2048ths of an em (the font's own table). Others: an em and a
/// little.
inline double em_width(char32_t c) {
  constexpr int ascii[] = {651,  821,  942,  1716, 1303, 1946, 1597, 563,  799,  799,  1024, 1716,
                           651,  739,  651,  690,  1303, 1303, 1303, 1303, 1303, 1303, 1303, 1303,
                           1303, 1303, 690,  690,  1716, 1716, 1716, 1087, 2048, 1401, 1405, 1430,
                           1577, 1294, 1178, 1587, 1540, 604,  604,  1343, 1141, 1767, 1532, 1612,
                           1235, 1612, 1423, 1300, 1251, 1499, 1401, 2025, 1403, 1251, 1403, 799,
                           690,  799,  1716, 1024, 1024, 1255, 1300, 1126, 1300, 1260, 721,  1300,
                           1298, 569,  569,  1186, 569,  1995, 1298, 1253, 1300, 1300, 842,  1067,
                           803,  1298, 1212, 1675, 1212, 1212, 1075, 1303, 690,  1303, 1716};
  return c >= ' ' && c <= '~' ? ascii[c - ' '] / 2048.0 : 1.1;
}

}  // namespace detail

/// An estimate, on the wide side, of the width of text of a font size; in units of that size.
inline double text_width(std::string_view s, double size) {
  double ems = 0;
  for (const char32_t c : code_points(s)) ems += detail::em_width(c);
  return ems * size;
}

/// Text no wider than `width`: an ellipsis replaces the middle of longer text.
inline std::string shortened(std::string_view s, double width, double size) {
  const std::u32string points = code_points(s);
  std::string whole;
  for (const char32_t c : points) detail::append(whole, c);
  // (Text measured to fit must not fail by rounding.)
  if (text_width(whole, size) <= width + 0.01) return whole;
  std::u32string head, tail;
  double left = width / size - detail::em_width(U'\u2026');
  for (std::size_t i = 0, first = 0, last = points.size(); first < last; ++i) {
    const bool front = i % 2 == 0;
    const char32_t c = front ? points[first++] : points[--last];
    left -= detail::em_width(c);
    if (left < 0) break;
    (front ? head : tail) += c;
  }
  std::string result;
  for (const char32_t c : head) detail::append(result, c);
  detail::append(result, U'\u2026');
  for (auto c = tail.rbegin(); c != tail.rend(); ++c) detail::append(result, *c);
  return result;
}

/// A name for a page: a very long one loses its middle, an empty one becomes "(no name)".
inline std::string display_name(std::string_view name, double most_ems = 40) {
  return name.empty() ? "(no name)" : shortened(name, most_ems, 1);
}

namespace detail {

inline std::string format(double v, std::chars_format how, int precision) {
  char buffer[400];  // the longest double in fixed notation has 309 digits before the point
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, v, how, precision);
  std::string s(buffer, end.ptr);
  if (s.find_first_not_of("-0.") == std::string::npos && s[0] == '-') s.erase(0, 1);
  return s;
}

/// The number with a minus sign, which is as wide as a digit, in place of the hyphen.
inline std::string with_minus(std::string s) {
  if (!s.empty() && s[0] == '-') s.replace(0, 1, "\u2212");
  return s;
}

}  // namespace detail

/// The shortest text of this finite number: 0.4, 5, 1e-05.
inline std::string shortest(double v) {
  char buffer[40];  // 17 digits, sign, point and exponent
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, v);
  return detail::with_minus(std::string(buffer, end.ptr));
}

/// A number with a fixed number of decimals; a dash if it is not finite.
inline std::string fixed(double v, int decimals) {
  if (!std::isfinite(v)) return dash;
  return detail::with_minus(detail::format(v, std::chars_format::fixed, decimals));
}

/// A number with so many significant digits, as 0.97, 12.3, 120 or 1.2e-05.
inline std::string shown(double v, int digits = 3) {
  if (!std::isfinite(v)) return dash;
  if (v == 0) return "0";
  const int magnitude = static_cast<int>(std::floor(std::log10(std::abs(v))));
  if (magnitude < -3 || magnitude > 5)
    return detail::with_minus(detail::format(v, std::chars_format::scientific, digits - 1));
  return fixed(v, std::max(0, digits - 1 - magnitude));
}

/// A ratio with as many decimals as a comparison needs: 0.04, 1.33, 12.1, 153.
inline std::string ratio(double v) {
  const double size = std::abs(v);
  return size < 1e6 ? fixed(v, size < 9.995 ? 2 : size < 99.95 ? 1 : 0) : shown(v, 2);
}

/// The value of a metric: two decimals, as in tables of percent.
inline std::string score(double v) {
  return std::abs(v) < 1e6 ? fixed(v, 2) : shown(v);
}

/// A share in percent, without the sign if `sign` is false.
inline std::string percent(double share, bool sign = true) {
  if (!std::isfinite(share)) return dash;
  const double p = 100 * share, size = std::abs(p);
  return (size < 0.005  ? "0"
          : size >= 1e6 ? shown(p)
                        : fixed(p, size < 0.1    ? 2
                                   : size < 9.95 ? 1
                                                 : 0)) +
         (sign ? "\u202F%" : "");
}

/// "1 task", "3 tasks".
inline std::string count(std::size_t n, const std::string& what) {
  return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
}

}  // namespace catmerge::harness::page
