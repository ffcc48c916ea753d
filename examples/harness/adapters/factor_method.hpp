// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/factors/factored_vector.hpp>
#include <catmerge/methods/cat.hpp>
#include <catmerge/methods/iso.hpp>
#include <catmerge/methods/lot.hpp>
#include <catmerge/methods/task_arithmetic.hpp>
#include <catmerge/methods/tsv_m.hpp>
#include <catmerge/methods/weight_average.hpp>
#include <catmerge/model/kinds.hpp>
#include <catmerge/tensor/host/host.hpp>
#include <harness/merge/plan.hpp>
#include <harness/merge/request.hpp>
#include <string>
#include <variant>
#include <vector>

namespace catmerge::harness {

using host_factors = factored_matrix<context<host>>;
using host_factored_problem = factored_problem<context<host>>;

/// The task vectors that a method takes for one weight.
struct factored_weight {
  host_factored_problem problem;  ///< of all tasks; zeros stand in for an adapter without factors
  std::vector<bool> is_given;     ///< per task: the factors are an adapter's own
  layer_kind kind = layer_kind::other;  ///< linear: the method's rule applies
  bool is_table = false;                ///< a row per token, or an embedding
};

/// A method that merges adapters into an adapter: its rule on factors, and on the vectors of B's
/// biases.
class factor_method {
 public:
  /// Throws option_error for a method without a rule for factors, and for a setting without a
  /// meaning there.
  factor_method(const merge_request& request, const merge_plan& plan);

  /// True if the rule needs statistics.
  bool needs_statistics() const;
  /// The merged vector, its scale with alpha. Without statistics, where it needs them, and for
  /// weights that are no linear map the method's fallback; the report says so.
  host_factors merge(const factored_weight& weight, layer_report& report, context<host>& c) const;

 private:
  host_factors sum(const factored_weight& weight, double factor, context<host>& c) const;
  host_factors fallback(const factored_weight& weight, layer_report& report,
                        context<host>& c) const;

  std::variant<task_arithmetic_method, weight_average_method, cat_options, lot_options,
               tsv_m_options, iso_options>
      rule_;
};

/// Throws option_error for an option that says nothing about merges of adapters, so that none is
/// ignored.
void require_adapter_options(const merge_request& request);

/// The request with the catalogue's name of the method: core-iso has the settings of iso-c.
merge_request in_the_catalogue(merge_request request);

/// True for core-iso, which the catalogue lacks: it is no method for networks.
bool is_core_iso(const std::string& method);

}  // namespace catmerge::harness
