// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <harness/checkpoints/task_file.hpp>
#include <harness/system/progress.hpp>
#include <map>
#include <string>
#include <utility>
#include <vector>

/// The parts of the command line that commands share.
namespace catmerge::harness {

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

/// A finite number, of at least 0 unless `negative_too`. (CLI11's own checks let NaN pass and name
/// the largest double.)
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

/// 0, 1, 2, ... (CLI11 turns larger numbers into the largest integer.)
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

/// --quiet and --verbose.
inline void add_verbosity(CLI::App& command, verbosity& how) {
  auto* const silent = command.add_flag_callback(
      "--quiet", [&how] { how = verbosity::quiet; },
      "Say nothing but errors; reports hold the warnings");
  command
      .add_flag_callback(
          "--verbose", [&how] { how = verbosity::verbose; },
          "Say what is done and how long it takes, on the standard error")
      ->excludes(silent);
}

/// --threads.
inline CLI::Option* add_threads(CLI::App& command, unsigned& threads,
                                const char* help = "Threads; the result does not depend on it") {
  return command.add_option("--threads", threads, help)->check(CLI::Range(1U, 1024U));
}

/// An option that may be given several times, one value each.
inline CLI::Option* add_list(CLI::App& command, const char* option, std::vector<std::string>& list,
                             const char* type, const std::string& help) {
  return command.add_option(option, list, help)->type_name(type)->expected(1)->take_all();
}

/// --rule.
inline CLI::Option* add_rule_option(CLI::App& command, std::vector<std::string>& given) {
  return add_list(
      command, "--rule", given, "PATTERN=KIND",
      "The kind of parameters by their names, if the built-in rules do not know it or are wrong: "
      "PATTERN=linear, conv, scale, shift, tokens (a table with a row per token), untrimmed, "
      "average (buffers that training measured: the mean of the experts) or fixed (the base's). "
      "Behind it, after commas: in-out (a matrix stored d_in x d_out), stacked (a list of matrices "
      "or vectors, as experts of a mixture), 3-parts (equal parts along d_out, each trimmed on its "
      "own). The last rule that matches decides");
}

}  // namespace catmerge::harness
