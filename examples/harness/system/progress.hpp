// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>

namespace catmerge::harness {

/// How much is said on the standard error.
enum class verbosity {
  quiet,   ///< errors alone
  normal,  ///< warnings; progress on a terminal
  verbose  ///< and every phase of long work, with its time
};

inline verbosity verbosity_of(bool quiet, bool verbose) {
  return quiet ? verbosity::quiet : verbose ? verbosity::verbose : verbosity::normal;
}

/// The largest size that this process has had in memory, in bytes.
inline std::uint64_t peak_memory() {
  struct rusage usage {};
  return ::getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<std::uint64_t>(usage.ru_maxrss) * 1024
                                               : 0;
}

/// The size that it has in memory now, in bytes; 0 where the system does not say.
inline std::uint64_t memory_now() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t whole = 0, resident = 0;
  file >> whole >> resident;
  return file ? resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) : 0;
}

/// "0:07", "12:34", "1:02:03".
inline std::string clock_text(double seconds) {
  const auto whole = static_cast<long long>(seconds + 0.5);
  char text[48];
  if (whole < 3600)
    std::snprintf(text, sizeof text, "%lld:%02lld", whole / 60, whole % 60);
  else
    std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60,
                  whole % 60);
  return text;
}

/// What long work says of itself: on a terminal one line that is written over, with the phase, what
/// is done of it, the time left and the memory in use; a line per phase if verbose; else nothing.
class progress {
 public:
  explicit progress(verbosity how = verbosity::normal)
      : shown_(how != verbosity::quiet && ::isatty(STDERR_FILENO) == 1),
        told_(how == verbosity::verbose) {}
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;
  ~progress() { clear(); }

  /// `done` of `total` steps of a phase; the first call with another name begins it.
  void show(const std::string& phase, std::ptrdiff_t done, std::ptrdiff_t total) {
    if (!shown_ && !told_) return;
    const auto now = clock::now();
    if (phase != phase_) {
      end_phase();
      phase_ = phase;
      began_ = now;
      drawn_ = {};
    }
    steps_ = done;
    if (!shown_ || now - drawn_ < std::chrono::milliseconds(100)) return;
    drawn_ = now;
    const double spent = seconds(began_, now);
    std::string line = phase + ' ' + std::to_string(done) + '/' + std::to_string(total);
    // What is left is told once it can be guessed.
    if (done > 0 && done < total && spent > 1)
      line += ", " +
              clock_text(spent * static_cast<double>(total - done) / static_cast<double>(done)) +
              " left";
    if (const auto memory = memory_now(); memory > 0)
      line += ", " + std::to_string(memory / 1000000) + " MB";
    std::cerr << "\r\x1b[K" << line << std::flush;
    dirty_ = true;
  }

  /// Ends the phase; the line is gone.
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
    if (told_ && !phase_.empty())
      std::cerr << "catmerge: " << phase_ << ": " << steps_ << " in "
                << clock_text(seconds(began_, clock::now())) << ", " << memory_now() / 1000000
                << " MB\n";
  }

  bool shown_, told_, dirty_ = false;
  std::string phase_;
  std::ptrdiff_t steps_ = 0;
  clock::time_point began_, drawn_;
};

}  // namespace catmerge::harness
