// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/factors/detail/core_space.hpp>
#include <catmerge/methods/iso.hpp>
#include <catmerge/methods/tsv_m.hpp>
#include <utility>
#include <vector>

/// @file
/// Merges by singular directions of factored task vectors, in the coordinates of their factors
/// (Panariello et al., "Accurate and Efficient Low-Rank Model Merging in Core Space", NeurIPS 2025,
/// arXiv 2509.17786).
namespace catmerge {

namespace detail {

/// Merges the cores C_k of T_k = Q C_k R^T by a vector_method, and turns the result back. rows,
/// columns: of the matrices that the method sees, at least; the cores are filled up with zeros.
template <class Method, class Context>
factored_result<factored_matrix<Context>> merge_cores(Context& c,
                                                      const factored_problem<Context>& p,
                                                      const Method& method, index_t rows,
                                                      index_t columns) {
  const core_space<Context> space(c, p.vectors);
  const index_t q = space.height(), width = space.width(c), d_out = c.rows(space.left()),
                d_in = c.rows(space.right());
  const auto base = c.make(scalar_type::f64, (std::max)(q, rows), (std::max)(width, columns));
  std::vector<typename Context::matrix> cores;
  for (index_t i = 0; i < std::ssize(p.vectors); ++i)
    space.write_core(c, i,
                     cores.emplace_back(c.make(scalar_type::f64, c.rows(base), c.columns(base))));
  layer_problem<Context> core;
  core.kind = layer_kind::linear;
  core.base = base;
  core.names = p.names;
  auto tau = c.make(scalar_type::f64, c.rows(base), c.columns(base));
  factored_result<factored_matrix<Context>> result;
  result.report.kind = layer_kind::linear;
  const std::vector<typename Context::view> views(cores.begin(), cores.end());
  method.combine(c, core, vector_list<Context>(views), tau, result.report);

  const index_t rank = (std::min)(q, width);
  const auto middle = c.slice(typename Context::const_view(tau), 0, q, 0, width);
  auto& merged = result.merged;
  merged = {c.make(compute_type(c.type(p.vectors[0].b)), d_out, rank),
            c.make(compute_type(c.type(p.vectors[0].a)), rank, d_in), method.factor()};
  if (q <= width) {
    c.assign(space.left(), merged.b);
    c.multiply(1, middle, op::none, space.right(), op::transpose, 0, merged.a);
  } else {
    c.multiply(1, space.left(), op::none, middle, op::none, 0, merged.b);
    c.transpose(space.right(), merged.a);
  }
  return result;
}

/// A call of one of the merges below: merge_of(context, problem, options).
template <class Merge>
struct core_merge_fn {
  using options_type = typename Merge::options_type;

  template <class Context>
  factored_result<factored_matrix<Context>> operator()(const factored_problem<Context>& p,
                                                       const options_type& options,
                                                       Context& c) const {
    validate(options);
    check_factors(c, p);
    if (p.parts > 1 && options.fused == fused_weights::split)
      throw error(p.names.who() +
                  ": the cores of a fused weight are merged as one matrix: ask for "
                  "fused_weights::whole, or merge each block of rows of B alone");
    return Merge{}(c, p, options);
  }

  template <class Vectors, class Context>
  auto operator()(const Vectors& vectors, const options_type& options, Context& c) const {
    auto found = (*this)(problem_of<Context>(vectors), options, c);
    return factored_result<owned_vector<element_t<Vectors>, Context>>{
        write_factors(c, unwrap(*std::begin(vectors)), std::move(found.merged)),
        std::move(found.report)};
  }

  template <class Vectors>
  auto operator()(const Vectors& vectors, const options_type& options = {}) const {
    static_assert(require_factors_with_domain<Vectors>());
    auto c = context_of_factors(vectors);
    return (*this)(vectors, options, c);
  }
};

/// TSV-M takes n = floor(min(d_out, d_in) / K) directions of each T_k, which has r_k at most. With
/// cores of K max r_k rows and columns, or d_out and d_in, n is the same number, or not below r_k.
struct tsv_m_cores {
  using options_type = tsv_m_options;

  template <class Context>
  factored_result<factored_matrix<Context>> operator()(Context& c,
                                                       const factored_problem<Context>& p,
                                                       const tsv_m_options& options) const {
    index_t rank = 1;
    for (const auto& v : p.vectors) rank = (std::max)(rank, c.columns(v.b));
    const index_t most = rank * std::ssize(p.vectors);
    return merge_cores(c, p, tsv_m_method{options}, (std::min)(most, c.rows(p.vectors[0].b)),
                       (std::min)(most, c.columns(p.vectors[0].a)));
  }
};

struct iso_cores {
  using options_type = iso_options;

  template <class Context>
  factored_result<factored_matrix<Context>> operator()(Context& c,
                                                       const factored_problem<Context>& p,
                                                       const iso_options& options) const {
    return merge_cores(c, p, iso_method{options}, 0, 0);
  }
};

}  // namespace detail

/// TSV-Merge (tsv_m_method) of factored task vectors, exactly; the rank is sum r_k at most, the
/// scale alpha.
/// @code
/// auto [merged, report] = tsv_m_factors(adapters);  // and (adapters, options[, context])
/// @endcode
/// Throws catmerge::error if there are no vectors, shapes do not fit, a value is not finite, and
/// for options as validate says.
inline constexpr detail::core_merge_fn<detail::tsv_m_cores> tsv_m_factors{};

/// Isotropic merging (iso_method) of the cores C_k of factored task vectors T_k = Q C_k R^T, q x p.
/// This is another method than iso of the dense task vectors, which takes the mean over min(d_out,
/// d_in) singular values, most of them zero. Here the mean is over min(q, p), the directions that
/// the adapters span. (For Iso-C, iso's result times min(d_out, d_in) / min(q, p). The authors'
/// code on the dense sum also raises the directions outside the span, which are rounding noise.)
/// @code
/// auto [merged, report] = core_iso(adapters);  // and (adapters, options[, context])
/// @endcode
/// Throws catmerge::error as tsv_m_factors does.
inline constexpr detail::core_merge_fn<detail::iso_cores> core_iso{};

}  // namespace catmerge
