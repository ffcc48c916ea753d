// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <harness/merge/request.hpp>

/// The program's subcommands. Each add_... declares the options of one, fills a request with them,
/// and makes one call, which does not depend on the command line.
namespace catmerge::harness {

/// calls `run` with the request: run_merge (merge/run_merge.hpp) and a summary by default
void add_merge(CLI::App& program, std::function<void(const merge_request&)> run = {});
void add_features(CLI::App& program);    ///< calls record_features (features/record_features.hpp)
void add_evaluate(CLI::App& program);    ///< calls evaluate (experiment/evaluate.hpp)
void add_inspect(CLI::App& program);     ///< calls inspect (checkpoints/inspect.hpp)
void add_methods(CLI::App& program);     ///< calls list_methods (methods/list_methods.hpp)
void add_experiment(CLI::App& program);  ///< calls run_experiment (experiment/run_experiment.hpp)
void add_report(CLI::App& program);      ///< calls rewrite_report (report/rewrite_report.hpp)

}  // namespace catmerge::harness
