// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <string>

namespace catmerge::harness {

/// The amount of messages on the standard error.
enum class verbosity {
  quiet,   ///< errors only
  normal,  ///< warnings; progress on a terminal
  verbose  ///< also every phase of long work, with its time
};

inline verbosity verbosity_of(bool quiet, bool verbose) {
  return quiet ? verbosity::quiet : verbose ? verbosity::verbose : verbosity::normal;
}

/// The largest size of this process in memory so far, in bytes.
inline std::uint64_t peak_memory() {
  struct rusage usage {};
  return ::getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<std::uint64_t>(usage.ru_maxrss) * 1024
                                               : 0;
}

/// The present size of this process in memory, in bytes; 0 if the system does not tell.
inline std::uint64_t memory_now() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t whole = 0, resident = 0;
  file >> whole >> resident;
  return file ? resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) : 0;
}

/// "0:07", "12:34", "1:02:03".
inline std::string clock_text(double seconds) {
  const long long whole = std::llround(seconds);
  char text[48];
  if (whole < 3600)
    std::snprintf(text, sizeof text, "%lld:%02lld", whole / 60, whole % 60);
  else
    std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60,
                  whole % 60);
  return text;
}

/// A function that sees all progress, of a phase so many steps done of so many, in the place of the
/// terminal: for a host such as the Python module. What it throws ends the work. One per thread.
using progress_observer =
    std::function<void(const std::string& phase, std::ptrdiff_t done, std::ptrdiff_t total)>;
inline thread_local progress_observer observed_by;

/// Progress of long work. On a terminal: one line, overwritten, with the phase, the steps done, the
/// time left and the memory in use. If verbose: a line per phase. Otherwise nothing.
class progress {
 public:
  explicit progress(verbosity how = verbosity::normal)
      : on_terminal_(how != verbosity::quiet && ::isatty(STDERR_FILENO) == 1),
        logs_phases_(how == verbosity::verbose) {}
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;
  ~progress() { clear(); }

  /// Shows `done` of `total` steps of a phase. A new name begins a new phase.
  void show(const std::string& phase, std::ptrdiff_t done, std::ptrdiff_t total) {
    if (observed_by) return observed_by(phase, done, total);
    if (!on_terminal_ && !logs_phases_) return;
    const auto now = clock::now();
    if (phase != phase_) {
      end_phase();
      phase_ = phase;
      began_ = now;
      drawn_ = {};
    }
    steps_ = done;
    if (!on_terminal_ || now - drawn_ < std::chrono::milliseconds(100)) return;
    drawn_ = now;
    const double spent = seconds(began_, now);
    std::string line = phase + ' ' + std::to_string(done) + '/' + std::to_string(total);
    // The time left is shown once it can be estimated.
    if (done > 0 && done < total && spent > 1)
      line += ", " +
              clock_text(spent * static_cast<double>(total - done) / static_cast<double>(done)) +
              " left";
    if (const auto memory = memory_now(); memory > 0)
      line += ", " + std::to_string(memory / 1000000) + " MB";
    std::cerr << "\r\x1b[K" << line << std::flush;
    dirty_ = true;
  }

  /// Ends the phase and erases the line.
  void clear() {
    end_phase();
    phase_.clear();
  }

 private:
  using clock = std::chrono::steady_clock;

  static double seconds(clock::time_point from, clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
  }

  void end_phase() {
    if (dirty_) std::cerr << "\r\x1b[K" << std::flush;
    dirty_ = false;
    if (logs_phases_ && !phase_.empty())
      std::cerr << "catmerge: " << phase_ << ": " << steps_ << " in "
                << clock_text(seconds(began_, clock::now())) << ", " << memory_now() / 1000000
                << " MB\n";
  }

  bool on_terminal_, logs_phases_, dirty_ = false;
  std::string phase_;
  std::ptrdiff_t steps_ = 0;
  clock::time_point began_, drawn_;
};

}  // namespace catmerge::harness
