// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/statistics.hpp>
#include <catmerge/merge/problem.hpp>
#include <catmerge/merge/report.hpp>
#include <catmerge/tensor/operands.hpp>
#include <cmath>
#include <string>
#include <vector>

/// @file
/// Task vectors of low rank, kept as their two factors, as LoRA adapters are (Hu et al., ICLR
/// 2022). The functions of this folder never form the product of the factors, except dense_vector
/// and add_factors, which are asked to.
namespace catmerge {

/// T = s B A, the task vector of one linear weight (d_out x d_in) of rank r or less. For a LoRA
/// adapter s is alpha / r, or alpha / sqrt(r) with rank stabilisation.
/// @code
/// std::vector<catmerge::factored_vector<Eigen::MatrixXf, Eigen::MatrixXf>> vectors;
/// vectors.push_back({B, A, alpha / r});
/// @endcode
/// B and A: tensors of one domain, views or std::reference_wrappers of such, or handles of a
/// context. Results own their factors.
template <class B, class A>
struct factored_vector {
  B b;               ///< d_out x r
  A a;               ///< r x d_in
  double scale = 1;  ///< s
};

/// factored_vector{B, A}: scale 1.
template <class B, class A>
factored_vector(B, A) -> factored_vector<B, A>;
/// factored_vector{B, A, scale}.
template <class B, class A>
factored_vector(B, A, double) -> factored_vector<B, A>;

/// A factored vector of handles that are read.
template <class Context>
using factored_view = factored_vector<typename Context::const_view, typename Context::const_view>;

/// A factored vector that owns memory of a context.
template <class Context>
using factored_matrix = factored_vector<typename Context::matrix, typename Context::matrix>;

/// One linear weight of K tasks, all task vectors in factors. Every function of this folder that
/// takes several vectors also takes a problem in their place, with the context as the last
/// argument. It then returns factors of type Context::matrix, and messages use its names.
template <class Context>
struct factored_problem {
  std::vector<factored_view<Context>> vectors;  ///< T_i of all K tasks; ranks may differ
  /// One per task, or none where a function needs none: of the inputs X_k of the layer.
  std::vector<statistics_view<typename Context::domain>> statistics{};
  layer_names names{};  ///< for messages
  index_t parts = 1;    ///< fused linears (q, k, v): equal blocks of rows of every B
};

/// The factored task vector that a merge gives, and the report of the merge.
template <class Vector>
struct factored_result {
  Vector merged;        ///< the merged network is theta_0 + scale B A
  layer_report report;  ///< not every method fills every field
};

namespace detail {

/// The tensor that a member of a factored vector is or refers to.
template <class T>
using factor_of = std::remove_cvref_t<decltype(unwrap(std::declval<const T&>()))>;

template <class T>
inline constexpr bool is_factored = false;
template <class B, class A>
inline constexpr bool is_factored<factored_vector<B, A>> = true;

/// Requires a factored vector of matrices, or of handles of the context.
template <class Context, class Vector>
constexpr bool require_factored() {
  static_assert(
      is_factored<Vector>,
      "catmerge: a catmerge::factored_vector is needed here: factored_vector{B, A, scale}, "
      "B d_out x r and A r x d_in");
  using B = factor_of<decltype(Vector::b)>;
  using A = factor_of<decltype(Vector::a)>;
  if constexpr (!handle_of<B, Context>) {
    static_assert(require_matrix<B>());
    static_assert(require_makeable<B>());
  }
  if constexpr (!handle_of<A, Context>) {
    static_assert(require_matrix<A>());
    static_assert(require_makeable<A>());
  }
  static_assert(require_same_domain<B, A>());
  static_assert(require_context_for<Context, B>());
  return true;
}

/// The matrix that replaces a factor in a result.
template <class T, class Context>
struct owned_factor {
  using type = result_t<T>;
};
template <class T, class Context>
requires handle_of<T, Context>
struct owned_factor<T, Context> {
  using type = typename Context::matrix;
};

/// The factored vector that replaces one in a result.
template <class Vector, class Context>
using owned_vector =
    factored_vector<typename owned_factor<factor_of<decltype(Vector::b)>, Context>::type,
                    typename owned_factor<factor_of<decltype(Vector::a)>, Context>::type>;

template <class Context, class Vector>
factored_view<Context> read_factors(const Vector& v) {
  return {const_view_in<Context>(unwrap(v.b)), const_view_in<Context>(unwrap(v.a)), v.scale};
}

template <class Context>
std::vector<factored_view<Context>> views_of_factors(
    const std::vector<factored_matrix<Context>>& list) {
  std::vector<factored_view<Context>> views;
  for (const auto& v : list) views.push_back(read_factors<Context>(v));
  return views;
}

/// A factor for a result, of the family of `like`.
template <class Context, class T>
auto write_factor(Context& c, const T& like, typename Context::matrix found) {
  if constexpr (handle_of<T, Context>) {
    return found;
  } else {
    auto result = make_result(c, like, typename Context::const_view(found));
    c.assign(found, view_of(result));
    return result;
  }
}

/// The result as a factored vector of the family of `like`.
template <class Context, class Vector>
owned_vector<Vector, Context> write_factors(Context& c, const Vector& like,
                                            factored_matrix<Context> found) {
  return {write_factor(c, unwrap(like.b), std::move(found.b)),
          write_factor(c, unwrap(like.a), std::move(found.a)), found.scale};
}

/// Requires a range of factored vectors.
template <class Context, class Vectors>
constexpr bool require_factored_range() {
  static_assert(require_range<Vectors>());
  static_assert(require_factored<Context, element_t<Vectors>>());
  return true;
}

/// The problem of a range of factored vectors.
template <class Context, class Vectors>
factored_problem<Context> problem_of(const Vectors& vectors) {
  static_assert(require_factored_range<Context, Vectors>());
  factored_problem<Context> p;
  for (const auto& v : vectors) p.vectors.push_back(read_factors<Context>(unwrap(v)));
  return p;
}
template <class Context, class Vectors, class Features>
factored_problem<Context> problem_of(const Vectors& vectors, const Features& features) {
  auto p = problem_of<Context>(vectors);
  using B = factor_of<decltype(element_t<Vectors>::b)>;
  if constexpr (!handle_of<B, Context>) static_assert(require_feature_range<Features, B>());
  p.statistics = as_statistics_list(features);
  if (p.statistics.size() != p.vectors.size())
    throw error(p.names.who() + ": features of " + std::to_string(p.statistics.size()) +
                " tasks for " + std::to_string(p.vectors.size()) + " task vectors");
  return p;
}

/// The domain of a range of factored vectors.
template <class Vectors>
constexpr bool require_factors_with_domain() {
  static_assert(require_range<Vectors>());
  static_assert(is_factored<element_t<Vectors>>,
                "catmerge: a range of catmerge::factored_vector is needed here: "
                "factored_vector{B, A, scale}, B d_out x r and A r x d_in");
  static_assert(require_matrix<factor_of<decltype(element_t<Vectors>::b)>>());
  return true;
}

/// The context of a call without one.
template <class Vectors>
auto context_of_factors(const Vectors& vectors)
    -> context<domain_t<factor_of<decltype(element_t<Vectors>::b)>>> {
  if (std::begin(vectors) == std::end(vectors)) return {};
  return context_of(unwrap(unwrap(*std::begin(vectors)).b));
}

/// Throws unless v is finite and its squared norm lies in double's range. `what` names it.
template <class Context>
void check_factor(Context& c, typename Context::const_view v, const std::string& what) {
  if (!c.all_finite(v)) throw not_finite_error(what + " holds a value that is not finite");
  const double square = c.squared_norm(v);
  bool lost = !std::isfinite(square);
  if (square < 0x1p-900 && c.type(v) == scalar_type::f64) {
    auto large = c.make(scalar_type::f64, c.rows(v), c.columns(v));
    c.axpy(0x1p600, v, large);
    lost = lost || c.squared_norm(large) > 0;
  }
  if (lost)
    throw error(what + ": its squared norm " + (square > 1 ? "overflows" : "vanishes in") +
                " float64: multiply it by a power of two and the vector's scale by its inverse");
}

/// Throws unless the vectors fit each other and the statistics fit them.
template <class Context>
void check_factors(Context& c, const factored_problem<Context>& p) {
  if (p.vectors.empty()) throw error(p.names.who() + ": there are no task vectors to merge");
  const index_t d_out = c.rows(p.vectors[0].b), d_in = c.columns(p.vectors[0].a);
  for (index_t k = 0; k < std::ssize(p.vectors); ++k) {
    const auto& v = p.vectors[static_cast<std::size_t>(k)];
    const auto what = [&](const char* factor) {
      return p.names.who() + ": " + factor + " of '" + p.names.task(k) + "'";
    };
    if (c.columns(v.b) != c.rows(v.a))
      throw error(p.names.who() + ": the factors of '" + p.names.task(k) + "': B is " +
                  shape_text(c, v.b) + " and A is " + shape_text(c, v.a) +
                  ": B is d_out x r and A is r x d_in, of one rank r");
    require_shape(c, v.b, d_out, c.columns(v.b), what("B"));
    require_shape(c, v.a, c.rows(v.a), d_in, what("A"));
    check_factor(c, v.b, what("B"));
    check_factor(c, v.a, what("A"));
    if (!std::isfinite(v.scale))
      throw not_finite_error(what("the scale") + " must be a finite number");
  }
  if (p.parts < 1 || d_out % p.parts != 0)
    throw error(p.names.who() + ": " + std::to_string(d_out) + " rows cannot be split into " +
                std::to_string(p.parts) + " equal parts");
  if (p.statistics.empty()) return;
  if (p.statistics.size() != p.vectors.size())
    throw error(p.names.who() + ": features of " + std::to_string(p.statistics.size()) +
                " tasks for " + std::to_string(p.vectors.size()) + " task vectors");
  for (index_t k = 0; k < std::ssize(p.statistics); ++k) {
    const auto& s = p.statistics[static_cast<std::size_t>(k)];
    require_inputs(c, s, d_out, d_in, p.names.features(k));
    if (!c.all_finite(s.data))
      throw error(p.names.features(k) + " hold a value that is not finite");
  }
}

/// The same for a function that needs statistics.
template <class Context>
void check_with_statistics(Context& c, const factored_problem<Context>& p) {
  check_factors(c, p);
  if (p.statistics.empty())
    throw error(p.names.who() +
                ": the features are missing: one matrix of rows n_k x d_in per "
                "task, or its statistics");
}

struct add_factors_fn {
  /// In place: parameter += alpha s B A.
  template <class Parameter, class Vector, class Context>
  void operator()(Parameter& parameter, const Vector& vector, double alpha, Context& c) const {
    static_assert(require_factored<Context, Vector>());
    static_assert(require_written<Context, Parameter>());
    static_assert(require_context_for<Context, Parameter>());
    const factored_problem<Context> p{{read_factors<Context>(vector)}};
    check_factors(c, p);
    const auto& v = p.vectors.front();
    const typename Context::view y = view_in<Context>(parameter);
    require_shape(c, y, c.rows(v.b), c.columns(v.a), "add_factors: parameter");
    c.multiply(alpha * v.scale, v.b, op::none, v.a, op::none, 1, y);
  }

  template <class Parameter, class Vector>
  void operator()(Parameter& parameter, const Vector& vector, double alpha = 1) const {
    static_assert(require_mutable<Parameter>());
    auto c = context_of(parameter);
    (*this)(parameter, vector, alpha, c);
  }
};

struct dense_vector_fn {
  template <class Vector, class Context>
  auto operator()(const Vector& vector, Context& c) const {
    static_assert(require_factored<Context, Vector>());
    const factored_problem<Context> p{{read_factors<Context>(vector)}};
    check_factors(c, p);
    const auto& v = p.vectors.front();
    auto product = c.make(compute_type(c.type(v.b)), c.rows(v.b), c.columns(v.a));
    c.multiply(v.scale, v.b, op::none, v.a, op::none, 0, product);
    return write_factor(c, unwrap(vector.b), std::move(product));
  }

  template <class Vector>
  auto operator()(const Vector& vector) const {
    static_assert(is_factored<Vector>, "catmerge: dense_vector takes a catmerge::factored_vector");
    auto c = context_of(unwrap(vector.b));
    return (*this)(vector, c);
  }
};

}  // namespace detail

/// parameter += alpha s B A, in place, rounded to the parameter's own storage type: how a merged
/// adapter enters a network.
/// @code
/// add_factors(theta, vector);  // alpha = 1; and (theta, vector, alpha[, context])
/// @endcode
/// parameter: d_out x d_in, or a view of the context. Throws catmerge::error if shapes differ or a
/// value is not finite.
inline constexpr detail::add_factors_fn add_factors{};

/// T = s B A as one matrix, d_out x d_in, of B's family and compute type.
/// @code
/// auto T = dense_vector(vector);  // and (vector, context)
/// @endcode
/// Throws catmerge::error if the ranks of B and A differ or a value is not finite.
inline constexpr detail::dense_vector_fn dense_vector{};

}  // namespace catmerge
