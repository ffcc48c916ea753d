// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <harness/commands/program.hpp>

int main(int argc, char** argv) {
  return catmerge::harness::run_program(argc, argv);
}
