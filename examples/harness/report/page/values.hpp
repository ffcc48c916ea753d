// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

using json = nlohmann::ordered_json;  // as in report_json.hpp

/// Pages made of reports: one self-contained HTML file each.
namespace page {

/// The value of a number that a report lacks.
inline constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

/// j[key], or null if j is no object or lacks the key.
inline const json& member(const json& j, const char* key) {
  static const json none;
  if (!j.is_object()) return none;
  const auto found = j.find(key);
  return found == j.end() ? none : *found;
}

/// The elements of an array; none for other values.
inline const json& list(const json& j) {
  static const json none = json::array();
  return j.is_array() ? j : none;
}

/// A number, or `unknown` if j is none or not finite.
inline double number(const json& j) {
  if (!j.is_number()) return unknown;
  const auto value = j.get<double>();
  return std::isfinite(value) ? value : unknown;
}

/// n numbers; `unknown` for missing ones.
inline std::vector<double> numbers(const json& j, std::size_t n) {
  std::vector<double> values(n, unknown);
  const json& given = list(j);
  for (std::size_t i = 0; i < std::min(n, given.size()); ++i) values[i] = number(given[i]);
  return values;
}

/// All numbers of an array.
inline std::vector<double> numbers(const json& j) {
  return numbers(j, list(j).size());
}

/// A string as it is, an empty one for null, other values as JSON.
inline std::string text(const json& j) {
  if (j.is_null()) return {};
  if (j.is_string()) return j.get<std::string>();
  return j.dump(-1, ' ', false, json::error_handler_t::replace);
}

/// All strings of an array.
inline std::vector<std::string> texts(const json& j) {
  std::vector<std::string> all;
  for (const auto& element : list(j)) all.push_back(text(element));
  return all;
}

/// The count of numbers in j, at any depth, that are null or not finite: JSON has no other form for
/// them.
inline std::size_t count_unknown(const json& j) {
  if (j.is_null()) return 1;
  if (j.is_number_float()) return std::isfinite(j.get<double>()) ? 0 : 1;
  std::size_t count = 0;
  if (j.is_structured())
    for (const auto& element : j) count += count_unknown(element);
  return count;
}

/// A table of numbers; empty if a report has none.
struct grid {
  grid() = default;
  grid(std::size_t r, std::size_t c, double value = 0)
      : rows(r), columns(c), values(r * c, value) {}

  double& operator()(std::size_t i, std::size_t j) { return values[i * columns + j]; }
  double operator()(std::size_t i, std::size_t j) const { return values[i * columns + j]; }
  bool empty() const { return values.empty(); }

  std::size_t rows = 0, columns = 0;
  std::vector<double> values;
};

/// n x n numbers; empty if j is no array, `unknown` in rows that are too short.
inline grid square(const json& j, std::size_t n) {
  if (!j.is_array()) return {};
  grid g(n, n, unknown);
  for (std::size_t i = 0; i < std::min(n, j.size()); ++i) {
    const auto row = numbers(j[i], n);
    for (std::size_t k = 0; k < n; ++k) g(i, k) = row[k];
  }
  return g;
}

}  // namespace page
}  // namespace catmerge::harness
