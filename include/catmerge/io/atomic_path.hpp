// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/output_file.hpp>
#include <catmerge/io/posix.hpp>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <random>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

/// @file
/// Files and folders that appear whole or not at all. They are built beside their target under the
/// name `TARGET.partial-XXXXXXXX` and renamed. Without a commit they are removed; a kill may leave
/// the partial one and does not touch the target.
namespace catmerge::io {

/// The treatment of a target that exists.
enum class existing {
  refuse,  ///< an error, and the target stays
  replace  ///< the target stays whole until the new one takes its place
};

namespace detail {
/// True if anything has this name, even a link to nothing.
inline bool is_taken(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(std::filesystem::symlink_status(path, ignored));
}
}  // namespace detail

/// Throws error if anything has this name.
inline void require_free(const std::filesystem::path& target) {
  if (detail::is_taken(target)) fail(target, "exists already: remove it or choose another name");
}

namespace detail {
/// `TARGET.partial-XXXXXXXX`, in the same folder and so on the same file system. The random digits
/// keep two writers apart; they never reach the contents.
inline std::filesystem::path partial_path(const std::filesystem::path& target) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::random_device random;
  std::string suffix = ".partial-";
  for (int i = 0; i < 8; ++i) suffix += digits[random() % 16];
  return target.string() + suffix;
}

/// Makes a rename in `folder` survive a power failure, if the system can.
inline void sync_folder(const std::filesystem::path& folder) {
  const int descriptor =
      ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

[[noreturn]] inline void fail_rename(const std::filesystem::path& from,
                                     const std::filesystem::path& to) {
  fail_system(to, "cannot rename the finished " + from.string(), errno);
}

/// Calls `renameat2` with these flags. False if the system lacks it or the flags; throws error on
/// any other failure.
inline bool renamed_with_flags([[maybe_unused]] const std::filesystem::path& from,
                               [[maybe_unused]] const std::filesystem::path& to,
                               [[maybe_unused]] unsigned flags) {
#ifdef RENAME_NOREPLACE
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags) == 0) return true;
  if (errno == EEXIST) require_free(to);
  if (errno != EINVAL && errno != ENOSYS) fail_rename(from, to);
#endif
  return false;  // an old system, or a file system without it
}

#ifdef RENAME_NOREPLACE
constexpr unsigned no_replace = RENAME_NOREPLACE, exchange = RENAME_EXCHANGE;
#else
constexpr unsigned no_replace = 0, exchange = 0;
#endif

/// Renames `from` to `to`. Throws error if `to` has come into being meanwhile.
inline void rename_to_free(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (!renamed_with_flags(from, to, no_replace)) {
    require_free(to);  // rename(2) would replace a file or an empty folder
    if (std::rename(from.c_str(), to.c_str()) != 0) fail_rename(from, to);
  }
  sync_folder(to.parent_path());
}

/// Renames `from` to `to`, replacing a file of that name.
inline void rename_over_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) fail_rename(from, to);
  sync_folder(to.parent_path());
}

/// Exchanges the two names at once, if the system can. Elsewhere `to` is missing for a moment; a
/// kill at that moment leaves both folders under their partial names.
inline void exchange_folders(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (!renamed_with_flags(from, to, exchange)) {
    const std::filesystem::path aside = partial_path(to);
    if (std::rename(to.c_str(), aside.c_str()) != 0) fail_rename(from, to);
    if (std::rename(from.c_str(), to.c_str()) != 0) {
      const int code = errno;
      const bool back = std::rename(aside.c_str(), to.c_str()) == 0;
      fail_system(to,
                  "cannot rename the finished " + from.string() +
                      (back ? "" : "; what was there is now " + aside.string()),
                  code);
    }
    std::rename(aside.c_str(), from.c_str());  // on failure the old one stays aside
  }
  sync_folder(to.parent_path());
}
}  // namespace detail

/// The missing folders around an output. They are made at once and removed again unless kept; a
/// folder that has been filled meanwhile stays.
class missing_parents {
 public:
  /// Makes the folders. Throws error, naming `target`, if the system cannot.
  explicit missing_parents(const std::filesystem::path& target) {
    std::vector<std::filesystem::path> missing;  // innermost first
    for (auto folder = target.parent_path(); !folder.empty() && !detail::is_taken(folder);
         folder = folder.parent_path()) {
      // (The parent of a name that ends in a slash is the same name without it.)
      if (folder.has_filename()) missing.push_back(folder);
    }
    for (; !missing.empty(); missing.pop_back()) {
      if (::mkdir(missing.back().c_str(), 0777) == 0) {
        made_.push_back(missing.back());
      } else if (errno != EEXIST) {  // another program may have made it meanwhile
        const int code = errno;
        remove();
        fail_system(target, "cannot create its folder " + missing.back().string(), code);
      }
    }
  }
  missing_parents(const missing_parents&) = delete;
  missing_parents& operator=(const missing_parents&) = delete;
  ~missing_parents() { remove(); }

  /// Keeps the folders, also after a power failure.
  void keep() {
    for (const auto& folder : made_) detail::sync_folder(folder.parent_path());
    made_.clear();
  }

 private:
  void remove() {
    for (; !made_.empty(); made_.pop_back()) ::rmdir(made_.back().c_str());
  }

  std::vector<std::filesystem::path> made_;  // outermost first
};

/// A file that takes its target's place when it is committed. Missing folders around it are made,
/// and removed if there is no commit.
class atomic_file {
 public:
  /// Throws error if the folder cannot be made or written, if the target is a folder, or if it
  /// exists and `how` refuses that.
  explicit atomic_file(std::filesystem::path target, existing how = existing::replace)
      : target_(checked(std::move(target), how)),
        how_(how),
        parents_(target_),
        partial_(detail::partial_path(target_)),
        file_(partial_, target_) {}

  atomic_file(const atomic_file&) = delete;
  atomic_file& operator=(const atomic_file&) = delete;
  ~atomic_file() {
    if (!committed_) ::unlink(partial_.c_str());
  }

  /// The target, as given.
  const std::filesystem::path& path() const { return target_; }

  /// As output_file::write_at.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes,
                std::string_view tensor = {}) const {
    file_.write_at(offset, bytes, tensor);
  }

  /// Puts this file in the target's place. Throws error if the system cannot write or rename; the
  /// target is then unchanged.
  void commit() {
    file_.close();
    if (how_ == existing::replace)
      detail::rename_over_file(partial_, target_);
    else
      detail::rename_to_free(partial_, target_);
    committed_ = true;
    parents_.keep();
  }

 private:
  static std::filesystem::path checked(std::filesystem::path target, existing how) {
    if (how == existing::refuse) require_free(target);
    std::error_code ignored;
    if (target.filename().empty() || std::filesystem::is_directory(target, ignored)) {
      fail(target, "cannot write: expected the name of a file, found that of a folder");
    }
    return target;
  }

  std::filesystem::path target_;
  existing how_;
  missing_parents parents_;
  std::filesystem::path partial_;
  output_file file_;
  bool committed_ = false;
};

/// A folder that takes its target's place when it is committed. Missing folders around it are made,
/// and removed if there is no commit.
class atomic_folder {
 public:
  /// True if a file of the target, named relative to it, may be lost.
  using dispensable = std::function<bool(const std::filesystem::path& name)>;

  /// A target is replaced only if each file in it is dispensable or also in the new folder: a
  /// mistyped name must not cost a home directory. A link to a folder stays; the folder that it
  /// leads to is replaced. Throws error if the folder around the target cannot be made or written,
  /// if the target is no folder, or if it exists and `how` refuses that.
  explicit atomic_folder(const std::filesystem::path& target, existing how = existing::refuse,
                         dispensable may_go = {})
      : target_(resolved(target)),
        how_(how),
        may_go_(std::move(may_go)),
        parents_(target_),
        partial_(detail::partial_path(target_)) {
    if (how_ == existing::refuse) require_free(target_);
    std::error_code ignored;
    if (detail::is_taken(target_) && !std::filesystem::is_directory(target_, ignored)) {
      fail(target_, "cannot write: expected a folder, found something else of that name");
    }
    if (::mkdir(partial_.c_str(), 0777) != 0) fail_system(target_, "cannot create", errno);
  }

  atomic_folder(const atomic_folder&) = delete;
  atomic_folder& operator=(const atomic_folder&) = delete;
  ~atomic_folder() {
    if (!committed_) remove_partial();
  }

  /// The target, without a slash at its end.
  const std::filesystem::path& path() const { return target_; }
  /// The folder that holds the files until the commit.
  const std::filesystem::path& partial() const { return partial_; }

  /// Throws error, naming the file, if a file of the target would be lost. commit() checks this,
  /// too; an earlier check saves work.
  void check_replaceable() const {
    namespace fs = std::filesystem;
    std::error_code problem, ignored;
    if (how_ == existing::refuse || !fs::is_directory(target_, ignored)) return;
    for (fs::recursive_directory_iterator it(target_, problem), end; !problem && it != end;
         it.increment(problem)) {
      if (it->is_directory(ignored) && !it->is_symlink(ignored)) continue;
      const fs::path name = it->path().lexically_relative(target_);
      if (!(may_go_ && may_go_(name)) && !detail::is_taken(partial_ / name)) {
        fail(target_, "is not replaced: it holds " + in_quotes(name.string()) +
                          ", which the new one does not; remove the folder or choose another name");
      }
    }
    if (problem) fail(target_, "cannot list the folder: " + problem.message());
  }

  /// Puts this folder in the target's place and removes the replaced one. Precondition: the files
  /// in it are closed. Throws error if the system cannot rename, if files would be lost, or if
  /// something of that name has appeared meanwhile.
  void commit() {
    check_replaceable();
    detail::sync_folder(partial_);
    const bool replaces = how_ == existing::replace && detail::is_taken(target_);
    if (replaces)
      detail::exchange_folders(partial_, target_);
    else
      detail::rename_to_free(partial_, target_);
    committed_ = true;
    parents_.keep();
    if (replaces) remove_partial();
  }

 private:
  /// The target without a slash at its end; a link to a folder, and ".", is resolved.
  static std::filesystem::path resolved(const std::filesystem::path& target) {
    std::filesystem::path path = target.filename().empty() ? target.parent_path() : target;
    std::error_code ignored;
    const bool indirect = path.filename() == "." || path.filename() == ".." ||
                          std::filesystem::is_symlink(path, ignored);
    if (indirect && std::filesystem::is_directory(path, ignored)) {
      path = std::filesystem::canonical(path, ignored);
    }
    return path;
  }

  void remove_partial() const {
    std::error_code ignored;
    std::filesystem::remove_all(partial_, ignored);
  }

  std::filesystem::path target_;
  existing how_;
  dispensable may_go_;
  missing_parents parents_;
  std::filesystem::path partial_;
  bool committed_ = false;
};

}  // namespace catmerge::io
