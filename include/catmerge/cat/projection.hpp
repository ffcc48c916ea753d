// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/detail/basis_search.hpp>
#include <catmerge/features/statistics.hpp>
#include <catmerge/tensor/operands.hpp>

/// @file
/// CAT Merging's trim of linear weights (Sun et al., ICML 2025): a removal basis B_k per protected
/// task, and Phi_k(T_i) = (I - B_k B_k^T) T_i for the others.
namespace catmerge {

namespace detail {

/// T -= V (U^T T); returns U^T T.
template <class Context>
typename Context::matrix remove_directions(Context& c, typename Context::const_view v,
                                           typename Context::const_view u,
                                           typename Context::view t) {
  auto coefficients = c.make(compute_type(c.type(t)), c.columns(u), c.columns(t));
  if (c.columns(v) == 0) return coefficients;
  c.multiply(1, u, op::transpose, t, op::none, 0, coefficients);
  c.multiply(-1, v, op::none, coefficients, op::none, 1, t);
  return coefficients;
}

/// Bases side by side, d_out x (the sum of their widths), f64.
template <class Context>
typename Context::matrix side_by_side(Context& c,
                                      const std::vector<typename Context::const_view>& bases,
                                      index_t size) {
  index_t total = 0;
  for (const auto& b : bases) total += c.columns(b);
  auto all = c.make(scalar_type::f64, size, total);
  index_t column = 0;
  for (const auto& b : bases) {
    c.assign(b, c.slice(typename Context::view(all), 0, size, column, c.columns(b)));
    column += c.columns(b);
  }
  return all;
}

/// T -= V (U^T T) applies (I - B_m B_m^T) ... (I - B_1 B_1^T) to T with two products instead of 2
/// m: V = [B_1 ... B_m], U = V M^T, M = (I + L)^-1. L is the part of V^T V below its diagonal
/// blocks B_l^T B_l. (B_j acts on T after B_1 ... B_{j-1}, so its coefficients are c_j = B_j^T T -
/// sum_{l < j} B_j^T B_l c_l.)
template <class Context>
struct compact_trim {
  compact_trim(Context& c, const std::vector<typename Context::const_view>& bases, index_t size)
      : v(side_by_side(c, bases, size)) {
    auto square = c.make(scalar_type::f64, c.columns(v), c.columns(v));
    c.multiply(1, v, op::transpose, v, op::none, 0, square);
    const small_matrix overlap = c.to_host(square);
    const index_t n = overlap.rows();
    std::vector<index_t> start;  // of each column: its basis's first column
    for (const auto& b : bases)
      for (index_t j = 0, first = std::ssize(start); j < c.columns(b); ++j) start.push_back(first);
    small_matrix inverse(n, n);  // M^T, by forward substitution
    for (index_t j = 0; j < n; ++j)
      for (index_t i = 0; i < n; ++i) {
        double sum = i == j ? 1 : 0;
        for (index_t l = j; l < start[static_cast<std::size_t>(i)]; ++l)
          sum -= overlap(i, l) * inverse(j, l);
        inverse(j, i) = sum;
      }
    auto factor = c.make(scalar_type::f64, n, n);
    c.from_host(inverse, factor);
    u = c.make(scalar_type::f64, size, n);
    c.multiply(1, v, op::none, factor, op::none, 0, u);
  }

  typename Context::matrix v, u;
};

/// An orthonormal basis of the span of several bases, d_out x (at most the sum of their widths).
template <class Context>
typename Context::matrix joint_basis(Context& c,
                                     const std::vector<typename Context::const_view>& bases,
                                     index_t size) {
  using view = typename Context::view;
  index_t total = 0;
  for (const auto& b : bases) total += c.columns(b);
  auto all = c.make(scalar_type::f64, total, size);  // as rows
  index_t used = 0;
  for (const auto& b : bases) {
    const index_t width = c.columns(b);
    if (width == 0) continue;
    auto block = c.make(scalar_type::f64, width, size);
    c.transpose(b, block);
    const index_t kept = orthonormalise(c, all, used, block);
    c.assign(c.slice(view(block), 0, kept, 0, size), c.slice(view(all), used, kept, 0, size));
    used += kept;
  }
  auto basis = c.make(scalar_type::f64, size, used);
  c.transpose(c.slice(view(all), 0, used, 0, size), basis);
  return basis;
}

/// Calls apply(V, U) for the trim T -= V (U^T T) off several bases, in this order: compact_trim, or
/// joint_basis for both.
template <class Context, class F>
void project_off_all(Context& c, const std::vector<typename Context::const_view>& bases,
                     index_t size, trim_order order, const F& apply) {
  if (order == trim_order::sequential) {
    const compact_trim<Context> all(c, bases, size);
    apply(all.v, all.u);
  } else {
    const auto joint = joint_basis(c, bases, size);
    apply(joint, joint);
  }
}

struct removal_basis_fn {
  template <class VectorRange, class FeatureRange, class Context>
  auto operator()(index_t k, const VectorRange& vectors, const FeatureRange& features,
                  const projection_options& options, Context& c) const {
    static_assert(require_tensors<VectorRange>());
    using T = element_t<VectorRange>;
    static_assert(require_matrix<T>());
    static_assert(require_makeable<T>());
    static_assert(require_feature_range<FeatureRange, T>());
    static_assert(require_context_for<Context, T>());
    validate(options);
    auto views = read_all<Context>(vectors);
    auto statistics = as_statistics_list(features);
    if (views.empty() || k < 0 || k >= std::ssize(views))
      throw error("removal_basis: task " + std::to_string(k) + " of " +
                  std::to_string(views.size()));
    if (statistics.size() != views.size())
      throw error("removal_basis: features of " + std::to_string(statistics.size()) +
                  " tasks for " + std::to_string(views.size()) + " task vectors");
    for (std::size_t i = 0; i < views.size(); ++i) {
      require_shape(c, views[i], c.rows(views[0]), c.columns(views[0]),
                    "removal_basis: task vector " + std::to_string(i));
      require_inputs(c, statistics[i], c.rows(views[0]), c.columns(views[0]),
                     "removal_basis: features " + std::to_string(i));
      if (!c.all_finite(views[i]))
        throw error("removal_basis: task vector " + std::to_string(i) +
                    " holds a value that is not finite");
      if (!c.all_finite(statistics[i].data))
        throw error("removal_basis: features " + std::to_string(i) +
                    " hold a value that is not finite");
    }
    gram_problem<Context> problem{std::move(views), std::move(statistics)};
    problem.wanted = {k};
    problem.who = "removal_basis";
    const auto [gram, plan] = make_gram(c, std::move(problem), options);
    auto found = std::move(find_bases(c, *gram, {k}, options, plan).front());
    const T& like = unwrap(*std::begin(vectors));
    removal_basis_result<result_t<T>> result{
        make_result(c, like, typename Context::const_view(found.basis)),
        std::move(found.eigenvalues),
        std::move(found.spectrum),
        found.magnitude,
        found.residual,
        found.positive,
        found.products,
        found.solver};
    c.assign(found.basis, view_of(result.basis));
    return result;
  }

  template <class VectorRange, class FeatureRange>
  auto operator()(index_t k, const VectorRange& vectors, const FeatureRange& features,
                  const projection_options& options = {}) const {
    static_assert(require_tensors<VectorRange>());
    auto c = context_of_first(vectors);
    return (*this)(k, vectors, features, options, c);
  }
};

struct project_out_fn {
  /// T <- (I - B B^T) T, in place.
  template <class Basis, class T, class Context>
  void operator()(const Basis& basis, T& t, Context& c) const {
    if constexpr (!handle_of<Basis, Context>) static_assert(require_matrix<Basis>());
    if constexpr (!handle_of<T, Context>) static_assert(require_matrix<T>());
    static_assert(require_written<Context, T>());
    static_assert(require_same_domain<Basis, T>());
    static_assert(require_context_for<Context, T>());
    static_assert(require_context_for<Context, Basis>());
    const typename Context::const_view b = const_view_in<Context>(basis);
    const typename Context::view trimmed = view_in<Context>(t);
    require_shape(c, b, c.rows(trimmed), c.columns(b), "project_out: basis");
    remove_directions(c, b, b, trimmed);
  }

  template <class Basis, class T>
  void operator()(const Basis& basis, T& t) const {
    static_assert(require_matrix<T>());
    auto c = context_of(t);
    (*this)(basis, t, c);
  }
};

}  // namespace detail

/// The rule of CAT Merging: the bases that minimise Eq. 8, as in removal_basis. Your own rule needs
/// the same operator(); cat_trim_with<your_rule> (trim.hpp) trims by it.
struct conflict_bases {
  /// Throws catmerge::error if a G_k leaves the range of double.
  template <class Context>
  removal_bases<Context> operator()(Context& c, const removal_problem<Context>& p) const {
    const index_t tasks = std::ssize(p.vectors);
    std::vector<index_t> all;
    for (index_t k = 0; k < tasks; ++k) all.push_back(k);
    detail::gram_problem<Context> problem{p.vectors, p.statistics};
    problem.wanted = all;
    problem.energies = p.energies;
    problem.who = p.who;
    const auto [gram, plan] = detail::make_gram(c, std::move(problem), p.options);
    removal_bases<Context> found;
    if (p.wants_shifts) {
      found.shifts = Eigen::MatrixXd(tasks, tasks);
      c.concurrently(tasks * tasks, [&, &g = *gram](index_t pair) {
        const index_t i = pair / tasks, k = pair % tasks;
        found.shifts(k, i) = g.shift_energy(k, i);
      });
    }
    found.of_task = detail::find_bases(c, *gram, all, p.options, plan);
    return found;
  }
};

/// B_k, d_out x c: the directions of output space along which the other tasks' conflict with task k
/// exceeds lambda times the deviation that a removal causes. Eq. 8 of CAT Merging (Sun et al., ICML
/// 2025) is a constant minus tr(B^T G_k B), so B_k holds eigenvectors of the largest eigenvalues of
///
///     G_k = sum_{i != k} T_i (X_k^T X_k - lambda X_i^T X_i) T_i^T
/// @code
/// auto found = removal_basis(k, vectors, features);  // and (..., options[, context])
/// project_out(found.basis, vectors[i]);              // for every i != k
/// @endcode
/// vectors: a range of K task vectors, d_out x d_in; features: a range of K, rows X_i, n_i x d_in,
/// or their statistics. Returns a removal_basis_result, `basis` of the vectors' family and compute
/// type. At most min(d_out, (K - 1) n_k) eigenvalues are positive. B is unique up to rotation
/// within equal eigenvalues: compare B B^T or the value of Eq. 8, never B.
///
/// Throws catmerge::error if k is not a task, tasks or extents do not match, features are second
/// moments, or a value is not finite, and for options that validate refuses.
inline constexpr detail::removal_basis_fn removal_basis{};

/// T <- (I - B B^T) T in place: Phi_k(T) of a linear weight, in the stored layout.
/// @code
/// project_out(B, T);  // and (B, T, context)
/// @endcode
/// B: d_out x c, with orthonormal columns (not checked); T: d_out x d_in, or a view of the context,
/// as in a transform (even a const view, which is a handle). Throws catmerge::error if B and T
/// differ in their numbers of rows.
inline constexpr detail::project_out_fn project_out{};

}  // namespace catmerge
