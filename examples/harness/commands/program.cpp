// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#if __has_include(<malloc.h>)
#include <malloc.h>
#endif

#include <csignal>
#include <exception>
#include <harness/commands/commands.hpp>
#include <harness/commands/program.hpp>
#include <harness/report/report_files.hpp>
#include <harness/system/large_blocks.hpp>
#include <harness/system/option_error.hpp>
#include <iostream>
#include <string>

namespace catmerge::harness {

int run_program(int argc, const char* const* argv) {
#ifdef M_MMAP_THRESHOLD
  // Freed large memory goes back to the system, except the blocks in large_blocks. By default glibc
  // soon keeps blocks below 32 MiB, in pieces that do not fit the next size: Task Arithmetic on
  // eight ViT-B/32 peaked at 510 MB, and at 134 MB with this setting. Smaller blocks are always
  // kept: fresh pages for the buffers of every product took a third of CAT's time.
  ::mallopt(M_MMAP_THRESHOLD, 1 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
  static large_blocks blocks;
  std::pmr::set_default_resource(&blocks);
  // A file size limit is an error like a full disk, not the end of the program.
  std::signal(SIGXFSZ, SIG_IGN);
  CLI::App program(
      "Merges fine-tuned networks without training: CAT Merging, and the other methods beside it.",
      "catmerge");
  program.set_version_flag("--version", std::string("catmerge ") + version_text);
  program.require_subcommand(1);
  program.get_formatter()->column_width(34);
  add_merge(program);
  add_features(program);
  add_evaluate(program);
  add_inspect(program);
  add_methods(program);
  add_experiment(program);
  add_report(program);
  program.footer(
      "P stands for a safetensors file, a folder of .npy files (one per parameter) or a Hugging "
      "Face\n"
      "folder. `catmerge COMMAND --help` tells more.\n"
      "Exit status: 0 done, 1 an error (nothing is half written), 2 a wrong command line.");
  try {
    program.parse(argc, argv);
  } catch (const CLI::RequiredError& problem) {
    // "A subcommand is required" does not help after a mistyped subcommand.
    const auto unknown = program.remaining();
    if (unknown.empty()) return program.exit(problem), 2;
    return program.exit(CLI::ExtrasError("catmerge", unknown)), 2;
  } catch (const CLI::ParseError& problem) {
    return program.exit(problem) == 0 ? 0 : 2;
  } catch (const option_error& problem) {
    return program.exit(CLI::ValidationError(problem.option(), problem.reason())), 2;
  } catch (const std::exception& problem) {
    std::cerr << "catmerge: " << problem.what() << '\n';
    return 1;
  }
  if (std::cout.flush()) return 0;
  std::cerr << "catmerge: cannot write to the standard output\n";
  return 1;
}

}  // namespace catmerge::harness
