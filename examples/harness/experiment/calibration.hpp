// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>
#include <harness/features/input_statistics.hpp>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

/// The choice of a method's samples, and their statistics in every layer.
namespace catmerge::harness {

/// A permutation of 0 ... n - 1 that follows from the seed, on every machine; seed 0 is the
/// identity.
inline std::vector<index_t> permutation(index_t n, std::uint64_t seed) {
  std::vector<index_t> list(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i) list[static_cast<std::size_t>(i)] = i;
  if (seed == 0) return list;
  std::mt19937_64 bits(seed);
  for (std::size_t i = list.size(); i > 1; --i) std::swap(list[i - 1], list[bits() % i]);
  return list;
}

/// `count` of n samples, drawn by the seed; all if there are fewer. Seed 0 takes the first.
inline std::vector<index_t> drawn_samples(index_t n, index_t count, std::uint64_t seed) {
  auto list = permutation(n, seed);
  list.resize(static_cast<std::size_t>(std::min(n, count)));
  return list;
}

/// `count` samples of `class_count` classes, as evenly as possible. Classes with enough samples are
/// drawn first; if they are too few, the classes with the most samples follow.
inline std::vector<index_t> samples_of_classes(const std::vector<std::int64_t>& labels,
                                               index_t count, index_t class_count,
                                               std::uint64_t seed) {
  const auto order = permutation(std::ssize(labels), seed);
  std::map<std::int64_t, std::vector<index_t>> by_class;
  for (const index_t i : order) by_class[labels[static_cast<std::size_t>(i)]].push_back(i);
  const auto each = static_cast<std::size_t>((count + class_count - 1) / class_count);
  std::vector<std::pair<std::size_t, std::vector<index_t>>> classes;
  for (const index_t i : order) {  // in the order in which they are drawn
    const auto found = by_class.find(labels[static_cast<std::size_t>(i)]);
    if (found == by_class.end()) continue;
    classes.emplace_back(std::min(each, found->second.size()), std::move(found->second));
    by_class.erase(found);
  }
  std::stable_sort(classes.begin(), classes.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  classes.resize(std::min(classes.size(), static_cast<std::size_t>(class_count)));
  std::vector<index_t> chosen;
  for (std::size_t round = 0; round < each; ++round)
    for (const auto& [enough, members] : classes)
      if (round < members.size() && std::ssize(chosen) < count) chosen.push_back(members[round]);
  return chosen;
}

/// Samples per task, one state per sample, before the first block.
using task_inputs = std::vector<std::vector<activations>>;

/// Chosen samples of a file.
inline std::vector<activations> load_samples(const sample_reader& file,
                                             const std::vector<index_t>& chosen) {
  std::vector<activations> samples;
  for (const index_t i : chosen) samples.push_back(file.load(i, 1));
  return samples;
}

/// Statistics of the inputs of all layers of one expert.
using recorded_inputs = std::shared_ptr<const block_recorder>;

/// Runs samples through an expert and records the statistics of the parameters in `kinds`, which
/// must outlive the result.
inline recorded_inputs record_inputs(const network& net, const weight_source& expert,
                                     const std::vector<activations>& samples,
                                     const std::map<std::string, layer_kind>& kinds) {
  auto record = std::make_shared<block_recorder>(kinds);
  for (const auto& sample : samples) run_all(net, expert, sample, record.get());
  return record;
}

/// Recorded inputs, one per task of a set in its order, as merge_stream asks for statistics.
class recorded_statistics final : public merge_statistics {
 public:
  explicit recorded_statistics(std::vector<recorded_inputs> tasks) : tasks_(std::move(tasks)) {}

  std::optional<statistics_view<host>> get(index_t k, const parameter_info& p) override {
    return tasks_[static_cast<std::size_t>(k)]->find(p.name);
  }
  void release(const parameter_group&) override {}

 private:
  std::vector<recorded_inputs> tasks_;
};

}  // namespace catmerge::harness
