// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <catmerge/io/tensor_entry.hpp>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Helpers of the tests of files.
namespace io_test {

namespace io = catmerge::io;
namespace fs = std::filesystem;

/// A folder of its own, removed at the end.
class temporary_folder {
 public:
  temporary_folder() {
    std::string pattern = (fs::temp_directory_path() / "catmerge-test-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  temporary_folder(const temporary_folder&) = delete;
  temporary_folder& operator=(const temporary_folder&) = delete;
  ~temporary_folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  fs::path operator/(const std::string& name) const { return path_ / name; }
  const fs::path& path() const { return path_; }

  /// The names inside, sorted: shows that nothing is left behind.
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& entry : fs::directory_iterator(path_)) {
      result.push_back(entry.path().filename().string());
    }
    std::sort(result.begin(), result.end());
    return result;
  }

 private:
  fs::path path_;
};

inline fs::path put(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

inline std::string get(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// `count` bytes of `value`, little-endian.
inline std::string little_endian(std::uint64_t value, int count) {
  std::string bytes;
  for (int i = 0; i < count; ++i) bytes += static_cast<char>(value >> 8 * i & 0xff);
  return bytes;
}

/// A safetensors file made by hand.
inline std::string safetensors_bytes(const std::string& header, const std::string& values) {
  return little_endian(header.size(), 8) + header + values;
}

/// A .npy file made by hand.
inline std::string npy_bytes(const std::string& header, const std::string& values, int major = 1) {
  return "\x93NUMPY" + little_endian(static_cast<std::uint64_t>(major), 2) +
         little_endian(header.size(), major == 1 ? 2 : 4) + header + values;
}

inline std::string random_bytes(std::mt19937& random, std::size_t count) {
  std::string bytes(count, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

/// Up to three extents below 5, and one more where elements are smaller than bytes: four of them
/// fill bytes whatever they are.
inline io::shape_t random_shape(std::mt19937& random, io::dtype type) {
  io::shape_t shape;
  for (auto rank = random() % 4; rank-- > 0;) shape.push_back(random() % 5);
  if (io::bits_of(type) < 8) shape.push_back(4);
  return shape;
}

/// A copy of `good` with one to three bytes changed, left out or put in, or its end cut off.
inline std::string mutated(std::mt19937& random, std::string good, std::string_view letters) {
  for (auto count = 1 + random() % 3; count-- > 0 && !good.empty();) {
    const std::size_t at = random() % good.size();
    const char c = random() % 4 ? letters[random() % letters.size()] : static_cast<char>(random());
    switch (random() % 8) {
      case 0: good.erase(at, 1); break;
      case 1: good.insert(at, 1, c); break;
      case 2: good.resize(at); break;
      default: good[at] = c;
    }
  }
  return good;
}

// ---------------------------------------------------------------- pages

inline std::size_t page_size() {
  return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

/// Asks the system to forget a file's pages, which one that keeps files in memory will not do.
/// Precondition: it is on the disk (our writers see to that) and no page of it is mapped.
inline void evict(const fs::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  REQUIRE(file >= 0);
  REQUIRE(::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0);
  ::close(file);
}

/// The share of the whole pages inside mapped bytes that the system has in its cache.
inline double share_cached(std::span<const std::byte> bytes) {
  const std::size_t page = page_size();
  const auto from = (reinterpret_cast<std::uintptr_t>(bytes.data()) + page - 1) / page * page;
  std::vector<unsigned char> pages(bytes.size() / page - 1);
  REQUIRE(::mincore(reinterpret_cast<void*>(from), pages.size() * page, pages.data()) == 0);
  const auto count = std::count_if(pages.begin(), pages.end(), [](auto p) { return p & 1; });
  return static_cast<double>(count) / static_cast<double>(pages.size());
}

/// The memory of this program, mapped pages included.
inline std::size_t resident_bytes() {
  std::size_t pages = 0, all = 0;
  std::ifstream("/proc/self/statm") >> all >> pages;
  return pages * page_size();
}

/// The message of the catmerge::error that `action` throws; "" if it throws none.
template <class Action>
std::string message_of(Action&& action) {
  try {
    action();
  } catch (const catmerge::error& problem) {
    return problem.what();
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace io_test

#define CHECK_CONTAINS(text, part) CHECK_MESSAGE(io_test::contains(text, part), "found: ", text)
