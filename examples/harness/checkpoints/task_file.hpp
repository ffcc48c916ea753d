// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <string>

namespace catmerge::harness {

/// A name and a file: "dtd=experts/dtd.safetensors".
struct task_file {
  std::string task;
  std::string path;
};

}  // namespace catmerge::harness
