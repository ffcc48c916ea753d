// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/merge/compose.hpp>
#include <catmerge/methods/weight_average.hpp>
#include <harness/checkpoints/checkpoint_set.hpp>
#include <harness/methods/any_method.hpp>
#include <set>
#include <string>
#include <utility>

/// Tables of tokens under methods that merge tables as matrices. A table of tokens is no linear
/// map: its rows serve a token each. Merged as a matrix it costs TSV-M five points of the experts'
/// gain on a small decoder. (The family of examples/families/text is of another mind: there the
/// mean costs TSV-M, Iso-C and Iso-CTS two points of test average, on validation 2.0 to 3.0.)
namespace catmerge::harness {

/// weight_average_method in place of another method; the report says so.
struct average_of_experts {
  /// 1.
  static constexpr double factor() { return 1; }

  /// tau = (1/K) sum_k T_k.
  void combine(context<host>& c, const host_problem& p, host_vectors vectors, const host_view& tau,
               layer_report& report) const {
    weight_average_method{}.combine(c, p, vectors, tau, report);
    report.fallback = fallback_rule::average;
  }
};

/// True for a table of tokens; `tensor` is a name in the set.
inline bool is_token_table(const network_names& set, const std::string& tensor) {
  return set.class_of(tensor).kind == model::parameter_kind::token_table;
}

/// True if a table of tokens is merged.
inline bool has_token_tables(const checkpoint_set& set) {
  return std::any_of(set.names().begin(), set.names().end(), [&](const auto& name) {
    return is_token_table(set, name) && set.policy().merged(name);
  });
}

/// The tables of tokens to which no alpha of the method applies: all, or none if the method merges
/// no table as a matrix.
inline std::set<std::string> averaged_token_tables(const any_method& method,
                                                   const network_names& set) {
  std::set<std::string> tables;
  if (!method.sees_matrices()) return tables;
  for (const auto& name : set.names())
    if (is_token_table(set, name)) tables.insert(name);
  return tables;
}

/// The method, with the mean of the experts for tables of tokens if the method merges tables as
/// matrices. `set` must outlive the result.
inline any_method with_token_tables(any_method method, const network_names& set) {
  if (averaged_token_tables(method, set).empty()) return method;
  return any_method(where{[&set](const host_problem& p) {
                            return is_token_table(set, set.tensor_of(p.names.parameter));
                          },
                          any_method(average_of_experts{}), std::move(method)});
}

}  // namespace catmerge::harness
