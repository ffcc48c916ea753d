// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <catmerge/tensor/host/host.hpp>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace catmerge::harness {

/// As many threads as the machine runs at once: the default of --threads.
inline unsigned default_threads() {
  return std::max(1U, std::thread::hardware_concurrency());
}

/// The program's one thread pool: an executor for the library and the networks. Tasks are handed
/// out in order. A task may run tasks of its own: threads that have nothing else to do help.
class pool {
 public:
  /// `threads` in all, the caller's among them.
  explicit pool(unsigned threads) {
    for (unsigned i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  pool(const pool&) = delete;
  pool& operator=(const pool&) = delete;
  ~pool() {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
      tell();
    }
    for (auto& worker : workers_) worker.join();
  }

  executor runner() {
    return [this](index_t count, const std::function<void(index_t)>& task) { run(count, task); };
  }

 private:
  struct job {
    index_t count;
    const std::function<void(index_t)>* task;
    std::atomic<index_t> next{0};
    std::size_t helpers = 0;  // threads in it besides the one that asked
    std::exception_ptr failure{};
  };

  void run(index_t count, const std::function<void(index_t)>& task) {
    if (workers_.empty() || count <= 1) {
      for (index_t i = 0; i < count; ++i) task(i);
      return;
    }
    job mine{count, &task};
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(&mine);
      tell();
    }
    take_tasks(mine);
    std::unique_lock lock(mutex_);
    // Until the helpers are done there may be tasks of theirs to help with: jobs younger than this
    // one. (An older one could keep this thread for long.)
    while (mine.helpers > 0) {
      const auto place = std::find(jobs_.begin(), jobs_.end(), &mine);
      if (!help(lock, static_cast<std::size_t>(place - jobs_.begin()) + 1)) sleep(lock);
    }
    jobs_.erase(std::find(jobs_.begin(), jobs_.end(), &mine));
    lock.unlock();
    if (mine.failure) std::rethrow_exception(mine.failure);
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (!closing_)
      if (!help(lock, 0)) sleep(lock);
  }

  /// Takes tasks of the oldest job, from place `first` on, that has some left; false if none has.
  bool help(std::unique_lock<std::mutex>& lock, std::size_t first) {
    for (std::size_t i = first; i < jobs_.size(); ++i) {
      job& other = *jobs_[i];
      if (other.next.load() >= other.count) continue;
      ++other.helpers;
      lock.unlock();
      take_tasks(other);
      lock.lock();
      if (--other.helpers == 0) tell();
      return true;
    }
    return false;
  }

  /// Waits until somebody tells; at first without sleep, from which it takes long to wake.
  void sleep(std::unique_lock<std::mutex>& lock) {
    const std::uint64_t before = told_;
    lock.unlock();
    for (int i = 0; i < 100 && told_ == before; ++i) std::this_thread::yield();
    lock.lock();
    ++sleepers_;
    change_.wait(lock, [&] { return told_ != before; });
    --sleepers_;
  }

  void tell() {
    ++told_;
    if (sleepers_ > 0) change_.notify_all();
  }

  void take_tasks(job& from) {
    for (index_t i; (i = from.next.fetch_add(1)) < from.count;) {
      try {
        (*from.task)(i);
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!from.failure) from.failure = std::current_exception();
        from.next = from.count;
      }
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable change_;  // of jobs_, of a job's helpers, of closing_
  std::vector<job*> jobs_;          // oldest first
  std::atomic<std::uint64_t> told_{0};
  std::size_t sleepers_ = 0;
  bool closing_ = false;
};

}  // namespace catmerge::harness
