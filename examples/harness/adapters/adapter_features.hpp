// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/features/statistics_view.hpp>
#include <catmerge/io/statistics.hpp>
#include <harness/adapters/adapter_set.hpp>
#include <harness/checkpoints/tensor_windows.hpp>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// Files of features for the weights of adapters, one per task, or none.
class adapter_features {
 public:
  /// Throws, naming the file and the tensor, for statistics that do not fit their weight, and for a
  /// file that has none for any weight: its names are probably those of another network. Both
  /// arguments must outlive the object.
  adapter_features(const std::vector<task_file>& files, const adapter_set& set) : set_(set) {
    if (files.empty()) return;
    for (const auto& task : set.tasks())
      for (const auto& file : files)
        if (file.task == task) files_.emplace_back(file.path);
    for (const auto& file : files_) check(file);
  }

  /// The statistics of all tasks, valid until release; none if a task has none.
  std::vector<statistics_view<host>> of(const adapter_weight& weight) {
    std::vector<statistics_view<host>> all;
    for (std::size_t k = 0; k < files_.size(); ++k) {
      const auto* const entry = files_[k].find(weight.name);
      if (entry == nullptr) return {};
      all.push_back(
          {entry->form, windows_.of(*entry->data), static_cast<double>(entry->row_count)});
      if (!context<host>().all_finite(all.back().data))
        io::fail(files_[k].path(), entry->data->name,
                 "the features of '" + set_.tasks()[k] + "' hold a value that is not finite");
    }
    return all;
  }

  void release(const adapter_weight& weight) {
    windows_.clear();
    for (const auto& file : files_) file.release(weight.name);
  }

 private:
  void check(const io::statistics_file& file) const {
    bool any = false;
    for (const auto& weight : set_.weights()) {
      const auto* const entry = file.find(weight.name);
      if (entry == nullptr) continue;
      any = true;
      if (weight.plan.layer == io::adapter_layer::embedding) continue;
      const io::adapter_target& target = weight.first();
      const std::string mismatch = " for '" + weight.name + "', " + io::describe(*target.a) +
                                   " in the adapter, found " + io::describe(*entry->data);
      if (entry->form == io::statistics_form::second_moment)
        io::fail(file.path(), entry->data->name,
                 "expected rows, a factor or a Gram matrix" + mismatch);
      if (entry->data->shape[1] != target.d_in)
        io::fail(file.path(), entry->data->name,
                 "expected rows of " + std::to_string(target.d_in) + " entries" + mismatch);
    }
    if (any) return;
    io::fail(file.path(),
             "has statistics of no weight of the adapters: it has '" +
                 (file.names().empty() ? std::string() : file.names().front()) +
                 "', and the adapters change '" + set_.weights().front().name +
                 "' (if their names only begin in another way, --base NETWORK finds the "
                 "parameters by the names of the network)");
  }

  const adapter_set& set_;
  std::vector<io::statistics_file> files_;
  windows windows_;
};

}  // namespace catmerge::harness
