// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/factors/sum.hpp>
#include <catmerge/methods/lot.hpp>
#include <utility>
#include <vector>

/// @file
/// LOT Merging of factored task vectors.
namespace catmerge {

namespace detail {

/// LOT's tau is linear in what stands to the left of the T_k. With E_k the columns of the identity
/// that belong to task k, T_k = [B_1 ... B_K] (E_k s_k A_k), so tau = [B_1 ... B_K] times LOT's tau
/// of the E_k s_k A_k, which are (sum r_k) x d_in.
template <class Context>
factored_result<factored_matrix<Context>> lot_problem(Context& c,
                                                      const factored_problem<Context>& p,
                                                      const lot_options& options) {
  validate(options);
  check_with_statistics(c, p);
  factored_problem<Context> unscaled = p;
  for (auto& v : unscaled.vectors) v.scale = 1;
  factored_result<factored_matrix<Context>> result{concatenated(c, unscaled, {}), {}};
  auto& merged = result.merged;
  const index_t rank = c.rows(merged.a), d_in = c.columns(merged.a);
  std::vector<typename Context::matrix> stacked;
  index_t first = 0;
  for (const auto& v : p.vectors) {
    const auto part =
        c.slice(typename Context::view(stacked.emplace_back(c.make(scalar_type::f64, rank, d_in))),
                first, c.rows(v.a), 0, d_in);
    c.axpy(v.scale, v.a, part);
    first += c.rows(v.a);
  }
  layer_problem<Context> problem;
  problem.kind = result.report.kind = layer_kind::linear;
  problem.statistics = p.statistics;
  problem.names = p.names;
  auto tau = c.make(scalar_type::f64, rank, d_in);
  const std::vector<typename Context::view> views(stacked.begin(), stacked.end());
  lot_method{options}.combine(c, problem, vector_list<Context>(views), tau, result.report);
  c.assign(tau, merged.a);
  merged.scale = options.alpha;
  return result;
}

struct lot_factors_fn {
  template <class Context>
  factored_result<factored_matrix<Context>> operator()(const factored_problem<Context>& p,
                                                       const lot_options& options,
                                                       Context& c) const {
    return lot_problem(c, p, options);
  }

  template <class Vectors, class Features, class Context>
  auto operator()(const Vectors& vectors, const Features& features, const lot_options& options,
                  Context& c) const {
    auto found = lot_problem(c, problem_of<Context>(vectors, features), options);
    return factored_result<owned_vector<element_t<Vectors>, Context>>{
        write_factors(c, unwrap(*std::begin(vectors)), std::move(found.merged)),
        std::move(found.report)};
  }

  template <class Vectors, class Features>
  auto operator()(const Vectors& vectors, const Features& features,
                  const lot_options& options = {}) const {
    static_assert(require_factors_with_domain<Vectors>());
    auto c = context_of_factors(vectors);
    return (*this)(vectors, features, options, c);
  }
};

}  // namespace detail

/// LOT Merging (lot_method) of factored task vectors T_k = s_k B_k A_k, exactly, of rank sum r_k:
///
///     tau = sum_k B_k [s_k A_k (S_k + (mu / K) I)(sum_j S_j + mu I)^-1]
///
/// B holds the B_k side by side, A the brackets one below the other, the scale is alpha. No matrix
/// of d_out x d_in is formed.
/// @code
/// auto [merged, report] = lot_factors(adapters, features);  // and (..., options[, context])
/// auto [handles, same] = lot_factors(problem, options, context);
/// @endcode
/// adapters: a range of K factored vectors; features: a range of K, rows X_k, n_k x d_in, as they
/// enter the layer in expert k, or their statistics but no second moments. Throws catmerge::error
/// if there are no vectors, shapes do not fit, a value is not finite, and for options as validate
/// says.
inline constexpr detail::lot_factors_fn lot_factors{};

}  // namespace catmerge
