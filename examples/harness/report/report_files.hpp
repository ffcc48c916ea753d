// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/atomic_path.hpp>
#include <catmerge/version.hpp>
#include <chrono>
#include <cstddef>
#include <ctime>
#include <filesystem>
#include <harness/report/report_json.hpp>
#include <harness/system/option_error.hpp>
#include <harness/system/progress.hpp>
#include <memory>
#include <span>
#include <string>
#include <vector>

#define CATMERGE_TEXT_OF(x) #x
#define CATMERGE_TEXT(x) CATMERGE_TEXT_OF(x)

namespace catmerge::harness {

constexpr const char* version_text = CATMERGE_TEXT(CATMERGE_VERSION_MAJOR) "." CATMERGE_TEXT(
    CATMERGE_VERSION_MINOR) "." CATMERGE_TEXT(CATMERGE_VERSION_PATCH);

/// The cost and date of a run for its report.
inline json run_of(std::chrono::steady_clock::time_point began, unsigned threads) {
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - began;
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char date[32];
  std::strftime(date, sizeof date, "%Y-%m-%d", &utc);
  return {{"date", date},
          {"seconds", spent.count()},
          {"peak_memory_bytes", peak_memory()},
          {"threads", threads}};
}

/// The files of a report: JSON, and pages made of the same JSON. They are opened at once, so that
/// an unwritable path fails before long work, and appear when all is done.
class report_files {
 public:
  /// option: the option with the names. Throws option_error for names that end in neither .json nor
  /// .html, and catmerge::error as io::atomic_file does.
  report_files(const std::string& option, const std::vector<std::string>& paths,
               io::existing target) {
    for (const auto& path : paths) {
      const auto type = std::filesystem::path(path).extension();
      if (type != ".json" && type != ".html")
        throw option_error(option,
                           "expected a name that ends in .json or .html, found '" + path + "'");
    }
    for (const auto& path : paths)
      files_.push_back({std::filesystem::path(path).extension() == ".html",
                        std::make_unique<io::atomic_file>(path, target)});
  }

  /// page: a function from the JSON to a page's text.
  template <class Page>
  void write(const json& report, const Page& page) {
    for (auto& file : files_) {
      const std::string text = file.is_page ? page(report) : text_of(report);
      file.file->write_at(0, std::as_bytes(std::span(text)));
    }
  }

  void commit() {
    for (auto& file : files_) file.file->commit();
  }

 private:
  struct output {
    bool is_page;
    std::unique_ptr<io::atomic_file> file;
  };
  std::vector<output> files_;
};

}  // namespace catmerge::harness
