// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/io/adapter_difference.hpp>
#include <catmerge/io/adapter_placement.hpp>
#include <catmerge/io/checkpoint.hpp>
#include <catmerge/model/name_rules.hpp>
#include <filesystem>
#include <harness/checkpoints/tensor_windows.hpp>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// What an expert that is a PEFT adapter adds to its base: nothing if it is a checkpoint.
///
/// The tensors of such an expert are those of the base, and in their places those that the adapter
/// holds whole. What its factors add, s B A, is added where values are read: rows at a time, and in
/// double, so that the difference from the base keeps the digits that a sum in the base's type
/// would lose.
class expert_factors {
 public:
  expert_factors() = default;  ///< of a checkpoint

  /// Of the adapter at `path`. Lays the tensors that it holds whole over `tensors`, the base opened
  /// once more. Throws catmerge::error for an adapter that is refused (adapter_folder.hpp), and for
  /// one that does not fit the base. `rules` tell how square weights are stored.
  expert_factors(const std::filesystem::path& path, io::checkpoint& tensors,
                 const model::name_rules& rules)
      : adapter_(std::make_unique<io::adapter>(path)) {
    const auto layout = [&](std::string_view parameter) -> std::optional<bool> {
      const auto& entry = tensors.at(parameter);
      const auto found = rules.classify({std::string(parameter), entry.type, entry.shape});
      if (!is_matrix_kind(found.kind) || !found.trim) return std::nullopt;
      return found.layout == model::matrix_layout::in_out;
    };
    placed_ = io::target_in(tensors, *adapter_, layout);
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
  bool add_to(const io::tensor_entry& entry) const {
    return weights_.contains(&entry) || biases_.contains(&entry);
  }

  /// values += what factors add to the tensor's rows first, ..., as a matrix as wide as its rows or
  /// a single column of all entries.
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
    const auto a = io::a_of(target), b = io::b_of(target);
    // The rows are those of B, or of A^T.
    const bool out_in = io::is_out_in(target);
    const index_t width = out_in ? target.d_in : target.d_out;
    if (values.columns == width) {
      if (out_in)
        c.multiply(target.scale, b.view().window(first, values.rows, 0, target.rank), op::none,
                   a.view(), op::none, 1, values);
      else
        c.multiply(target.scale, a.view().window(0, target.rank, first, values.rows), op::transpose,
                   b.view(), op::transpose, 1, values);
      return;
    }
    // A tensor that is no matrix here, such as a convolution that no rule knows: all its entries.
    add_column(io::difference_of<double>(target), first, values, c);
  }

  std::unique_ptr<io::adapter> adapter_;
  io::adapter_placement placed_;
  std::map<const io::tensor_entry*, std::size_t> weights_, biases_;  // by entry: in placed_.targets
};

}  // namespace catmerge::harness
