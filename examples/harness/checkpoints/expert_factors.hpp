// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/adapter_difference.hpp>
#include <catmerge/io/adapter_placement.hpp>
#include <catmerge/io/checkpoint.hpp>
#include <catmerge/model/name_rules.hpp>
#include <filesystem>
#include <harness/checkpoints/checkpoint_rules.hpp>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// The factors of an expert that is a PEFT adapter over its base. A checkpoint has none.
///
/// The tensors of such an expert are those of the base, and in their places those that the adapter
/// holds whole. The product of the factors, s B A, is added where values are read: rows at a time,
/// and in double, so that the difference from the base keeps the digits that a sum in the base's
/// type would lose.
class expert_factors {
 public:
  expert_factors() = default;  ///< of a checkpoint

  /// Of the adapter at `path`. Lays the tensors that it holds whole over `tensors`, the base opened
  /// once more. Throws catmerge::error for an adapter that is refused (adapter_folder.hpp), and for
  /// one that does not fit the base. `rules` tell how square weights are stored.
  expert_factors(const std::filesystem::path& path, io::checkpoint& tensors,
                 const model::name_rules& rules)
      : adapter_(std::make_unique<io::adapter>(path)) {
    placed_ = io::target_in(tensors, *adapter_, layout_by(rules));
    std::vector<io::checkpoint::laid_over> whole;
    for (const auto& tensor : placed_.replaced)
      whole.push_back({tensor.parameter, tensor.entry, &adapter_->file().mapping()});
    tensors.lay_over(whole);
    for (std::size_t i = 0; i < placed_.targets.size(); ++i) {
      const auto& target = placed_.targets[i];
      weights_.emplace(&tensors.at(target.parameter), i);
      if (target.bias != nullptr) biases_.emplace(&tensors.at(target.bias_parameter), i);
    }
  }

  /// The adapter, or null for a checkpoint.
  const io::adapter* adapter() const { return adapter_.get(); }
  /// Its targets and their parameters in the base.
  const io::adapter_placement& placed() const { return placed_; }

  /// True if factors add to a tensor of the expert.
  bool adds_to(const io::tensor_entry& entry) const {
    return weights_.contains(&entry) || biases_.contains(&entry);
  }

  /// values += s B A and the bias of B, of the tensor's rows first, first + 1, ... `values` is as
  /// wide as the tensor's rows, or a single column of its entries.
  void add(const io::tensor_entry& entry, index_t first, const host_view& values) const {
    context<host> c;
    if (const auto found = weights_.find(&entry); found != weights_.end())
      add_product(placed_.targets[found->second], first, values, c);
    if (const auto found = biases_.find(&entry); found != biases_.end())
      add_column(io::bias_difference_of<double>(placed_.targets[found->second]), first, values, c);
  }

 private:
  static void add_column(const std::vector<double>& all, index_t first, const host_view& values,
                         context<host>& c) {
    c.axpy(1, host_const_view(all.data() + first, scalar_type::f64, values.rows, 1, 1, 1), values);
  }
  static void add_product(const io::adapter_target& target, index_t first, const host_view& values,
                          context<host>& c) {
    if (values.columns == (io::is_out_in(target) ? target.d_in : target.d_out))
      io::add_difference(target, first, values, c);
    else  // a tensor that is no matrix here, such as a convolution that no rule knows: all entries
      add_column(io::difference_of<double>(target), first, values, c);
  }

  std::unique_ptr<io::adapter> adapter_;
  io::adapter_placement placed_;
  std::map<const io::tensor_entry*, std::size_t> weights_, biases_;  // by entry: in placed_.targets
};

}  // namespace catmerge::harness
