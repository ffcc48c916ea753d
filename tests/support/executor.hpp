// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <catmerge/tensor/host/host.hpp>
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

namespace test {

/// An executor that runs tasks on `threads` threads, in an order that is shuffled anew each call.
/// `calls`, if given, counts the calls that had more than one task: a test that nothing ran in
/// parallel would prove nothing.
inline catmerge::executor scrambled(int threads, std::atomic<int>* calls = nullptr) {
  struct shuffler {
    std::mt19937 engine;
    std::mutex guard;  // executors may be called from inside a task
  };
  auto shared = std::make_shared<shuffler>();
  shared->engine.seed(static_cast<unsigned>(threads));
  return [=](catmerge::index_t count, const std::function<void(catmerge::index_t)>& task) {
    if (calls != nullptr && count > 1) ++*calls;
    std::vector<catmerge::index_t> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), catmerge::index_t{0});
    {
      const std::lock_guard<std::mutex> lock(shared->guard);
      std::shuffle(order.begin(), order.end(), shared->engine);
    }
    std::atomic<std::size_t> next{0};
    std::exception_ptr failure;
    std::mutex guard;
    const auto work = [&] {
      for (std::size_t i = next++; i < order.size(); i = next++) {
        try {
          task(order[i]);
        } catch (...) {
          const std::lock_guard<std::mutex> lock(guard);
          if (!failure) failure = std::current_exception();
        }
      }
    };
    std::vector<std::thread> pool;
    for (int t = 1; t < threads; ++t) pool.emplace_back(work);
    work();
    for (auto& thread : pool) thread.join();
    if (failure) std::rethrow_exception(failure);
  };
}

}  // namespace test
