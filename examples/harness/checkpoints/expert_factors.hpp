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
    find_tensors(tensors);
  }

  /// Of an adapter whose tensors are kept elsewhere, for as long as this object lives.
  /// tensors.at(name) is the expert's tensor, a const io::tensor_info&, at its lasting place.
  template <class Tensors>
  expert_factors(io::adapter_placement placed, const Tensors& tensors)
      : placed_(std::move(placed)) {
    find_tensors(tensors);
  }

  /// The adapter that this object opened, or null.
  const io::adapter* adapter() const { return adapter_.get(); }
  /// Its targets and their parameters in the base.
  const io::adapter_placement& placed() const { return placed_; }

  /// True if factors add to a tensor of the expert.
  bool adds_to(const io::tensor_info& tensor) const {
    return weights_.contains(&tensor) || biases_.contains(&tensor);
  }

  /// Throws catmerge::error if they change one of two tied tensors: that acts on one of their uses;
  /// merged, it would act on both, or on none. `expert` is for the message.
  void require_untied(const std::string& alias, const std::string& owner,
                      const std::string& expert) const {
    for (const auto& target : placed_.targets)
      if (target.parameter == alias || target.parameter == owner)
        throw error(expert + ": the adapter changes '" + target.parameter + "', and '" + alias +
                    "' and '" + owner +
                    "' share their values in this base: the change would reach both. Untie the "
                    "base first (store both tensors, and tie_word_embeddings false in its "
                    "config.json)");
  }

  /// values += s B A and the bias of B, of the tensor's rows first, first + 1, ... `values` is as
  /// wide as the tensor's rows, or a single column of its entries.
  void add(const io::tensor_info& tensor, index_t first, const host_view& values) const {
    context<host> c;
    if (const auto found = weights_.find(&tensor); found != weights_.end())
      add_product(placed_.targets[found->second], first, values, c);
    if (const auto found = biases_.find(&tensor); found != biases_.end())
      add_column(io::bias_difference_of<double>(placed_.targets[found->second]), first, values, c);
  }

 private:
  template <class Tensors>
  void find_tensors(const Tensors& tensors) {
    for (std::size_t i = 0; i < placed_.targets.size(); ++i) {
      const auto& target = placed_.targets[i];
      weights_.emplace(&tensors.at(target.parameter), i);
      if (target.bias != nullptr) biases_.emplace(&tensors.at(target.bias_parameter), i);
    }
  }
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
  std::map<const io::tensor_info*, std::size_t> weights_, biases_;  // by tensor: in placed_.targets
};

}  // namespace catmerge::harness
