// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/fail.hpp>
#include <catmerge/io/posix.hpp>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace catmerge::harness {

/// Arrays of floats in a temporary file, for what would fill the memory: merged networks. The file
/// has no name, so that it is gone with the process, however that ends. The system keeps in memory
/// what it has room for.
class scratch_file : public std::enable_shared_from_this<scratch_file> {
 public:
  /// Creates the file in the system's folder for temporary files, TMPDIR if it is set. Throws
  /// catmerge::error if it cannot.
  static std::shared_ptr<scratch_file> create() {
    return std::shared_ptr<scratch_file>(new scratch_file);
  }

  scratch_file(const scratch_file&) = delete;
  scratch_file& operator=(const scratch_file&) = delete;
  ~scratch_file() { ::close(file_); }

  /// An array. Its place is free for others when it is destroyed.
  class array {
   public:
    array(const array&) = delete;
    array& operator=(const array&) = delete;
    ~array() { in_->release(*this); }

    std::size_t size() const { return size_; }

    /// Copies the array's numbers from number `first` on. Safe beside other reads.
    void read(std::size_t first, std::span<float> to) const {
      in_->transfer(*this, first, to.size(), [&](int file, std::size_t done, ::off_t at) {
        const auto rest = std::as_writable_bytes(to).subspan(done);
        return ::pread(file, rest.data(), rest.size(), at);
      });
    }

    /// Overwrites the numbers from number `first` on. Throws catmerge::error if the disk is full.
    void write(std::size_t first, std::span<const float> from) {
      in_->transfer(*this, first, from.size(), [&](int file, std::size_t done, ::off_t at) {
        const auto rest = std::as_bytes(from).subspan(done);
        return ::pwrite(file, rest.data(), rest.size(), at);
      });
    }

   private:
    friend class scratch_file;
    array(std::shared_ptr<scratch_file> in, std::size_t begin, std::size_t size)
        : in_(std::move(in)), begin_(begin), size_(size) {}

    std::shared_ptr<scratch_file> in_;
    std::size_t begin_, size_;  ///< in numbers
  };

  /// An array of `size` numbers of no particular value.
  std::shared_ptr<array> make(std::size_t size) {
    const std::lock_guard lock(mutex_);
    auto& places = free_[size];
    std::size_t begin = end_;
    if (places.empty()) {
      end_ += size;
    } else {
      begin = places.back();
      places.pop_back();
    }
    return std::shared_ptr<array>(new array(shared_from_this(), begin, size));
  }

 private:
  scratch_file() : folder_(std::filesystem::temp_directory_path()) {
    std::string name = (folder_ / "catmerge-XXXXXX").string();
    file_ = ::mkstemp(name.data());
    if (file_ < 0)
      io::fail_system(folder_, "cannot make a temporary file here (TMPDIR names another folder)",
                      errno);
    ::unlink(name.c_str());
  }

  void release(const array& a) {
    const std::lock_guard lock(mutex_);
    free_[a.size_].push_back(a.begin_);
  }

  /// Calls call(file, bytes done, position) until all bytes are transferred.
  template <class Call>
  void transfer(const array& a, std::size_t first, std::size_t count, const Call& call) const {
    const std::size_t start = (a.begin_ + first) * sizeof(float), size = count * sizeof(float);
    for (std::size_t done = 0; done < size;) {
      const auto moved = call(file_, done, static_cast<::off_t>(start + done));
      if (moved < 0 && errno == EINTR) continue;
      if (moved <= 0)
        io::fail_system(folder_,
                        "cannot keep a merged network in a temporary file here (TMPDIR names "
                        "another folder)",
                        moved < 0 ? errno : EIO);
      done += static_cast<std::size_t>(moved);
    }
  }

  std::filesystem::path folder_;
  int file_ = -1;
  std::mutex mutex_;
  std::size_t end_ = 0;                                   // of the file, in numbers
  std::map<std::size_t, std::vector<std::size_t>> free_;  // places of arrays by their size
};

}  // namespace catmerge::harness
