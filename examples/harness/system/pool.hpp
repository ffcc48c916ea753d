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

/// The number of threads that the machine runs at once: the default of --threads.
inline unsigned default_threads() {
  return std::max(1U, std::thread::hardware_concurrency());
}

/// The program's one thread pool: an executor for the library and the networks. Tasks start in
/// order. A task may run tasks of its own: idle threads help.
class pool {
 public:
  /// `threads` includes the caller's.
  explicit pool(unsigned threads) {
    for (unsigned i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  pool(const pool&) = delete;
  pool& operator=(const pool&) = delete;
  ~pool() {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
      notify();
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
    std::size_t helpers = 0;  // threads in it besides the caller's
    std::exception_ptr failure{};
  };

  void run(index_t count, const std::function<void(index_t)>& task) {
    if (workers_.empty() || count <= 1) {
      for (index_t i = 0; i < count; ++i) task(i);
      return;
    }
    job current{count, &task};
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(&current);
      notify();
    }
    run_tasks(current);
    std::unique_lock lock(mutex_);
    // Tasks that still run may have begun jobs of their own. This thread helps with jobs younger
    // than its own; an older one could keep it for long.
    while (current.helpers > 0) {
      const auto place = std::find(jobs_.begin(), jobs_.end(), &current);
      if (!help(lock, static_cast<std::size_t>(place - jobs_.begin()) + 1)) sleep(lock);
    }
    jobs_.erase(std::find(jobs_.begin(), jobs_.end(), &current));
    lock.unlock();
    if (current.failure) std::rethrow_exception(current.failure);
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (!closing_)
      if (!help(lock, 0)) sleep(lock);
  }

  /// Runs tasks of the oldest unfinished job from place `first` on. False if there is none.
  bool help(std::unique_lock<std::mutex>& lock, std::size_t first) {
    for (std::size_t i = first; i < jobs_.size(); ++i) {
      job& other = *jobs_[i];
      if (other.next.load() >= other.count) continue;
      ++other.helpers;
      lock.unlock();
      run_tasks(other);
      lock.lock();
      if (--other.helpers == 0) notify();
      return true;
    }
    return false;
  }

  /// Waits for a notification, first by spinning: waking from sleep takes long.
  void sleep(std::unique_lock<std::mutex>& lock) {
    const std::uint64_t before = notifications_;
    lock.unlock();
    for (int i = 0; i < 100 && notifications_ == before; ++i) std::this_thread::yield();
    lock.lock();
    ++sleepers_;
    change_.wait(lock, [&] { return notifications_ != before; });
    --sleepers_;
  }

  void notify() {
    ++notifications_;
    if (sleepers_ > 0) change_.notify_all();
  }

  void run_tasks(job& current) {
    for (index_t i; (i = current.next.fetch_add(1)) < current.count;) {
      try {
        (*current.task)(i);
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!current.failure) current.failure = std::current_exception();
        current.next = current.count;
      }
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable change_;  // of jobs_, of a job's helpers, of closing_
  std::vector<job*> jobs_;          // oldest first
  std::atomic<std::uint64_t> notifications_{0};
  std::size_t sleepers_ = 0;
  bool closing_ = false;
};

}  // namespace catmerge::harness
