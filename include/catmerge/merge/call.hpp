// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/run.hpp>
#include <catmerge/tensor/require.hpp>
#include <utility>

namespace catmerge {

/// The merged parameter and the report of its merge.
template <class Tensor>
struct merge_result {
  Tensor merged;        ///< shaped like base, of its family and compute type
  layer_report report;  ///< not every method fills every field
};

/// Calls of methods for one parameter. A Method is made from its member `options`.
namespace detail {

/// Scans and merges one parameter by `method`, from typed tensors into a typed tensor.
template <class Context, class Method, class Base, class Experts>
merge_result<result_t<Base>> merge_one(Context& c, const Method& method,
                                       layer_problem<Context> problem, const Base& base,
                                       const Experts& experts) {
  static_assert(require_method<Method, Context>());
  problem.base = const_view_of(base);
  problem.experts = read_all<Context>(experts);
  check_shapes(c, problem);
  merge_result<result_t<Base>> result{make_result(c, base, problem.base), {}};
  if constexpr (has_scan<Method>()) {
    Method scanned = method;
    scan_problem(scanned, c, problem);
    result.report = merge_problem(scanned, c, problem, view_of(result.merged));
  } else {
    result.report = merge_problem(method, c, problem, view_of(result.merged));
  }
  return result;
}

/// Stops compilation, with a sentence, if no method can merge these types of base and experts.
template <class Base, class Experts>
constexpr bool require_parameters() {
  static_assert(require_makeable<Base>());
  static_assert(require_tensors<Experts>());
  static_assert(require_same_domain<Base, element_t<Experts>>());
  return true;
}

/// The same for several weights: a range of bases, and for each task a range of experts.
template <class Bases, class Experts>
constexpr bool require_parameter_group() {
  static_assert(require_tensors<Bases>());
  static_assert(require_range<Experts>());
  static_assert(require_parameters<element_t<Bases>, element_t<Experts>>());
  return true;
}

/// The type of a method's options.
template <class Method>
using options_of = std::remove_cvref_t<decltype(std::declval<Method&>().options)>;

/// The same for a parameter of this kind.
template <layer_kind Kind, class Base, class Experts>
constexpr bool require_call() {
  static_assert(require_parameters<Base, Experts>());
  if constexpr (Kind == layer_kind::linear) static_assert(require_matrix<Base>());
  if constexpr (Kind == layer_kind::scale || Kind == layer_kind::shift)
    static_assert(require_vector<Base>());
  return true;
}

/// method(base, experts[, options[, context]]), for methods that need nothing but task vectors.
template <class Method, layer_kind Kind>
struct vectors_fn : braced_experts {
  using braced_experts::operator();

  template <class Base, class Experts, class Context>
  auto operator()(const Base& base, const Experts& experts, const options_of<Method>& options,
                  Context& c) const {
    static_assert(require_call<Kind, Base, Experts>());
    static_assert(require_context_for<Context, Base>());
    layer_problem<Context> problem;
    problem.kind = Kind;
    return merge_one(c, Method{options}, std::move(problem), base, experts);
  }

  template <class Base, class Experts>
  auto operator()(const Base& base, const Experts& experts,
                  const options_of<Method>& options = {}) const {
    static_assert(require_call<Kind, Base, Experts>());
    auto c = context_of(base);
    return (*this)(base, experts, options, c);
  }
};

}  // namespace detail

}  // namespace catmerge
