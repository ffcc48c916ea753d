// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/trim.hpp>
#include <catmerge/factors/detail/core_space.hpp>
#include <catmerge/factors/sum.hpp>
#include <cmath>
#include <utility>
#include <vector>

/// @file
/// CAT Merging (Sun et al., ICML 2025) of factored task vectors.
namespace catmerge {

/// The trimmed task vectors, and the report of the trim.
template <class Vector>
struct trimmed_factors {
  std::vector<Vector> vectors;  ///< B_i trimmed, A_i and the scale as they were
  layer_report report;          ///< as that of a dense trim
};

namespace detail {

/// A rule for removal bases that keeps what it found.
template <class Context>
struct kept_bases {
  std::vector<typename Context::matrix>& kept;

  removal_bases<Context> operator()(Context& c, const removal_problem<Context>& p) const {
    auto found = conflict_bases{}(c, p);
    for (const auto& result : found.of_task) {
      const typename Context::const_view basis = result.basis;
      c.assign(basis, kept.emplace_back(c.make(scalar_type::f64, c.rows(basis), c.columns(basis))));
    }
    return found;
  }
};

/// The number of directions beside the span of the B_i that the rule may take: if eigenvalues of
/// either sign are taken, zeros come before negative ones, and most zeros of G_k lie outside.
inline index_t directions_outside(const direction_rule& rule) {
  const auto* few = std::get_if<largest>(&rule);
  return few != nullptr && !few->positive_only ? few->count : 0;
}

/// CAT's trim in the core space: T_i = Q C_i R^T, so G_k is that of the C_i and X_k R, turned by Q,
/// and so are norms, conflicts and deviations. The dense trim of the C_i gives the report and the
/// bases V in these coordinates, which trim the B_i: B_i - Q V V^T (Q^T B_i).
template <class Context>
trimmed_factors<factored_matrix<Context>> trim_problem(Context& c,
                                                       const factored_problem<Context>& p,
                                                       cat_options options) {
  using matrix = typename Context::matrix;
  using const_view = typename Context::const_view;
  validate(options);
  check_with_statistics(c, p);
  const auto at = [](index_t i) { return static_cast<std::size_t>(i); };
  const index_t tasks = std::ssize(p.vectors);
  const core_space<Context> space(c, p.vectors, directions_outside(options.linear.directions));
  const core_statistics<Context> inputs(c, space, p.statistics);
  const auto base = c.make(scalar_type::f64, space.height(c), space.width(c));
  std::vector<matrix> cores, trimmed;
  layer_problem<Context> core;
  core.kind = layer_kind::linear;
  core.base = base;
  core.statistics = inputs.views;
  core.names = p.names;
  for (index_t i = 0; i < tasks; ++i) {
    cores.push_back(space.core(c, i));
    trimmed.push_back(space.core(c, i));
  }
  core.experts = {cores.begin(), cores.end()};
  // The count of operations behind `automatic` (basis_plan) leaves out what small products cost. Up
  // to 128 directions the dense solver takes half the time of a search.
  if (options.linear.solver == basis_solver::automatic && space.height(c) <= 256)
    options.linear.solver = basis_solver::dense;

  trimmed_factors<factored_matrix<Context>> result;
  result.report.kind = layer_kind::linear;
  std::vector<matrix> bases;
  const std::vector<typename Context::view> views(trimmed.begin(), trimmed.end());
  trim_vectors<layer_kind::linear>(c, core, options, kept_bases<Context>{bases},
                                   vector_list<Context>(views), result.report);
  const trim_report& report = *result.report.trim;

  result.vectors.resize(p.vectors.size());
  c.concurrently(tasks, [&](index_t i) {
    const auto& v = p.vectors[at(i)];
    const index_t rank = c.columns(v.b);
    std::vector<const_view> others;
    for (index_t k = 0; k < tasks; ++k)
      if (k != i) others.push_back(bases[at(k)]);
    const const_view before = space.left_of(c, i);
    auto after = c.make(scalar_type::f64, c.rows(before), rank);
    auto removed = c.make(scalar_type::f64, c.rows(before), rank);
    c.assign(before, after);
    project_off_all(c, others, c.rows(before), options.linear.order,
                    [&](const const_view& basis, const const_view& dual) {
                      remove_directions<Context>(c, basis, dual, after);
                    });
    c.subtract(before, after, removed);
    auto b = c.make(scalar_type::f64, c.rows(v.b), rank);
    auto a = c.make(compute_type(c.type(v.a)), rank, c.columns(v.a));
    c.assign(v.b, b);
    c.assign(v.a, a);
    c.multiply(-1, space.left(), op::none, removed, op::none, 1, b);
    const auto& emptied = report.emptied;
    if (std::find(emptied.begin(), emptied.end(), i) != emptied.end()) {
      c.scale(0, b);
    } else if (options.linear.rescaling == rescale::frobenius && report.norm[at(i)] > 0) {
      auto left = c.make(scalar_type::f64, space.height(c), space.width(c));
      space.write_core(c, i, after, left);
      c.scale(report.norm[at(i)] / std::sqrt(c.squared_norm(left)), b);
    }
    auto stored = c.make(compute_type(c.type(v.b)), c.rows(v.b), rank);
    c.assign(b, stored);
    result.vectors[at(i)] = {std::move(stored), std::move(a), v.scale};
  });
  return result;
}

struct trim_factors_fn {
  template <class Context>
  trimmed_factors<factored_matrix<Context>> operator()(const factored_problem<Context>& p,
                                                       const cat_options& options,
                                                       Context& c) const {
    return trim_problem(c, p, options);
  }

  template <class Vectors, class Features, class Context>
  auto operator()(const Vectors& vectors, const Features& features, const cat_options& options,
                  Context& c) const {
    auto found = trim_problem(c, problem_of<Context>(vectors, features), options);
    trimmed_factors<owned_vector<element_t<Vectors>, Context>> result;
    result.report = std::move(found.report);
    auto trimmed = found.vectors.begin();
    for (const auto& v : vectors)
      result.vectors.push_back(write_factors(c, unwrap(v), std::move(*trimmed++)));
    return result;
  }

  template <class Vectors, class Features>
  auto operator()(const Vectors& vectors, const Features& features,
                  const cat_options& options = {}) const {
    static_assert(require_factors_with_domain<Vectors>());
    auto c = context_of_factors(vectors);
    return (*this)(vectors, features, options, c);
  }
};

struct cat_factors_fn {
  template <class Context>
  factored_result<factored_matrix<Context>> operator()(const factored_problem<Context>& p,
                                                       const cat_options& options,
                                                       Context& c) const {
    auto trimmed = trim_problem(c, p, options);
    const factored_problem<Context> parts{views_of_factors<Context>(trimmed.vectors), {}, p.names};
    return {concatenated(c, parts, std::vector<double>(p.vectors.size(), options.alpha)),
            std::move(trimmed.report)};
  }

  template <class Vectors, class Features, class Context>
  auto operator()(const Vectors& vectors, const Features& features, const cat_options& options,
                  Context& c) const {
    auto found = (*this)(problem_of<Context>(vectors, features), options, c);
    return factored_result<owned_vector<element_t<Vectors>, Context>>{
        write_factors(c, unwrap(*std::begin(vectors)), std::move(found.merged)),
        std::move(found.report)};
  }

  template <class Vectors, class Features>
  auto operator()(const Vectors& vectors, const Features& features,
                  const cat_options& options = {}) const {
    static_assert(require_factors_with_domain<Vectors>());
    auto c = context_of_factors(vectors);
    return (*this)(vectors, features, options, c);
  }
};

}  // namespace detail

/// CAT's trim (cat_trim) of factored task vectors T_i = s_i B_i A_i, exactly: for an orthonormal
/// basis Q of all columns of the B_i, the matrix of Eq. 8 is
///
///     Q^T G_k Q = sum_{i != k} s_i^2 (Q^T B_i)(Z_ik^T Z_ik - lambda Z_ii^T Z_ii)(Q^T B_i)^T,
///     Z_ik = X_k A_i^T   (for a Gram matrix S_k: Z_ik^T Z_ik = A_i S_k A_i^T)
///
/// of size sum r_i, and zero outside. Its leading eigenvectors, lifted by Q, are the removal basis
/// V_k, and the trim is B_i <- B_i - V_k (V_k^T B_i): A_i stays, no rank grows, and no matrix of
/// d_out x d_in is formed.
/// @code
/// auto [vectors, report] = trim_factors(adapters, features);  // and (..., options[, context])
/// auto [handles, same] = trim_factors(problem, options, context);
/// @endcode
/// adapters: a range of K factored vectors; features: a range of K, rows X_k, n_k x d_in, or their
/// statistics but no second moments. Every option of cat_options for linear weights applies; alpha
/// plays no part, and a fused weight is trimmed in parts by a call for each block of rows of its
/// B_i. The report is that of the dense trim. Directions are chosen and vectors trimmed in double.
/// Throws catmerge::error if there are no vectors, shapes do not fit, or a value is not finite, and
/// for options that validate refuses.
inline constexpr detail::trim_factors_fn trim_factors{};

/// CAT Merging of factored task vectors, as cat_linear: alpha times the sum of the trimmed vectors,
/// one factored vector of rank sum r_i (concatenate; compress gives a lower rank).
/// @code
/// auto [merged, report] = cat_factors(adapters, features);  // and (..., options[, context])
/// add_factors(theta, merged);
/// @endcode
/// Arguments and errors as those of trim_factors.
inline constexpr detail::cat_factors_fn cat_factors{};

}  // namespace catmerge
