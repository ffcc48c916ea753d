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
#include <string>
#include <string_view>
#include <utility>

namespace catmerge::io {

/// A new file that is written at given offsets and closed with everything on the disk.
///
/// Errors of a full disk, a quota and a size limit name the file and the tensor. Under a size limit
/// (ulimit -f) the program must ignore SIGXFSZ, or the system ends it first: `std::signal(SIGXFSZ,
/// SIG_IGN)`.
class output_file {
 public:
  /// `create` makes a new file; `again` reopens a closed one to write on.
  enum class opening { create, again };

  /// Creates `path`, which must not exist, or opens it again. Messages name `reported`, the final
  /// name of a temporary file. Throws error if the system cannot.
  output_file(const std::filesystem::path& path, std::filesystem::path reported,
              opening how = opening::create)
      : reported_(std::move(reported)),
        descriptor_(::open(path.c_str(),
                           O_WRONLY | O_CLOEXEC | (how == opening::create ? O_CREAT | O_EXCL : 0),
                           0666)) {
    if (descriptor_ >= 0) return;
    fail_system(reported_, how == opening::create ? "cannot create" : "cannot open again", errno);
  }
  /// @overload
  explicit output_file(const std::filesystem::path& path) : output_file(path, path) {}

  output_file(const output_file&) = delete;
  output_file& operator=(const output_file&) = delete;
  ~output_file() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  /// Writes all bytes at `offset`. Threads may write disjoint ranges at the same time. Throws error
  /// if the system cannot; the message names `tensor`, if not empty.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes,
                std::string_view tensor = {}) const {
    while (!bytes.empty()) {
      const ssize_t written =
          ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) {
        const int code = written < 0 ? errno : EIO;
        const std::string action = (tensor.empty() ? "" : "tensor " + in_quotes(tensor) + ": ") +
                                   "cannot write " + std::to_string(bytes.size()) +
                                   " bytes at offset " + std::to_string(offset);
        fail_system(reported_, action, code);
      }
      bytes = bytes.subspan(static_cast<std::size_t>(written));
      offset += static_cast<std::uint64_t>(written);
    }
  }

  /// Flushes everything to the disk and closes the file. Throws error if the system cannot: some
  /// report a full disk only here.
  void close() {
    if (::fsync(descriptor_) != 0) fail_system(reported_, "cannot write to the disk", errno);
    if (::close(std::exchange(descriptor_, -1)) != 0) {
      fail_system(reported_, "cannot close", errno);
    }
  }

 private:
  std::filesystem::path reported_;
  int descriptor_;
};

}  // namespace catmerge::io
