// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/operands.hpp>

/// @file
/// Task vectors (Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023): the difference
/// T_k = theta_k - theta_0 between an expert and the network that it was fine-tuned from.
namespace catmerge {

namespace detail {

struct task_vector_fn {
  /// T = expert - base, a new tensor of base's family and compute type (half types give float).
  template <class Base, class Expert, class Context>
  auto operator()(const Base& base, const Expert& expert, Context& context) const {
    static_assert(require_makeable<Base>());
    static_assert(require_tensor<Expert>());
    static_assert(require_same_domain<Base, Expert>());
    static_assert(require_context_for<Context, Base>());
    const auto b = const_view_of(base), e = const_view_of(expert);
    require_shape(context, e, context.rows(b), context.columns(b), "task_vector: expert");
    auto result = make_result(context, base, b);
    context.subtract(e, b, view_of(result));
    return result;
  }

  template <class Base, class Expert>
  auto operator()(const Base& base, const Expert& expert) const {
    static_assert(require_makeable<Base>());
    auto c = context_of(base);
    return (*this)(base, expert, c);
  }
};

struct subtract_base_fn {
  /// In place: expert becomes expert - base, in expert's own storage type.
  template <class Base, class Expert, class Context>
  void operator()(const Base& base, Expert& expert, Context& context) const {
    static_assert(require_operand<Context, Base>());
    static_assert(require_written<Context, Expert>());
    static_assert(require_same_domain<Base, Expert>());
    static_assert(require_context_for<Context, Base>());
    static_assert(require_context_for<Context, Expert>());
    const typename Context::const_view b = const_view_in<Context>(base);
    const typename Context::view e = view_in<Context>(expert);
    require_shape(context, e, context.rows(b), context.columns(b), "subtract_base: expert");
    context.axpy(-1, b, e);
  }

  template <class Base, class Expert>
  void operator()(const Base& base, Expert& expert) const {
    static_assert(require_tensor<Base>());
    auto c = context_of(base);
    (*this)(base, expert, c);
  }
};

struct add_task_vector_fn {
  /// In place: parameter += alpha * vector.
  template <class Parameter, class Vector, class Context>
  void operator()(Parameter& parameter, const Vector& vector, double alpha,
                  Context& context) const {
    static_assert(require_written<Context, Parameter>());
    static_assert(require_operand<Context, Vector>());
    static_assert(require_same_domain<Parameter, Vector>());
    static_assert(require_context_for<Context, Parameter>());
    static_assert(require_context_for<Context, Vector>());
    const typename Context::view p = view_in<Context>(parameter);
    const typename Context::const_view v = const_view_in<Context>(vector);
    require_shape(context, v, context.rows(p), context.columns(p), "add_task_vector: vector");
    context.axpy(alpha, v, p);
  }

  template <class Parameter, class Vector>
  void operator()(Parameter& parameter, const Vector& vector, double alpha = 1) const {
    static_assert(require_mutable<Parameter>());
    auto c = context_of(parameter);
    (*this)(parameter, vector, alpha, c);
  }
};

struct with_task_vector_fn {
  /// base + alpha * vector: a new tensor of base's family and compute type.
  template <class Base, class Vector, class Context>
  auto operator()(const Base& base, const Vector& vector, double alpha, Context& context) const {
    static_assert(require_makeable<Base>());
    static_assert(require_tensor<Vector>());
    static_assert(require_same_domain<Base, Vector>());
    static_assert(require_context_for<Context, Base>());
    const auto b = const_view_of(base);
    auto result = make_result(context, base, b);
    require_shape(context, const_view_of(vector), context.rows(b), context.columns(b),
                  "with_task_vector: vector");
    context.assign(b, view_of(result));
    context.axpy(alpha, const_view_of(vector), view_of(result));
    return result;
  }

  template <class Base, class Vector>
  auto operator()(const Base& base, const Vector& vector, double alpha = 1) const {
    static_assert(require_makeable<Base>());
    auto c = context_of(base);
    return (*this)(base, vector, alpha, c);
  }
};

}  // namespace detail

/// T = expert - base, as a new tensor of base's family and compute type (half types give float).
/// @code
/// auto T = task_vector(base, expert);  // and (base, expert, context)
/// @endcode
/// base, expert: vectors or matrices of one shape; storage types may differ. Throws catmerge::error
/// if the shapes differ.
inline constexpr detail::task_vector_fn task_vector{};

/// The same in place: expert becomes expert - base, rounded to its own storage type.
/// @code
/// subtract_base(base, expert);  // and (base, expert, context)
/// @endcode
/// Throws catmerge::error if the shapes differ.
inline constexpr detail::subtract_base_fn subtract_base{};

/// base + alpha T, as a new tensor of base's family and compute type.
/// @code
/// auto theta = with_task_vector(base, T);  // alpha = 1; and (base, T, alpha[, context])
/// @endcode
/// Throws catmerge::error if the shapes differ.
inline constexpr detail::with_task_vector_fn with_task_vector{};

/// The same in place: parameter += alpha T, rounded to the parameter's own storage type.
/// @code
/// add_task_vector(parameter, T);  // alpha = 1; and (parameter, T, alpha[, context])
/// @endcode
/// Throws catmerge::error if the shapes differ.
inline constexpr detail::add_task_vector_fn add_task_vector{};

}  // namespace catmerge
