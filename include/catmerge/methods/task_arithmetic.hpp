// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/call.hpp>

namespace catmerge {

namespace detail {

/// out = base + alpha sum_k (expert_k - base), added in the order of the tasks.
template <class Context>
void add_scaled_sum(Context& c, const layer_problem<Context>& p, double alpha,
                    typename Context::view out) {
  c.assign(p.base, out);
  c.accumulate(alpha, p.experts, p.base, out);
  check_finite(c, p, out);
}

}  // namespace detail

/// Task Arithmetic (Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, arXiv
/// 2212.04089): theta_0 + alpha sum_k T_k, for every parameter. Choose alpha on validation data;
/// 0.3 is the usual value for eight tasks.
struct task_arithmetic_method {
  double alpha = 0.3;  ///< the factor of the summed task vectors

  /// alpha.
  double factor() const { return alpha; }

  /// tau = sum_k T_k, added in the order of the tasks.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>&, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report&) const {
    sum_vectors(c, vectors, tau);
  }

  /// out = base + alpha sum_k (expert_k - base), added in the order of the tasks; the report holds
  /// the kind alone. Throws catmerge::error if the result is not finite.
  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    detail::add_scaled_sum(c, p, alpha, out);
    layer_report report;
    report.kind = p.kind;
    return report;
  }
};

namespace detail {

struct task_arithmetic_fn : braced_experts {
  using braced_experts::operator();

  template <class Base, class Experts, class Context>
  auto operator()(const Base& base, const Experts& experts, double alpha, Context& c) const {
    static_assert(require_parameters<Base, Experts>());
    static_assert(require_context_for<Context, Base>());
    return merge_one(c, task_arithmetic_method{alpha}, layer_problem<Context>{}, base, experts);
  }

  template <class Base, class Experts>
  auto operator()(const Base& base, const Experts& experts,
                  double alpha = task_arithmetic_method{}.alpha) const {
    static_assert(require_parameters<Base, Experts>());
    auto c = context_of(base);
    return (*this)(base, experts, alpha, c);
  }
};

}  // namespace detail

/// Task Arithmetic of one parameter, as task_arithmetic_method: theta_0 + alpha sum_k T_k.
/// @code
/// auto [merged, report] = task_arithmetic(base, experts);   // alpha = 0.3
/// auto [half, why] = task_arithmetic(base, experts, 0.15);  // and (..., 0.15, context)
/// @endcode
/// base: a tensor of any shape; experts: a range of K of its shape, in its domain. Returns a
/// merge_result, `merged` of base's family and compute type. Throws catmerge::error if there are no
/// experts, shapes differ or a value is not finite.
inline constexpr detail::task_arithmetic_fn task_arithmetic{};

}  // namespace catmerge
