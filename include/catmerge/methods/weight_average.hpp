// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/methods/task_arithmetic.hpp>

namespace catmerge {

/// Weight averaging (Wortsman et al., "Model soups", ICML 2022, arXiv 2203.05482): the mean of the
/// experts, computed as theta_0 + (1/K) sum_k T_k, which is exact where experts agree with the
/// base.
struct weight_average_method {
  static constexpr bool needs_statistics(layer_kind) { return false; }

  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    detail::add_scaled_sum(c, p, 1 / static_cast<double>(p.experts.size()), out);
    layer_report report;
    report.kind = p.kind;
    return report;
  }
};

namespace detail {

struct weight_average_fn {
  template <class Base, class Experts, class Context>
  auto operator()(const Base& base, const Experts& experts, Context& c) const {
    static_assert(require_parameters<Base, Experts>());
    return merge_one(c, weight_average_method{}, layer_problem<Context>{}, base, experts);
  }

  template <class Base, class Experts>
  auto operator()(const Base& base, const Experts& experts) const {
    static_assert(require_parameters<Base, Experts>());
    context<domain_t<Base>> c;
    return (*this)(base, experts, c);
  }
};

}  // namespace detail

/// weight_average(base, experts): one parameter of any shape.
inline constexpr detail::weight_average_fn weight_average{};

}  // namespace catmerge
