// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <catmerge/error.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>

/// The frame of the fuzz targets. Each is one function, called with bytes that nobody trusts: it
/// parses them, checks that accepted input holds what the parser promises, and returns; the one
/// exception that may leave a parser is catmerge::error. libFuzzer calls it (CMake's CATMERGE_FUZZ,
/// with Clang), or replay.cpp, which runs the kept corpus as a test under any compiler.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fuzz {

/// Ends the program, with a sentence: the fuzzer keeps the input.
inline void require(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

inline std::span<const std::byte> bytes(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const std::byte*>(data), size};
}

/// Calls act(path) with a file in memory that holds the bytes.
template <class Act>
void with_file(const std::uint8_t* data, std::size_t size, const Act& act) {
  const int file = ::memfd_create("fuzz", MFD_CLOEXEC);
  require(file >= 0, "a file in memory");
  for (std::size_t at = 0; at < size;) {
    const auto written = ::pwrite(file, data + at, size - at, static_cast<off_t>(at));
    require(written > 0, "the file takes the bytes");
    at += static_cast<std::size_t>(written);
  }
  try {
    act(std::filesystem::path("/proc/self/fd/" + std::to_string(file)));
  } catch (const catmerge::error& problem) {
    require(*problem.what() != '\0', "an error has a message");
  }
  ::close(file);
}

}  // namespace fuzz
