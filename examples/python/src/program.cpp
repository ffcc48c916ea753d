// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <harness/commands/program.hpp>
#include <harness/merge/run_merge.hpp>
#include <sstream>

#include "bindings.hpp"
#include "observed.hpp"
#include "words.hpp"

namespace catmerge::python {

namespace {

/// A folder for one file that nobody else reads.
class private_folder {
 public:
  private_folder() {
    std::string name = (std::filesystem::temp_directory_path() / "catmerge-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr)
      throw error("cannot make a folder for a report: " + name);
    path_ = name;
  }
  private_folder(const private_folder&) = delete;
  private_folder& operator=(const private_folder&) = delete;
  ~private_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::filesystem::path file(const char* name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// (summary, warnings, report as JSON or None). words: as behind `catmerge merge`.
nb::tuple merge_checkpoints(const std::vector<std::string>& words, bool with_report,
                            nb::object progress) {
  auto request = request_of(words);
  std::optional<private_folder> folder;
  if (with_report) request.reports.push_back(folder.emplace().file("report.json").string());
  harness::merge_result result;
  {
    const observed watch(progress);
    const nb::gil_scoped_release unlocked;
    result = harness::run_merge(request);
  }
  nb::object json = nb::none();
  if (with_report) {
    std::ifstream file(folder->file("report.json"));
    std::stringstream text;
    text << file.rdbuf();
    json = nb::str(text.str().c_str());
  }
  return nb::make_tuple(result.summary, result.warnings, json);
}

/// The whole program, for a process of its own. words: the command line, its name first.
int main_of(const std::vector<std::string>& words) {
  std::vector<const char*> arguments;
  for (const auto& word : words) arguments.push_back(word.c_str());
  const nb::gil_scoped_release unlocked;
  return harness::run_program(static_cast<int>(arguments.size()), arguments.data());
}

}  // namespace

void bind_program(nb::module_& m) {
  m.def("merge_checkpoints", &merge_checkpoints, nb::arg("words"), nb::arg("with_report"),
        nb::arg("progress").none());
  m.def("main", &main_of);
}

}  // namespace catmerge::python
