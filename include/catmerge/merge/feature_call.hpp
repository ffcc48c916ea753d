// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/statistics.hpp>
#include <catmerge/merge/call.hpp>
#include <utility>

/// Calls of methods that take more than task vectors.
namespace catmerge::detail {

/// method(base, experts, features[, options[, context]]): what needs statistics of the layer's
/// inputs; features are a range of K, rows or statistics.
template <class Method, layer_kind Kind>
struct features_fn : refused_features {
  using refused_features::operator();

  template <class Base, class Experts, class Features, class Context>
  auto operator()(const Base& base, const Experts& experts, const Features& features,
                  const options_of<Method>& options, Context& c) const {
    static_assert(require_call<Kind, Base, Experts>());
    static_assert(require_feature_range<Features, Base>());
    static_assert(require_context_for<Context, Base>());
    layer_problem<Context> problem;
    problem.kind = Kind;
    problem.statistics = as_statistics_list(features);
    return merge_one(c, Method{options}, std::move(problem), base, experts);
  }

  template <class Base, class Experts, class Features>
  auto operator()(const Base& base, const Experts& experts, const Features& features,
                  const options_of<Method>& options = {}) const {
    static_assert(require_call<Kind, Base, Experts>());
    static_assert(require_features_given<Features, options_of<Method>>());
    auto c = context_of(base);
    return (*this)(base, experts, features, options, c);
  }
};

/// method(base, experts, importance[, options[, context]]): what needs a number per entry and task;
/// importance is a range of K tensors of base's shape.
template <class Method, layer_kind Kind>
struct importance_fn {
  template <class Base, class Experts, class Importance, class Context>
  auto operator()(const Base& base, const Experts& experts, const Importance& importance,
                  const options_of<Method>& options, Context& c) const {
    static_assert(require_call<Kind, Base, Experts>());
    static_assert(require_tensors<Importance>());
    static_assert(require_same_domain<Base, element_t<Importance>>());
    static_assert(require_context_for<Context, Base>());
    layer_problem<Context> problem;
    problem.kind = Kind;
    problem.importance = read_all<Context>(importance);
    return merge_one(c, Method{options}, std::move(problem), base, experts);
  }

  template <class Base, class Experts, class Importance>
  auto operator()(const Base& base, const Experts& experts, const Importance& importance,
                  const options_of<Method>& options = {}) const {
    static_assert(require_call<Kind, Base, Experts>());
    auto c = context_of(base);
    return (*this)(base, experts, importance, options, c);
  }
};

}  // namespace catmerge::detail
