// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

namespace catmerge::harness {

/// The whole program: reads the command line and runs its command. Returns the exit status. For a
/// process of its own: it sets how the process allocates memory and takes SIGXFSZ.
int run_program(int argc, const char* const* argv);

}  // namespace catmerge::harness
