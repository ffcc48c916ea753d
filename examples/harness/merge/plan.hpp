// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/checkpoints/checkpoint_output.hpp>
#include <harness/checkpoints/merge_policy.hpp>
#include <harness/merge/overrides.hpp>
#include <harness/merge/request.hpp>
#include <harness/merge/selectors.hpp>
#include <harness/methods/catalogue.hpp>
#include <string>
#include <vector>

namespace catmerge::harness {

/// A request in the terms of the library, checked as far as no file is needed.
struct merge_plan {
  /// Throws option_error for a method, a transform, a setting or a selector that there is not, for
  /// files that do not fit the experts, and if an input that the method needs is missing.
  explicit merge_plan(const merge_request& request);

  /// The method as it runs on `set`, which outlives it: weights and transforms before it, other
  /// settings and other methods for some parameters.
  any_method composed(const checkpoint_set& set) const;

  cat_options cat;  ///< settings of CAT
  merge_policy policy;
  std::vector<double> weights;  ///< of the task vectors, per expert; empty if none is given
  any_method method;
  std::vector<any_transform> before;
  std::vector<method_rule> others;
  std::vector<override_rule> overrides;
  double coefficient = 1;  ///< of the task vector in the networks that samples run through
  output_options output;
  bool uses_statistics = false;    ///< the method does, or a report, which tells the drift
  bool uses_importance = false;    ///< the method does
  std::vector<std::string> notes;  ///< a sentence per option that the method has no use for

 private:
  any_method with_own_settings(any_method one, const checkpoint_set& set) const;

  /// Whether the method, another method or (`any`) a transform is so.
  template <class Is>
  bool any_method_is(const Is& is) const;
  template <class Is>
  bool any_is(const Is& is) const;

  void read_methods(const merge_request& request);
  void find_inputs(const merge_request& request);
  void note_useless_settings(const merge_request& request);
  void check_overrides(const merge_request& request);
};

/// Throws if an output would replace an input or another output.
void require_outputs_apart(const merge_request& request);

/// The rules of names: those of the base's network, of the preset, and of --rule.
model::name_rules rules_for(const merge_request& request, const io::checkpoint& base);

/// Throws for a rule, a setting or a method that is for no tensor or no parameter that is merged,
/// and for sizes of shards of what has none: they would be mistyped.
void require_all_used(const merge_request& request, const merge_plan& plan,
                      const checkpoint_set& set);

}  // namespace catmerge::harness
