// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/checkpoint.hpp>
#include <iostream>
#include <string>

namespace catmerge::harness {

/// Prints the warnings of a checkpoint on the standard error.
inline void print_warnings(const io::checkpoint& file) {
  for (const std::string& warning : file.warnings())
    std::cerr << "catmerge: warning: " << warning << '\n';
  for (const std::string& name : file.absent())
    std::cerr << "catmerge: warning: " << file.path().string() << ": tensor " << io::in_quotes(name)
              << ": the index lists it, but no shard has it\n";
}

}  // namespace catmerge::harness
