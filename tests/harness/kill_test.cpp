// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <chrono>
#include <csignal>
#include <thread>

#include "support/harness/program.hpp"

// SIGKILL at random moments: every output is absent, or whole; one that is to be replaced is the
// old one, or the new one.

using namespace harness_test;

namespace {

using clock_type = std::chrono::steady_clock;

/// Starts the program, kills it after `delay`, and returns whether it had ended before.
bool killed_after(const arguments& line, std::chrono::microseconds delay) {
  std::string program = CATMERGE_PROGRAM;
  std::vector<std::string> words = line;
  std::vector<char*> argv{program.data()};
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  std::this_thread::sleep_for(delay);
  ::kill(child, SIGKILL);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  if (WIFEXITED(status)) REQUIRE(WEXITSTATUS(status) == 0);
  return WIFEXITED(status);
}

/// The bytes of a file, or of all files of a folder.
std::map<std::string, std::string> state_of(const fs::path& path) {
  if (fs::is_directory(path)) return contents(path);
  if (!fs::exists(path)) return {};
  // A report, whole, but for the time that its run took.
  auto report = nlohmann::json::parse(get(path));
  CHECK(report.erase("run") == 1);
  return {{"", report.dump()}};
}

/// A base that is a folder with a head, and experts with heads of their own.
struct networks {
  networks() {
    fs::create_directory(base);
    table t = clips().base();
    t.set("classifier", dtype::f32, {2}, {0, 0});
    t.write(base / "model.safetensors");
    put(base / "config.json", get(clips().config()));
    for (const auto& task : task_names) {
      table expert = clips().expert(task);
      expert.set("classifier", dtype::f32, {2}, {1, 2});
      line = line + arguments{"--expert", task + "=" + expert.write(clips().fresh()).string()};
    }
    line = line + clips().with_features() + arguments{"--task-heads", "classifier"};
  }
  fs::path base = clips().fresh("base");
  arguments line = {"merge",       "--method",         "cat", "--base",
                    base.string(), "--max-shard-size", "10KB"};
};

void remove_partial_ones(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder))
    if (contains(entry.path().filename().string(), ".partial-")) fs::remove_all(entry.path());
}

}  // namespace

TEST_CASE("after a kill every output is absent or whole, the old one or the new one") {
  const networks inputs;
  const temporary_folder folder;
  const std::vector<fs::path> outputs = {folder / "merged", folder / "heads",
                                         folder / "report.json"};
  const auto line = [&](const std::string& alpha) {
    return inputs.line + arguments{"--alpha",        alpha,      "--output", outputs[0],
                                   "--heads-output", outputs[1], "--report", outputs[2]};
  };
  const auto states = [&] {
    std::vector<std::map<std::string, std::string>> all;
    for (const auto& path : outputs) all.push_back(state_of(path));
    return all;
  };
  const auto began = clock_type::now();
  run_well(line("0.4"));
  const auto needed =
      std::chrono::duration_cast<std::chrono::microseconds>(clock_type::now() - began);
  const auto first = states();
  run_well(line("0.2") + arguments{"--overwrite"});
  const auto second = states();
  REQUIRE(first[0] != second[0]);
  REQUIRE(first[2] != second[2]);
  CHECK(first[0].size() > 5);  // several shards, their index, config.json

  std::mt19937 random(7);
  const auto moment = [&] {
    return std::chrono::microseconds(static_cast<std::int64_t>(random() % 1000) * needed.count() *
                                     11 / 10000);
  };
  // Of the rounds: how often something was missing, the program had ended, and something unfinished
  // lay about.
  int absent = 0, ended = 0, unfinished = 0;
  const auto count_unfinished = [&] {
    const auto names = folder.names();
    unfinished += std::any_of(names.begin(), names.end(),
                              [](const auto& name) { return contains(name, ".partial-"); })
                      ? 1
                      : 0;
  };
  SUBCASE("where there was nothing") {
    for (int round = 0; round < 60; ++round) {
      for (const auto& path : outputs) fs::remove_all(path);
      ended += killed_after(line("0.4"), moment()) ? 1 : 0;
      const auto found = states();
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        CAPTURE(outputs[i]);
        CHECK((found[i].empty() || found[i] == first[i]));
        absent += found[i].empty() ? 1 : 0;
      }
      count_unfinished();
      remove_partial_ones(folder.path());
    }
    CHECK(absent > 0);
  }
  SUBCASE("where something is replaced") {
    for (int round = 0; round < 60; ++round) {
      const bool back = round % 2 == 0;
      ended +=
          killed_after(line(back ? "0.4" : "0.2") + arguments{"--overwrite"}, moment()) ? 1 : 0;
      const auto found = states();
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        CAPTURE(outputs[i]);
        CHECK((found[i] == second[i] || found[i] == first[i]));
      }
      count_unfinished();
      remove_partial_ones(folder.path());
    }
  }
  CHECK(ended < 60);
  CHECK(unfinished > 5);  // kills fell into the writing
  MESSAGE(unfinished << " kills left something unfinished, " << ended << " came too late");
}
