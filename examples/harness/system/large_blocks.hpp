// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory_resource>
#include <mutex>
#include <new>
#include <vector>

namespace catmerge::harness {

/// The program's memory for matrices. It keeps freed large blocks for matrices of the same size:
/// one layer after another needs the same sizes. Each new page from the system is filled with zeros
/// and costs a fault, which took a tenth of CAT's time. At most `limit` bytes are kept, the newest.
class large_blocks final : public std::pmr::memory_resource {
 public:
  large_blocks() { kept_.reserve(limit / smallest + 1); }  // deallocate() never allocates
  ~large_blocks() override {
    for (const auto& [memory, bytes] : kept_) std::free(memory);
  }

 private:
  struct block {
    void* memory;
    std::size_t bytes;
  };
  static constexpr std::size_t smallest = std::size_t{1} << 21, limit = std::size_t{192} << 20;

  static std::size_t rounded_up(std::size_t bytes) {
    if (bytes > PTRDIFF_MAX - smallest) throw std::bad_alloc();
    return (bytes + smallest - 1) / smallest * smallest;
  }

  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    if (bytes < smallest || alignment > smallest)
      return std::pmr::new_delete_resource()->allocate(bytes, alignment);
    const std::size_t size = rounded_up(bytes);
    const std::lock_guard lock(mutex_);
    const auto found =
        std::find_if(kept_.rbegin(), kept_.rend(), [&](const block& b) { return b.bytes == size; });
    if (found != kept_.rend()) {
      void* const memory = found->memory;
      kept_.erase(std::next(found).base());
      total_ -= size;
      return memory;
    }
    void* memory = std::aligned_alloc(smallest, size);
    while (memory == nullptr && !kept_.empty()) {
      free_oldest();
      memory = std::aligned_alloc(smallest, size);
    }
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
  }

  void do_deallocate(void* memory, std::size_t bytes, std::size_t alignment) override {
    if (bytes < smallest || alignment > smallest)
      return std::pmr::new_delete_resource()->deallocate(memory, bytes, alignment);
    const std::lock_guard lock(mutex_);
    kept_.push_back({memory, rounded_up(bytes)});
    total_ += kept_.back().bytes;
    while (total_ > limit) free_oldest();
  }

  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }

  void free_oldest() {
    total_ -= kept_.front().bytes;
    std::free(kept_.front().memory);
    kept_.erase(kept_.begin());
  }

  std::mutex mutex_;
  std::vector<block> kept_;  // oldest first
  std::size_t total_ = 0;    // bytes of kept_
};

}  // namespace catmerge::harness
