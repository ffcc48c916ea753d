// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/context.hpp>
#include <catmerge/tensor/mistakes.hpp>
#include <concepts>
#include <initializer_list>
#include <iterator>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

/// Checks of tensors, contexts and domains at compile time, with a message for each missing
/// requirement. Public callables begin with static_assert(require_...<T>()), so that this message
/// precedes all other errors of the compiler. (The checks of methods, sources and sinks lie next to
/// their concepts.)
namespace catmerge::detail {

/// A message for each requirement of compute_context that C lacks.
template <class C>
constexpr bool require_operations() {
  static_assert(
      requires { requires std::same_as<C, context<typename C::domain>>; },
      "catmerge: context<Domain>::domain is missing, or is not Domain");
  static_assert(
      requires { typename C::view; },
      "catmerge: context<Domain>::view is missing: a handle of a matrix that is written to");
  static_assert(
      requires { typename C::const_view; },
      "catmerge: context<Domain>::const_view is missing: a handle of a matrix that is read");
  static_assert(
      requires { typename C::matrix; },
      "catmerge: context<Domain>::matrix is missing: it owns a matrix");
  static_assert(
      requires { requires std::convertible_to<typename C::view, typename C::const_view>; },
      "catmerge: context<Domain>::view must convert to const_view");
  static_assert(
      requires { requires std::convertible_to<typename C::matrix&, typename C::view>; },
      "catmerge: context<Domain>::matrix must convert to view");
  static_assert(
      requires {
        requires std::default_initializable<typename C::matrix> && std::movable<typename C::matrix>;
      },
      "catmerge: a context<Domain>::matrix can be made empty, and moved");
  static_assert(
      requires { requires std::convertible_to<const typename C::matrix&, typename C::const_view>; },
      "catmerge: a const context<Domain>::matrix must convert to const_view");
// clang-format off
#define CATMERGE_OPERATION(NAME, RESULT, ...)                                                      \
  static_assert(requires(C& c, typename C::view y, typename C::const_view x, index_t n, double a,  \
                         std::span<const index_t> list, std::span<const double> w,                 \
                         std::span<const typename C::const_view> operands,                         \
                         std::span<std::uint64_t> counts, const small_matrix& m,                   \
                         const std::function<void(index_t)>& f) {                                  \
    { c.__VA_ARGS__ } RESULT;                                                                      \
  }, "catmerge: context<Domain> lacks " NAME ", or it takes or returns something else than "       \
     "<catmerge/tensor/context.hpp> says");
  CATMERGE_OPERATIONS(CATMERGE_OPERATION)
#undef CATMERGE_OPERATION
#undef CATMERGE_OPERATIONS
  // clang-format on
  return true;
}

/// Requires that the domain has a complete context.
template <class Domain>
constexpr bool require_context() {
  using C = context<Domain>;
  constexpr bool specialised = requires {
    sizeof(C);
  };
  static_assert(specialised,
                "catmerge: context<Domain> is not specialised for the domain of these tensors: "
                "include the adapter of their library (<catmerge/tensor/host/host.hpp> for "
                "catmerge::host) or specialise it (<catmerge/tensor/context.hpp> lists what it "
                "needs)");
  if constexpr (specialised && !compute_context<C>) {
    static_assert(require_operations<C>());
    static_assert(compute_context<C>, "catmerge: context<Domain> is no catmerge::compute_context");
  }
  return true;
}

/// Requires that the context passed to a call is a context, of any domain.
template <class C>
constexpr bool require_own_context() {
  static_assert(
      requires { typename C::domain; },
      "catmerge: the last argument of this call is no catmerge::context");
  static_assert(require_context<typename C::domain>());
  return true;
}

template <class A, class B>
constexpr bool require_domain() {
  static_assert(std::is_same_v<A, B>,
                "catmerge: the tensors of one call, features and statistics too, must live in one "
                "domain: copy them to one device first");
  return true;
}

/// T's traits return a view that converts to its context's const_view.
template <class T>
concept has_fitting_view = requires(const std::remove_cvref_t<T>& t) {
  {
    traits<T>::view(t)
    } -> std::convertible_to<typename context<typename traits<T>::domain>::const_view>;
};

template <class T>
constexpr bool require_tensor() {
  if constexpr (!has_domain<T>) {
    static_assert(require_known<std::remove_cvref_t<T>>());
    static_assert(has_domain<T>);
  } else {
    static_assert(
        has_rank<T>,
        "catmerge: tensor_traits<T>::rank is missing: a constant, 1, 2 or catmerge::dynamic_rank");
    static_assert(
        has_known_rank<T>,
        "catmerge: tensor_traits<T>::rank must be 1 (a vector), 2 (a matrix) or "
        "catmerge::dynamic_rank: reshape tensors of rank 3 or more, to (d_out, rest) for instance");
    static_assert(
        has_view<T>,
        "catmerge: tensor_traits<T>::view(const T&) is missing: for host memory it returns a "
        "catmerge::strided_view<const S>");
    static_assert(require_context<typename traits<T>::domain>());
    static_assert(
        has_fitting_view<T>,
        "catmerge: what tensor_traits<T>::view(const T&) returns does not convert to "
        "context<domain>::const_view: for host memory return a catmerge::strided_view<const S>, S "
        "double, float, catmerge::half or catmerge::bfloat16");
  }
  return true;
}

template <class T>
constexpr bool require_matrix() {
  static_assert(require_tensor<T>());
  if constexpr (any_tensor<T>)
    static_assert(any_matrix<T>,
                  "catmerge: a matrix is needed here and this type is a vector "
                  "(tensor_traits<T>::rank is 1)");
  return true;
}

template <class T>
constexpr bool require_vector() {
  static_assert(require_tensor<T>());
  if constexpr (any_tensor<T>)
    static_assert(any_vector<T>,
                  "catmerge: a vector of d entries is needed here, as scales and shifts are, and "
                  "this type is a matrix (tensor_traits<T>::rank is 2)");
  return true;
}

template <class T>
constexpr bool require_mutable() {
  static_assert(require_tensor<T>());
  if constexpr (any_tensor<T>)
    static_assert(has_mutable_view<T>,
                  "catmerge: this tensor is written to, so it must not be const, and "
                  "tensor_traits<T>::view(T&) must exist and return a window that can be written "
                  "(a Map<const ...> or span<const ...> has none)");
  return true;
}

template <class T>
constexpr bool require_makeable() {
  static_assert(require_tensor<T>());
  if constexpr (any_tensor<T>) {
    static_assert(
        has_make<T>,
        "catmerge: tensor_traits<T>::make(like, rows, columns) is missing: it makes the tensor "
        "that a result is returned in");
    if constexpr (has_make<T>)
      static_assert(
          makeable<T> && has_mutable_view<made<T>>,
          "catmerge: what tensor_traits<T>::make(like, rows, columns) returns must itself be a "
          "tensor, of the same domain, that can be written to");
  }
  return true;
}

/// Requires a range that is not itself a tensor.
template <class Range>
constexpr bool require_range() {
  constexpr bool range = requires(const Range& r) {
    unwrap(*std::begin(r));
    std::end(r);
  };
  static_assert(range && !any_tensor<Range>,
                "catmerge: a range, with one element per task or weight, is needed here, such as "
                "std::vector or std::array, and this argument is none");
  if constexpr (range)
    static_assert(std::is_lvalue_reference_v<decltype(*std::begin(std::declval<const Range&>()))>,
                  "catmerge: the elements of this range are made anew each time they are looked "
                  "at (blocks, maps, transformed views), and would be gone before they are used: "
                  "put them into a std::vector first");
  return true;
}

template <class Range>
constexpr bool require_tensors() {
  static_assert(require_range<Range>());
  static_assert(require_tensor<element_t<Range>>());
  return true;
}

template <class A, class B>
constexpr bool require_same_domain() {
  if constexpr (any_tensor<A> && any_tensor<B>)
    static_assert(require_domain<domain_t<A>, domain_t<B>>());
  return true;
}

/// Requires that the context passed to a call is of the domain of T.
template <class Context, class T>
constexpr bool require_context_for() {
  if constexpr (any_tensor<T>)
    static_assert(
        requires { requires std::same_as<typename Context::domain, domain_t<T>>; },
        "catmerge: the last argument of this call must be the context of the domain that its "
        "tensors live in: pass a catmerge::context<Domain>, or none");
  return true;
}

/// False for all types: for overloads that only refuse a call.
template <class...>
inline constexpr bool refused = false;

template <class... Lists>
constexpr bool require_no_braces() {
  static_assert(refused<Lists...>,
                "catmerge: a braced list would copy the tensors in it: pass a std::vector of them, "
                "or of references to them, std::vector{std::cref(a), std::cref(b)}, which copies "
                "nothing");
  return true;
}

/// Refuses calls f(base, experts, ...) with a braced list of experts.
struct braced_experts {
  template <class Base, class E, class... Rest>
  void operator()(const Base&, std::initializer_list<E>, const Rest&...) const {
    static_assert(require_no_braces<E>());
  }
};

}  // namespace catmerge::detail
