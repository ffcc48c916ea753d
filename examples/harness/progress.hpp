// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <unistd.h>

#include <iostream>
#include <string>

namespace catmerge::harness {

/// One line on the terminal that is written over; nothing where standard error is no terminal.
class progress {
 public:
  progress() : shown_(::isatty(STDERR_FILENO) == 1) {}
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;
  ~progress() { clear(); }

  void show(const std::string& what, std::ptrdiff_t done, std::ptrdiff_t total) {
    if (!shown_) return;
    std::cerr << "\r\x1b[K" << what << ' ' << done << '/' << total << std::flush;
    dirty_ = true;
  }

  void clear() {
    if (dirty_) std::cerr << "\r\x1b[K" << std::flush;
    dirty_ = false;
  }

 private:
  bool shown_;
  bool dirty_ = false;
};

}  // namespace catmerge::harness
