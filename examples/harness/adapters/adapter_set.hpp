// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/adapter_folder.hpp>
#include <catmerge/io/adapter_placement.hpp>
#include <catmerge/io/adapter_writer.hpp>
#include <catmerge/model/name_rules.hpp>
#include <harness/checkpoints/merge_policy.hpp>
#include <harness/checkpoints/network_names.hpp>
#include <harness/merge/request.hpp>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace catmerge::harness {

/// A weight that adapters change, with the factors of each.
struct adapter_weight {
  std::string name;       ///< of the parameter: as the base calls it, else MODULE.weight
  std::string bias_name;  ///< of the parameter that B's bias is added to
  std::vector<const io::adapter_target*> of_task;  ///< null: the adapter leaves the weight as it is
  io::planned_target plan;                         ///< of the sum: the ranks added, the widest type
  bool has_bias = false;                           ///< B has a bias in an adapter

  /// The factors of the first adapter that has some.
  const io::adapter_target& first() const;
};

/// Adapters of one base, opened and compared: their weights by name, and what they hold whole.
class adapter_set final : public network_names {
 public:
  /// Opens the adapters, and the base if the request has one. Throws catmerge::error, naming file
  /// and tensor, for folders that hold no LoRA adapter, for adapters that do not fit each other or
  /// the base, and for tensors held whole that differ and that no option leaves out.
  adapter_set(const merge_request& request, merge_policy policy);

  const io::adapter& adapter(index_t k) const { return adapters_[static_cast<std::size_t>(k)]; }
  /// The merged weights, sorted by name.
  const std::vector<adapter_weight>& weights() const { return weights_; }
  /// The tensors that all adapters hold whole, with the same bytes.
  const std::vector<io::adapter_tensor>& kept() const { return kept_; }
  /// The names of the tensors held whole that --drop and --task-heads leave out.
  const std::vector<std::string>& left_out() const { return left_out_; }
  /// The entries of the merged adapter's configuration.
  const io::adapter_options& options() const { return options_; }

  const std::vector<std::string>& names() const override { return names_; }
  const model::classification& class_of(const std::string& name) const override {
    return classes_.at(name);
  }
  const std::string& tensor_of(const std::string& parameter) const override { return parameter; }
  std::vector<std::string> names_of(const std::string& tensor) const override { return {tensor}; }
  const std::vector<parameter_group>& groups() const override { return groups_; }
  const std::vector<std::string>& tasks() const override { return tasks_; }
  /// Weights that an option or a rule leaves as the base has them: the merged adapter lacks them.
  const std::vector<std::string>& fixed() const override { return fixed_; }
  std::string why_copied(const std::string& name) const override;
  const std::map<std::string, std::string>& tied() const override { return tied_; }
  const std::vector<std::string>& ignored() const override { return ignored_; }
  const std::vector<std::string>& warnings() const override { return warnings_; }
  std::vector<std::string> absent() const override { return absent_; }
  std::vector<std::string> resized() const override { return {}; }

 private:
  void open(const model::name_rules& rules);
  void compare_configurations(bool contradictions_pass);
  void add_target(std::size_t k, const io::adapter_target& target, const std::string& name,
                  const std::string& bias_name);
  void require_common_weight(std::size_t k) const;
  void check_policy() const;
  void classify(const model::name_rules& rules);
  void plan_biases();
  void keep_whole_tensors();
  void settle_configuration();

  merge_policy policy_;
  std::vector<std::string> tasks_;
  std::vector<io::adapter> adapters_;
  std::optional<io::checkpoint> base_;
  std::vector<io::adapter_placement> placements_;  // of the adapters in the base, if there is one
  std::map<std::string, adapter_weight> by_name_;
  std::vector<adapter_weight> weights_;
  std::map<std::string, model::classification> classes_;
  std::vector<io::adapter_tensor> kept_;
  std::vector<std::string> left_out_, names_, fixed_, ignored_, warnings_, absent_;
  std::vector<parameter_group> groups_;
  std::map<std::string, std::string> tied_;
  io::adapter_options options_;
};

}  // namespace catmerge::harness
