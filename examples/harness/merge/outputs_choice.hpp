// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/stream.hpp>
#include <harness/merge/choice_account.hpp>
#include <harness/merge/inputs.hpp>
#include <harness/merge/plan.hpp>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

/// The settings of a merge that the networks' outputs on unlabeled samples decide.
namespace catmerge::harness {

/// A merge that was made in memory: settings were chosen on its outputs.
struct chosen_merge {
  std::shared_ptr<const merged_vectors> tau;
  double alpha = 1;                       ///< theta = theta_0 + alpha tau
  std::optional<any_method> settled;      ///< the method with its chosen settings; none for auto
  std::vector<parameter_report> reports;  ///< of the merge, without drift
  std::set<std::string> refitted;         ///< tensors
  choice_account account;

  /// A method that writes this merge. `set` must outlive it.
  any_method method(const checkpoint_set& set) const;

  /// The reports of a merge by method(), with what is known from the merge in memory.
  std::vector<parameter_report> completed(std::vector<parameter_report> written) const;
};

/// Makes the merge that the plan leaves to outputs: --method auto, --alpha auto. Throws
/// option_error if --alpha auto is given and there are no heads. None if a preset leaves alpha to
/// outputs and there are no heads: alpha is the method's default then.
std::optional<chosen_merge> choose_by_outputs(const merge_request& request, const merge_plan& plan,
                                              checkpoint_set& set, merge_inputs& inputs,
                                              context<host>& c, pool& threads);

}  // namespace catmerge::harness
