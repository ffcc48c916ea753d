// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/json.hpp>
#include <catmerge/io/output_file.hpp>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace catmerge::io {

/// Any number of new files that are written at given offsets, in any order. Only some are open at a
/// time: the file unused for longest is flushed and closed to make room, and reopened when needed.
class output_files {
 public:
  /// A planned file.
  struct plan {
    std::filesystem::path path;      ///< must not exist
    std::filesystem::path reported;  ///< the name in messages
    std::string head;                ///< its first bytes
  };

  /// The limit of open files. A merge goes through its tensors almost in the order of the files, so
  /// it needs one or two at a time; systems allow 256 open files and more.
  static constexpr std::size_t most_open = 16;

  /// Creates no file before the first write.
  explicit output_files(std::vector<plan> plans) {
    files_.reserve(plans.size());
    for (plan& each : plans) files_.emplace_back(std::move(each));
  }

  /// The number of files.
  std::size_t size() const { return files_.size(); }

  /// As output_file::write_at, in file `number`. (More than most_open threads may write at once:
  /// then more files are open.)
  void write_at(std::size_t number, std::uint64_t offset, std::span<const std::byte> bytes,
                std::string_view tensor = {}) {
    const open_lock file(*this, number);
    file->write_at(offset, bytes, tensor);
  }

  /// Creates the files without a write, flushes all to the disk and closes them. Throws error if
  /// the system cannot.
  void close() {
    for (std::size_t i = 0; i < files_.size(); ++i) {
      if (!files_[i].is_made) open_lock(*this, i);
      close(files_[i]);
    }
  }

 private:
  struct slot {
    explicit slot(plan&& p) : planned(std::move(p)) {}
    plan planned;
    bool is_made = false;
    std::unique_ptr<output_file> open;
    int users = 0;                // threads that are writing to it
    std::uint64_t last_used = 0;  // a time of clock_
  };

  /// Keeps a file open during its lifetime.
  class open_lock {
   public:
    open_lock(output_files& all, std::size_t number) : all_(all), slot_(all.files_[number]) {
      const std::lock_guard lock(all_.mutex_);
      all_.open(slot_);
      ++slot_.users;
      slot_.last_used = ++all_.clock_;
    }
    open_lock(const open_lock&) = delete;
    open_lock& operator=(const open_lock&) = delete;
    ~open_lock() {
      const std::lock_guard lock(all_.mutex_);
      --slot_.users;
    }
    const output_file* operator->() const { return slot_.open.get(); }

   private:
    output_files& all_;
    slot& slot_;
  };

  void open(slot& wanted) {
    if (wanted.open != nullptr) return;
    if (open_count_ >= most_open) make_room();
    const auto how = wanted.is_made ? output_file::opening::again : output_file::opening::create;
    wanted.open = std::make_unique<output_file>(wanted.planned.path, wanted.planned.reported, how);
    ++open_count_;
    if (wanted.is_made) return;
    wanted.open->write_at(0, as_bytes(wanted.planned.head));
    wanted.planned.head = {};
    wanted.is_made = true;
  }

  /// Closes the file that has been unused for longest, if any is unused.
  void make_room() {
    slot* oldest = nullptr;
    for (slot& each : files_) {
      if (each.open == nullptr || each.users > 0) continue;
      if (oldest == nullptr || each.last_used < oldest->last_used) oldest = &each;
    }
    if (oldest != nullptr) close(*oldest);
  }

  void close(slot& done) {
    if (done.open == nullptr) return;
    done.open->close();
    done.open.reset();
    --open_count_;
  }

  std::mutex mutex_;
  std::vector<slot> files_;
  std::size_t open_count_ = 0;
  std::uint64_t clock_ = 0;
};

}  // namespace catmerge::io
