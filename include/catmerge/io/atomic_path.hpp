// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <sys/stat.h>

#include <catmerge/io/output_file.hpp>
#include <cstdio>
#include <filesystem>
#include <random>
#include <string>
#include <system_error>

/// @file
/// Files and folders that appear whole or not at all: they are built beside their target under the
/// name `TARGET.partial-XXXXXXXX`, and renamed. What is not committed is removed; after a kill the
/// partial one may be left, the target is untouched.
namespace catmerge::io {

namespace detail {
/// `TARGET.partial-XXXXXXXX`: in the same folder, hence on the same file system. The random digits
/// keep two writers apart; they never reach the contents.
inline std::filesystem::path partial_path(const std::filesystem::path& target) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::random_device random;
  std::string suffix = ".partial-";
  for (int i = 0; i < 8; ++i) suffix += digits[random() % 16];
  return target.string() + suffix;
}

/// Makes a rename in `folder` survive a power failure, where the system can.
inline void sync_folder(const std::filesystem::path& folder) {
  const int descriptor =
      ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

/// Renames, and syncs the folder that the names stand in.
inline void rename_into_place(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) {
    fail_system(to, "cannot rename the finished " + from.string(), errno);
  }
  sync_folder(to.parent_path());
}
}  // namespace detail

/// A file that replaces its target when it is committed.
class atomic_file {
 public:
  /// Throws error if the folder cannot be written or if the target is a folder.
  explicit atomic_file(std::filesystem::path target)
      : target_(checked(std::move(target))),
        partial_(detail::partial_path(target_)),
        file_(partial_, target_) {}

  atomic_file(const atomic_file&) = delete;
  atomic_file& operator=(const atomic_file&) = delete;
  ~atomic_file() {
    if (!committed_) ::unlink(partial_.c_str());
  }

  /// The target, as it was given.
  const std::filesystem::path& path() const { return target_; }

  /// As output_file::write_at: throws error where the system cannot write.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes,
                std::string_view tensor = {}) const {
    file_.write_at(offset, bytes, tensor);
  }

  /// The target now is this file. Throws error where the system cannot write or rename; the target
  /// is then what it was before.
  void commit() {
    file_.close();
    detail::rename_into_place(partial_, target_);
    committed_ = true;
  }

 private:
  static std::filesystem::path checked(std::filesystem::path target) {
    std::error_code ignored;
    if (target.filename().empty() || std::filesystem::is_directory(target, ignored)) {
      fail(target, "cannot write: expected the name of a file, found that of a folder");
    }
    return target;
  }

  std::filesystem::path target_;
  std::filesystem::path partial_;
  output_file file_;
  bool committed_ = false;
};

/// A folder that appears when it is committed. An existing target is refused.
class atomic_folder {
 public:
  /// Throws error if the target exists or the folder around it cannot be written.
  explicit atomic_folder(const std::filesystem::path& target)
      : target_(target.filename().empty() ? target.parent_path() : target),
        partial_(detail::partial_path(target_)) {
    refuse_existing();
    if (::mkdir(partial_.c_str(), 0777) != 0) fail_system(target_, "cannot create", errno);
  }

  atomic_folder(const atomic_folder&) = delete;
  atomic_folder& operator=(const atomic_folder&) = delete;
  ~atomic_folder() {
    if (committed_) return;
    std::error_code ignored;
    std::filesystem::remove_all(partial_, ignored);
  }

  /// The target, which does not exist yet.
  const std::filesystem::path& path() const { return target_; }
  /// Where to put the files meanwhile.
  const std::filesystem::path& partial() const { return partial_; }

  /// The target now is this folder. Precondition: the files in it are closed. Throws error if the
  /// target has appeared meanwhile, or where the system cannot rename.
  void commit() {
    refuse_existing();  // rename(2) would replace an empty folder
    detail::sync_folder(partial_);
    detail::rename_into_place(partial_, target_);
    committed_ = true;
  }

 private:
  void refuse_existing() const {
    std::error_code ignored;
    if (std::filesystem::exists(std::filesystem::symlink_status(target_, ignored))) {
      fail(target_, "exists already: remove it or choose another name");
    }
  }

  std::filesystem::path target_;
  std::filesystem::path partial_;
  bool committed_ = false;
};

}  // namespace catmerge::io
