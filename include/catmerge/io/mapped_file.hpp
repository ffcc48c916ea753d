// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/fail.hpp>
#include <catmerge/io/posix.hpp>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <utility>

namespace catmerge::io {

/// A regular file, mapped read-only: its bytes without a copy. The system reads each page at its
/// first use. The address outlives moves of the object.
///
/// Precondition: nobody shortens the file while it is mapped (a read past its end is SIGBUS).
/// Replacing it by a rename, as our writers do, is harmless: the old contents stay mapped.
class mapped_file {
 public:
  /// Throws error if the file cannot be opened or mapped, or is not a regular file.
  explicit mapped_file(std::filesystem::path path) : path_(std::move(path)) {
    // O_NONBLOCK: opening a pipe must fail the test below, not wait for a writer.
    const int file = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) fail_system(path_, "cannot open", errno);
    struct closer {
      int descriptor;
      ~closer() { ::close(descriptor); }
    } const close_at_end{file};

    struct stat status {};
    if (::fstat(file, &status) != 0) fail_system(path_, "cannot read the file's size", errno);
    if (!S_ISREG(status.st_mode)) fail(path_, "is not a regular file");
    size_ = static_cast<std::size_t>(status.st_size);
    if (size_ == 0) return;  // mmap refuses empty mappings
    void* const address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    if (address == MAP_FAILED) fail_system(path_, "cannot map", errno);
    data_ = static_cast<std::byte*>(address);
  }

  /// Moves the mapping, which keeps its address; `other` has none afterwards.
  mapped_file(mapped_file&& other) noexcept
      : path_(std::move(other.path_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  /// Exchanges the two mappings.
  mapped_file& operator=(mapped_file&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~mapped_file() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }

  /// The path of the file, as given, for messages.
  const std::filesystem::path& path() const { return path_; }
  /// The whole file, empty or at the start of a page of memory.
  std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// Frees the memory of the whole pages inside `part` (a part of bytes()). The next use reads them
  /// again.
  void release(std::span<const std::byte> part) const {
    const std::size_t begin = round_up(offset_of(part));
    const std::size_t part_end = offset_of(part) + part.size();
    const std::size_t end = part_end == size_ ? size_ : round_down(part_end);
    if (begin < end) ::madvise(data_ + begin, end - begin, MADV_DONTNEED);
  }

  /// Asks the system to read `part` (a part of bytes()) ahead; returns at once.
  void prefetch(std::span<const std::byte> part) const {
    if (part.empty()) return;
    const std::size_t begin = round_down(offset_of(part));
    ::madvise(data_ + begin, offset_of(part) + part.size() - begin, MADV_WILLNEED);
  }

 private:
  std::size_t offset_of(std::span<const std::byte> part) const {
    return part.empty() ? 0 : static_cast<std::size_t>(part.data() - data_);
  }
  static std::size_t page_size() {
    static const auto size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    return size;
  }
  static std::size_t round_down(std::size_t offset) { return offset - offset % page_size(); }
  static std::size_t round_up(std::size_t offset) { return round_down(offset + page_size() - 1); }

  std::filesystem::path path_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace catmerge::io
