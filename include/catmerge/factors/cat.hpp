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
/// and so are norms, conflicts and deviations. The dense trim of the C_i gives the report and, in
/// these coordinates, the bases V, which trim the B_i: B_i - Q V V^T (Q^T B_i).
template <class Context>
class factor_trim {
  using matrix = typename Context::matrix;
  using view = typename Context::view;
  using const_view = typename Context::const_view;

 public:
  factor_trim(Context& c, const factored_problem<Context>& p, const cat_options& options)
      : c_(c),
        p_(p),
        options_(options),
        space_(c, p.vectors, options.fused == fused_weights::split ? p.parts : 1,
               directions_outside(options.linear.directions)) {}

  trimmed_factors<factored_matrix<Context>> run() {
    trimmed_factors<factored_matrix<Context>> result;
    result.report.kind = layer_kind::linear;
    trim_cores(result.report);
    result.vectors.resize(p_.vectors.size());
    c_.concurrently(tasks(), [&](index_t i) {
      const auto& v = p_.vectors[at(i)];
      auto a = c_.make(compute_type(c_.type(v.a)), c_.rows(v.a), c_.columns(v.a));
      c_.assign(v.a, a);
      result.vectors[at(i)] = {trimmed_factor(i), std::move(a), v.scale};
    });
    return result;
  }

 private:
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  index_t tasks() const { return std::ssize(p_.vectors); }

  /// Fills the report, and keeps the bases of all tasks, part by part.
  void trim_cores(layer_report& report) {
    const core_statistics<Context> inputs(c_, space_, p_.statistics);
    const auto base = c_.make(scalar_type::f64, space_.parts() * space_.height(), space_.width(c_));
    std::vector<matrix> cores;
    for (index_t i = 0; i < tasks(); ++i) {
      cores.push_back(space_.core(c_, i));
      trimmed_.push_back(space_.core(c_, i));
    }
    layer_problem<Context> core;
    core.kind = layer_kind::linear;
    core.parts = space_.parts();
    core.base = base;
    core.experts = {cores.begin(), cores.end()};
    core.statistics = inputs.views;
    core.names = p_.names;
    cat_options options = options_;
    // The count of operations behind `automatic` (basis_plan) leaves out what small products cost.
    // For 128 directions the dense solver takes half the time of a search.
    if (options.linear.solver == basis_solver::automatic && space_.height() <= 256)
      options.linear.solver = basis_solver::dense;
    const std::vector<view> views(trimmed_.begin(), trimmed_.end());
    trim_vectors<layer_kind::linear>(c_, core, options, kept_bases<Context>{bases_},
                                     vector_list<Context>(views), report);
  }

  /// B_i', in the compute type.
  matrix trimmed_factor(index_t i) {
    const auto& v = p_.vectors[at(i)];
    const index_t rank = c_.columns(v.b), rows = c_.rows(v.b) / space_.parts();
    auto b = c_.make(scalar_type::f64, c_.rows(v.b), rank);
    c_.assign(v.b, b);
    for (index_t part = 0; part < space_.parts(); ++part)
      trim_part(i, part, c_.slice(view(b), part * rows, rows, 0, rank));
    auto stored = c_.make(compute_type(c_.type(v.b)), c_.rows(v.b), rank);
    c_.assign(b, stored);
    return stored;
  }

  /// The trim of one part of B_i.
  void trim_part(index_t i, index_t part, const view& b) {
    std::vector<const_view> others;
    for (index_t k = 0; k < tasks(); ++k)
      if (k != i) others.push_back(bases_[at(part * tasks() + k)]);
    const const_view before = space_.left_of(c_, part, i);
    const index_t rows = c_.rows(before), rank = c_.columns(before);
    auto after = c_.make(scalar_type::f64, rows, rank),
         removed = c_.make(scalar_type::f64, rows, rank);
    c_.assign(before, after);
    project_off_all(c_, others, rows, options_.linear.order,
                    [&](const const_view& basis, const const_view& dual) {
                      remove_directions<Context>(c_, basis, dual, after);
                    });
    c_.subtract(before, after, removed);
    c_.multiply(-1, space_.left(part), op::none, removed, op::none, 1, b);
    // As the dense trim settled it: to its size, or to zero where only rounding was left.
    const double settled = c_.squared_norm(c_.slice(
        const_view(trimmed_[at(i)]), part * space_.height(), space_.height(), 0, space_.width(c_)));
    if (settled == 0 && core_energy(i, before) > 0)
      c_.scale(0, b);
    else if (settled > 0 && options_.linear.rescaling != rescale::none)
      c_.scale(std::sqrt(settled / core_energy(i, after)), b);
  }

  double core_energy(index_t i, const const_view& b) {
    auto core = c_.make(scalar_type::f64, space_.height(), space_.width(c_));
    space_.write_core(c_, i, b, core);
    return c_.squared_norm(core);
  }

  Context& c_;
  const factored_problem<Context>& p_;
  const cat_options& options_;
  core_space<Context> space_;
  std::vector<matrix> bases_;    // of task k in part p: number p K + k
  std::vector<matrix> trimmed_;  // the cores after the trim
};

template <class Context>
trimmed_factors<factored_matrix<Context>> trim_problem(Context& c,
                                                       const factored_problem<Context>& p,
                                                       const cat_options& options) {
  validate(options);
  check_with_statistics(c, p);
  return factor_trim<Context>(c, p, options).run();
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
/// plays no part, and parts of a fused weight are those of a factored_problem. The report is that
/// of the dense trim. Directions are chosen and vectors trimmed in double. Throws catmerge::error
/// if there are no vectors, shapes do not fit, or a value is not finite, and for options that
/// validate refuses.
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
