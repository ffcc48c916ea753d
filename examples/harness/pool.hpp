// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <catmerge/tensor/host.hpp>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace catmerge::harness {

/// The program's one thread pool: an executor for the library and the networks. Tasks are handed
/// out in order; a run from inside a task is done by the thread that asks for it.
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
    }
    wake_.notify_all();
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
    std::exception_ptr failure{};
    std::mutex failure_mutex{};
  };

  void run(index_t count, const std::function<void(index_t)>& task) {
    if (inside_ || workers_.empty() || count <= 1) {
      for (index_t i = 0; i < count; ++i) task(i);
      return;
    }
    job current{count, &task};
    {
      const std::lock_guard lock(mutex_);
      job_ = &current;
      ++generation_;
      busy_ = workers_.size();
    }
    wake_.notify_all();
    take_tasks(current);
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return busy_ == 0; });
    job_ = nullptr;
    if (current.failure) std::rethrow_exception(current.failure);
  }

  void work() {
    std::uint64_t seen = 0;
    while (true) {
      job* current = nullptr;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return closing_ || generation_ != seen; });
        if (closing_) return;
        seen = generation_;
        current = job_;
      }
      take_tasks(*current);
      const std::lock_guard lock(mutex_);
      if (--busy_ == 0) idle_.notify_one();
    }
  }

  static void take_tasks(job& current) {
    inside_ = true;
    for (index_t i; (i = current.next.fetch_add(1)) < current.count;) {
      try {
        (*current.task)(i);
      } catch (...) {
        const std::lock_guard lock(current.failure_mutex);
        if (!current.failure) current.failure = std::current_exception();
        current.next = current.count;
      }
    }
    inside_ = false;
  }

  inline static thread_local bool inside_ = false;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  job* job_ = nullptr;
  std::uint64_t generation_ = 0;
  std::size_t busy_ = 0;
  bool closing_ = false;
};

}  // namespace catmerge::harness
