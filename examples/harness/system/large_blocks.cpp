// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// The program's memory for large matrices. The library allocates them with operator new at the
// alignment of large pages. Freed blocks are kept for matrices of the same size, since successive
// layers have equally many. (The system hands out pages filled with zeros, one fault each: that
// took a tenth of CAT's time.) At most `limit` bytes are kept, the newest.

#include <algorithm>
#include <catmerge/tensor/host/strided_view.hpp>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace {

constexpr std::size_t large_page = catmerge::detail::large_page;

class large_blocks {
 public:
  large_blocks() { kept_.reserve(limit / large_page + 1); }  // release() never allocates

  /// Null if there is no memory.
  void* allocate(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto found =
        std::find_if(kept_.rbegin(), kept_.rend(), [&](void* p) { return sizes_.at(p) == bytes; });
    if (found != kept_.rend()) {
      void* const block = *found;
      kept_.erase(std::next(found).base());
      total_ -= bytes;
      return block;
    }
    void* block = std::aligned_alloc(large_page, bytes);
    while (block == nullptr && !kept_.empty()) {
      drop_oldest();
      block = std::aligned_alloc(large_page, bytes);
    }
    if (block != nullptr) sizes_[block] = bytes;
    return block;
  }

  void release(void* block) {
    const std::lock_guard lock(mutex_);
    kept_.push_back(block);
    total_ += sizes_.at(block);
    while (total_ > limit) drop_oldest();
  }

 private:
  static constexpr std::size_t limit = std::size_t{192} << 20;

  void drop_oldest() {
    void* const block = kept_.front();
    kept_.erase(kept_.begin());
    total_ -= sizes_.at(block);
    sizes_.erase(block);
    std::free(block);
  }

  std::mutex mutex_;
  std::map<void*, std::size_t> sizes_;  // of all blocks, in use or kept
  std::vector<void*> kept_;             // oldest first
  std::size_t total_ = 0;               // bytes of kept_
};

large_blocks& blocks() {
  static auto& all = *new large_blocks;  // never destroyed: matrices may outlive statics
  return all;
}

std::size_t rounded_up(std::size_t bytes, std::size_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

void* operator new(std::size_t bytes, std::align_val_t alignment) {
  const auto boundary = static_cast<std::size_t>(alignment);
  if (bytes > PTRDIFF_MAX - boundary) throw std::bad_alloc();
  const std::size_t size = rounded_up(std::max<std::size_t>(bytes, 1), boundary);
  void* const block =
      boundary == large_page ? blocks().allocate(size) : std::aligned_alloc(boundary, size);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

void operator delete(void* block, std::align_val_t alignment) noexcept {
  if (block == nullptr) return;
  if (static_cast<std::size_t>(alignment) == large_page)
    blocks().release(block);
  else
    std::free(block);
}

void operator delete(void* block, std::size_t, std::align_val_t alignment) noexcept {
  operator delete(block, alignment);
}
