// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/statistics.hpp>
#include <catmerge/merge/call.hpp>
#include <utility>

namespace catmerge {

namespace detail {

/// True for contexts. Their `domain` tells them apart from ranges of features.
template <class C>
concept has_own_domain = requires {
  typename C::domain;
};
template <class C>
concept any_context = has_own_domain<C> && std::is_same_v<C, context<typename C::domain>>;

struct merge_parameter_fn : braced_experts {
  using braced_experts::operator();

  template <class Method, class Base, class Experts, any_context Context>
  auto operator()(const Method& method, layer_problem<Context> problem, const Base& base,
                  const Experts& experts, Context& c) const {
    static_assert(require_parameters<Base, Experts>());
    static_assert(require_context_for<Context, Base>());
    return merge_one(c, method, std::move(problem), base, experts);
  }

  template <class Method, class Base, class Experts, any_context Context>
  auto operator()(const Method& method, layer_kind kind, const Base& base, const Experts& experts,
                  Context& c) const {
    layer_problem<Context> problem;
    problem.kind = kind;
    return (*this)(method, std::move(problem), base, experts, c);
  }

  template <class Method, class Base, class Experts, class Features, any_context Context>
  auto operator()(const Method& method, layer_kind kind, const Base& base, const Experts& experts,
                  const Features& features, Context& c) const {
    static_assert(require_parameters<Base, Experts>());
    static_assert(require_feature_range<Features, Base>());
    static_assert(require_context_for<Context, Base>());
    layer_problem<Context> problem;
    problem.kind = kind;
    problem.statistics = as_statistics_list(features);
    return (*this)(method, std::move(problem), base, experts, c);
  }

  template <class Method, class Base, class Experts>
  auto operator()(const Method& method, layer_kind kind, const Base& base,
                  const Experts& experts) const {
    static_assert(require_parameters<Base, Experts>());
    auto c = context_of(base);
    return (*this)(method, kind, base, experts, c);
  }

  template <class Method, class Base, class Experts, class Features>
  requires(!any_context<Features>) auto operator()(const Method& method, layer_kind kind,
                                                   const Base& base, const Experts& experts,
                                                   const Features& features) const {
    static_assert(require_parameters<Base, Experts>());
    auto c = context_of(base);
    return (*this)(method, kind, base, experts, features, c);
  }
};

}  // namespace detail

/// Merges one parameter by any merging_method, chains included. Scans are made before the merge.
/// @code
/// auto method = chain{cat_trim{}, ties_method{}};
/// auto [merged, report] = merge_parameter(method, layer_kind::linear, base, experts, features);
/// auto [again, why] = merge_parameter(ties_method{}, layer_kind::other, base, experts);
/// @endcode
/// - kind: the parameter's effect on features;
/// - base: d_out x d_in, or d entries; experts: a range of K of its shape, in its domain;
/// - features: a range of K, rows n_k x d_in or statistics, for methods that use them.
///
/// Each form also takes a context as the last argument. A layer_problem<Context> in place of the
/// kind also holds parts, statistics, importances (its views must outlive the call) and names for
/// messages. The call sets its base and experts and requires the context. Returns a merge_result,
/// `merged` of base's family and compute type. Throws catmerge::error if there are no experts,
/// tasks or extents do not match, or a value is not finite, and as the method does.
inline constexpr detail::merge_parameter_fn merge_parameter{};

}  // namespace catmerge
