// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/statistics.hpp>
#include <catmerge/merge/call.hpp>
#include <utility>

/// Calls of methods that need features or importances beside task vectors.
namespace catmerge::detail {

/// Stops compilation, with a sentence, for a call without features or with options in their place.
template <class Features, class Options = Features>
constexpr bool require_features_given() {
  static_assert(!std::is_same_v<Features, Options>,
                "catmerge: the features are missing: (base, experts, features), one matrix of rows "
                "n_k x d_in per task, or its statistics, in the order of the experts; "
                "task_arithmetic(base, experts) needs none");
  return true;
}

/// Refuses calls f(base, experts, features, ...) with braced lists or without features.
struct refused_features {
  template <class Base, class E, class Features, class... Rest>
  void operator()(const Base&, std::initializer_list<E>, const Features&, const Rest&...) const {
    static_assert(require_no_braces<E>());
  }
  template <class Base, class Experts, class F, class... Rest>
  void operator()(const Base&, const Experts&, std::initializer_list<F>, const Rest&...) const {
    static_assert(require_no_braces<F>());
  }
  template <class Base, class E, class F, class... Rest>
  void operator()(const Base&, std::initializer_list<E>, std::initializer_list<F>,
                  const Rest&...) const {
    static_assert(require_no_braces<E, F>());
  }
  template <class Base, class Experts>
  void operator()(const Base&, const Experts&) const {
    static_assert(require_features_given<Experts>());
  }
  template <class Base, class E>
  void operator()(const Base&, std::initializer_list<E>) const {
    static_assert(require_features_given<E>());
  }
};

/// method(base, experts, features[, options[, context]]), for methods that need statistics of the
/// layer's inputs. features: a range of K, rows or statistics.
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

/// method(base, experts, importance[, options[, context]]), for methods that need a number per
/// entry and task. importance: a range of K tensors of base's shape.
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
