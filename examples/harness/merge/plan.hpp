// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/checkpoints/checkpoint_output.hpp>
#include <harness/checkpoints/merge_policy.hpp>
#include <harness/merge/overrides.hpp>
#include <harness/merge/request.hpp>
#include <harness/merge/selectors.hpp>
#include <harness/methods/automatic_options.hpp>
#include <harness/methods/catalogue.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// A request in the terms of the library, with all checks that need no file.
struct merge_plan {
  /// Throws option_error for an unknown method, transform, setting or selector, for files that do
  /// not fit the experts, and if the method needs an input that is missing.
  explicit merge_plan(const merge_request& request);

  /// The whole method for `set`, which must outlive the result: weights and transforms come first,
  /// and some parameters have other settings or other methods.
  any_method composed(const network_names& set) const;
  /// The same with another method in place of `method`.
  any_method composed(const network_names& set, const any_method& main) const;

  cat_options cat;  ///< settings of CAT
  merge_policy policy;
  std::vector<double> weights;  ///< of the task vectors, per expert; empty if none is given
  /// The texts of the method among which outputs choose; one if they choose no setting.
  std::vector<std::string> candidates;
  any_method method;  ///< the first of them
  std::vector<any_transform> before;
  std::vector<any_merged_transform> after;
  std::vector<method_rule> others;
  std::vector<override_rule> overrides;
  double coefficient = 1;  ///< of the task vector in the networks that samples run through
  output_options output;
  bool is_automatic = false;      ///< --method auto
  automatic_options automatic;    ///< its settings
  bool alpha_by_outputs = false;  ///< --alpha auto, or a preset that has it
  bool demands_outputs = false;   ///< --alpha auto or another setting is auto: an error without
  bool measures_bases = false;    ///< cat:resamples
  /// True if outputs on samples decide settings before the merge (outputs_choice.hpp).
  bool uses_outputs = false;
  bool uses_statistics = false;    ///< by a method or transform, or for a report's drift
  bool uses_importance = false;    ///< by a method or transform
  std::vector<std::string> notes;  ///< a sentence per option that the method does not use

 private:
  any_method with_own_settings(any_method one, const network_names& set) const;
  tables_in_pieces pieces() const;

  /// True if `is` holds for the method or another method; any_is: or for a transform before or
  /// after them.
  template <class Is>
  bool any_method_is(const Is& is) const;
  template <class Is>
  bool any_is(const Is& is) const;

  void read_methods(const merge_request& request);
  void find_inputs(const merge_request& request);
  void find_outputs(const merge_request& request);
  void note_useless_settings(const merge_request& request);
  void check_overrides(const merge_request& request);
};

/// Throws if an output would replace an input or another output.
void require_outputs_apart(const merge_request& request);

/// The name rules of the base's network, of the preset, and of --rule.
model::name_rules rules_for(const merge_request& request, const io::checkpoint& base);

/// Throws for a rule, a setting or a method that applies to no tensor or merged parameter, and for
/// a shard size of an output without shards: such options are probably mistyped.
void require_all_used(const merge_request& request, const merge_plan& plan,
                      const checkpoint_set& set);

}  // namespace catmerge::harness
