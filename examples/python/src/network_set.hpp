// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/source.hpp>
#include <catmerge/model/name_rules.hpp>
#include <harness/checkpoints/expert_factors.hpp>
#include <harness/checkpoints/merge_policy.hpp>
#include <harness/checkpoints/network_names.hpp>
#include <harness/checkpoints/parameter_pieces.hpp>
#include <harness/checkpoints/tensor_windows.hpp>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "network_adapter.hpp"
#include "network_file.hpp"

namespace catmerge::python {

/// A whole network, or an adapter of the base.
using network_expert = std::variant<network_file, network_adapter>;

/// A base and its experts, as mappings of Python: the source of a merge's parameters. It compares
/// and classifies them as harness::checkpoint_set does those on the disk. The constructor needs the
/// interpreter's lock; base, expert and release take it.
class network_set final : public harness::network_names {
 public:
  /// tied: whether the network's configuration ties its output to its table; none: not told.
  /// Throws catmerge::error if an expert does not fit the base.
  network_set(network_file base, std::vector<network_expert> experts,
              std::vector<std::string> tasks, const model::name_rules& rules,
              harness::merge_policy policy, std::optional<bool> tied);

  const std::vector<std::string>& names() const override { return names_; }
  const model::classification& class_of(const std::string& name) const override {
    return classes_.at(name);
  }
  const std::string& tensor_of(const std::string& parameter) const override {
    return parameters_.tensor_of(parameter);
  }
  std::vector<std::string> names_of(const std::string& tensor) const override;
  const std::vector<std::string>& fixed() const override { return fixed_; }
  std::string why_copied(const std::string& name) const override;
  const std::map<std::string, std::string>& tied() const override { return tied_; }
  const std::vector<std::string>& ignored() const override { return ignored_; }
  const std::vector<std::string>& warnings() const override { return warnings_; }
  std::vector<std::string> absent() const override;
  std::vector<std::string> resized() const override { return {}; }

  network_file& base_file() { return base_; }
  const io::tensor_info& info_of(const std::string& name) const { return *base_.info(name); }
  const harness::merge_policy& policy() const { return policy_; }
  /// Rows and columns of a tensor of this shape as a matrix, as stored.
  std::pair<index_t, index_t> extents(const std::string& tensor) const;
  /// The rows of a parameter in its tensor: the first one and their number.
  std::pair<index_t, index_t> rows_of(const parameter_info& p) const;

  // The parameter_source of merge_stream.
  const std::vector<std::string>& tasks() const override { return tasks_; }
  const std::vector<parameter_group>& groups() const override { return parameters_.groups(); }
  host_const_view base(const parameter_info& p) {
    return as_read(rows(base_, tensor_of(p.name), p), p);
  }
  host_const_view expert(index_t k, const parameter_info& p);
  void release(const parameter_group& group);

 private:
  void add_expert(network_file expert, const model::name_rules& rules);
  void add_expert(network_adapter expert, const model::name_rules& rules);
  const std::string* name_in(const network_file& file, const std::string& tensor) const;
  host_const_view rows(network_file& file, const std::string& name, const parameter_info& p) const;
  static host_const_view as_read(const host_const_view& stored, const parameter_info& p) {
    return p.transposed ? stored.transposed() : stored;
  }
  bool is_copied(const std::string& name) const;
  void compare(network_file& expert, const std::string& task, const model::name_rules& rules);
  void tie(std::optional<bool> declared);
  void make_groups(const model::name_rules& rules);

  network_file base_;
  std::vector<network_file> experts_;             // of an adapter: the base's tensors, and its own
  std::vector<network_adapter> adapters_;         // in the order of the experts
  std::vector<harness::expert_factors> factors_;  // of each expert
  harness::windows sums_;                         // of factors and the base, of the group at hand
  std::vector<std::string> tasks_;
  harness::merge_policy policy_;
  std::vector<std::string> names_, fixed_, ignored_, warnings_;
  std::unordered_map<std::string, model::classification> classes_;
  std::map<std::string, std::string> owner_of_, tied_;
  harness::parameter_pieces parameters_;
};

}  // namespace catmerge::python
