// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/methods/task_arithmetic.hpp>

namespace catmerge {

/// Weight averaging (Wortsman et al., "Model soups", ICML 2022, arXiv 2203.05482): the mean of the
/// experts, computed as theta_0 + (1/K) sum_k T_k. Entries on which experts agree with the base
/// stay exact.
struct weight_average_method {
  /// 1.
  static constexpr double factor() { return 1; }

  /// tau = (1/K) sum_k T_k, added in the order of the tasks.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>&, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report&) const {
    mean_vector(c, vectors, tau);
  }

  /// out = base + (1/K) sum_k (expert_k - base), added in the order of the tasks; a single expert
  /// stays as it is, bit for bit. The report holds the kind alone. Throws catmerge::error if the
  /// result is not finite.
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    if (p.experts.size() == 1) {  // base + (expert - base) would be rounded twice
      detail::check_finite(c, p, p.base);
      c.assign(p.experts.front(), out);
      detail::check_finite(c, p, out);
    } else {
      detail::add_scaled_sum(c, p, 1 / static_cast<double>(p.experts.size()), out);
    }
    layer_report report;
    report.kind = p.kind;
    return report;
  }
};

namespace detail {

struct weight_average_fn : braced_experts {
  using braced_experts::operator();

  template <class Base, class Experts, class Context>
  auto operator()(const Base& base, const Experts& experts, Context& c) const {
    static_assert(require_parameters<Base, Experts>());
    static_assert(require_context_for<Context, Base>());
    return merge_one(c, weight_average_method{}, layer_problem<Context>{}, base, experts);
  }

  template <class Base, class Experts>
  auto operator()(const Base& base, const Experts& experts) const {
    static_assert(require_parameters<Base, Experts>());
    auto c = context_of(base);
    return (*this)(base, experts, c);
  }
};

}  // namespace detail

/// Weight averaging of one parameter, as weight_average_method: theta_0 + (1/K) sum_k T_k.
/// @code
/// auto [merged, report] = weight_average(base, experts);  // and (base, experts, context)
/// @endcode
/// base: a tensor of any shape; experts: a range of K of its shape, in its domain. Returns a
/// merge_result, `merged` of base's family and compute type. Throws catmerge::error if there are no
/// experts, shapes differ or a value is not finite.
inline constexpr detail::weight_average_fn weight_average{};

}  // namespace catmerge
