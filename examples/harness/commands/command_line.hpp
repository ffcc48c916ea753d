// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <catmerge/error.hpp>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <harness/checkpoints/task_file.hpp>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

/// The program's subcommands. Each add_... declares its options and what to do when it is called.
namespace catmerge::harness {

void add_merge(CLI::App& program);
void add_features(CLI::App& program);
void add_evaluate(CLI::App& program);
void add_inspect(CLI::App& program);
void add_methods(CLI::App& program);
void add_experiment(CLI::App& program);
void add_report(CLI::App& program);

/// "NAME=P" arguments, in the order of the command line. Throws CLI::ValidationError for a name
/// that is empty or given twice.
inline std::vector<task_file> parse_task_files(const std::string& option,
                                               const std::vector<std::string>& arguments) {
  std::vector<task_file> files;
  for (const auto& argument : arguments) {
    const auto equals = argument.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == argument.size())
      throw CLI::ValidationError(option, "expected NAME=PATH, found '" + argument + "'");
    files.push_back({argument.substr(0, equals), argument.substr(equals + 1)});
    for (std::size_t i = 0; i + 1 < files.size(); ++i)
      if (files[i].task == files.back().task)
        throw CLI::ValidationError(option, "the task '" + files[i].task + "' is given twice");
  }
  return files;
}

/// A number that is finite and, if asked for, not negative. (CLI11's own checks let NaN pass and
/// name the largest double.)
inline CLI::Validator finite_number(bool negative_too) {
  return CLI::Validator(
      [negative_too](std::string& text) -> std::string {
        char* end = nullptr;
        const double value = std::strtod(text.c_str(), &end);
        const bool is_number = !text.empty() && *end == '\0' && std::isfinite(value);
        if (is_number && (negative_too || value >= 0)) return {};
        return std::string("expected a number") + (negative_too ? "" : " of at least 0") +
               ", found '" + text + "'";
      },
      "");
}

/// 0, 1, 2, ... (CLI11 takes what is beyond the largest integer for that.)
inline CLI::Validator whole_number() {
  return CLI::Validator(
      [](std::string& text) -> std::string {
        if (!text.empty() && text.size() <= 15 &&
            text.find_first_not_of("0123456789") == std::string::npos)
          return {};
        return "expected a whole number of at least 0, found '" + text + "'";
      },
      "");
}

/// A number of bytes: "300", "5GB", "1.5 GiB". Throws CLI::ValidationError for anything else.
inline std::uint64_t parse_size(const std::string& option, const std::string& text) {
  static const std::map<std::string, double> units = {
      {"", 1},     {"B", 1},      {"KB", 1e3},      {"MB", 1e6},
      {"GB", 1e9}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}};
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  const std::string unit = end + std::strspn(end, " ");
  const auto found = units.find(unit);
  const double bytes = found == units.end() ? -1 : number * found->second;
  if (end == text.c_str() || !(bytes == 0 || (bytes >= 1 && bytes < 1e18)))
    throw CLI::ValidationError(option, "expected a size such as 5GB, found '" + text + "'");
  return static_cast<std::uint64_t>(bytes);
}

/// A path as the system sees it, whatever links, dots and slashes it is written with.
inline std::filesystem::path resolved(const std::string& path) {
  std::error_code ignored;
  auto place = std::filesystem::weakly_canonical(path, ignored);
  if (place.empty()) place = std::filesystem::absolute(path, ignored);
  return place.has_filename() ? place : place.parent_path();
}

/// Whether `inner` is `outer` or lies in it, at any depth.
inline bool is_within(const std::filesystem::path& inner, const std::filesystem::path& outer) {
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

/// Throws if `output` is an input, lies in one that is a folder, or is a folder that one lies in:
/// it may be replaced as a whole.
inline void require_apart(const std::string& output, const std::vector<std::string>& inputs) {
  if (output.empty()) throw error("an output has no name: expected that of a file or a folder");
  const auto place = resolved(output);
  for (const auto& input : inputs) {
    if (input.empty()) continue;
    const auto other = resolved(input);
    if (place == other) throw error(output + ": the output is one of the inputs: " + input);
    if (is_within(place, other))
      throw error(output + ": the output lies in one of the inputs: " + input);
    if (is_within(other, place))
      throw error(output + ": one of the inputs lies in the output: " + input);
  }
}

/// --quiet and --verbose.
inline void add_verbosity(CLI::App& command, bool& quiet, bool& verbose) {
  auto* const silent =
      command.add_flag("--quiet", quiet, "Say nothing but errors; reports hold the warnings");
  command
      .add_flag("--verbose", verbose,
                "Say what is done and how long it takes, on the standard error")
      ->excludes(silent);
}

/// --threads, with the machine's own number as the default.
inline unsigned default_threads() {
  return std::max(1U, std::thread::hardware_concurrency());
}

}  // namespace catmerge::harness
