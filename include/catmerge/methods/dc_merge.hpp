// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/merge/call.hpp>
#include <catmerge/methods/breadcrumbs.hpp>
#include <catmerge/methods/detail/matrix_parts.hpp>
#include <catmerge/methods/ties.hpp>
#include <catmerge/numeric/thin_svd.hpp>
#include <cmath>
#include <vector>

namespace catmerge {

/// Settings of DC-Merge.
struct dc_merge_options {
  double alpha = 1;      ///< the factor of the merged task vector
  double share = 0.001;  ///< the share of entries that each task keeps; 0.001 in the authors' code
  /// Weights that hold several linears: one matrix, as in the authors' code, or each alone.
  fused_weights fused = fused_weights::whole;
};

/// Throws catmerge::error for an alpha that is not finite or a share outside (0, 1].
inline void validate(const dc_merge_options& options) {
  if (!std::isfinite(options.alpha)) throw error("DC-Merge: alpha must be a finite number");
  if (!(options.share > 0 && options.share <= 1))
    throw error("DC-Merge: share must be above 0 and at most 1");
}

/// DC-Merge [layer by layer] (CVPR 2026, arXiv 2603.06242), as its authors merge networks that were
/// fine-tuned in full (Tobeginwith/DC-Merge). For matrices of d_out x d_in, r = min(d_out, d_in)
/// and n = floor(r / K), with U_k diag(s_k) V_k^T the n largest singular triplets of T_k:
///
///     U = polar([U_1 ... U_K]),  V = polar([V_1 ... V_K]),   polar(M) = M (M^T M)^(-1/2)
///     M_k = U^T (U_k diag(s_k) V_k^T) V, and of these the max(1, floor(share r^2)) largest entries
///     M   = sign of the sum and mean of those that have it, as in TIES; 0 where the sum is 0
///     tau = U M' V^T,   M' = M in the K blocks of n x n on the diagonal, else 0
///
/// and theta = theta_0 + alpha tau. Singular values that count as zero (gram_cut) are left out with
/// their vectors, as in tsv_m_method. The smoothing of singular values that the paper adds for LoRA
/// is not offered.
///
/// Applies to linears, and to tables and embeddings that are matrices (the authors' code leaves out
/// CLIP's text projection). All else, and matrices with r < K: the mean of the task vectors, and a
/// fallback in the report. Needs no statistics.
struct dc_merge_method {
  dc_merge_options options{};  ///< checked by validate in each merge

  /// Embeddings and tables are merged as matrices: they must not come in pieces of rows.
  static constexpr bool sees_matrices() { return true; }

  /// alpha.
  double factor() const { return options.alpha; }

  /// tau as above.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    validate(options);
    detail::merge_matrices(c, p, options.fused, vectors, tau, report,
                           [&](const auto& t, const auto& part) { add<Context>(c, p, t, part); });
  }

 private:
  template <class Context>
  void add(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
           const typename Context::view& tau) const {
    using const_view = typename Context::const_view;
    const index_t r = (std::min)(c.rows(tau), c.columns(tau)), n = r / std::ssize(vectors);
    std::vector<detail::thin_svd<Context>> tasks;
    for (const auto& t : vectors) tasks.push_back(detail::leading_singular(c, t, n));
    const auto left = cover(c, c.rows(tau), tasks, [](const auto& task) { return &task.left; });
    const auto right =
        cover(c, c.columns(tau), tasks, [](const auto& task) { return &task.right; });
    const index_t size = c.columns(left);
    if (size == 0) return;
    std::vector<typename Context::matrix> cores;
    for (const auto& task : tasks) {
      const index_t own = std::ssize(task.values);
      auto u = c.make(scalar_type::f64, size, own), v = c.make(scalar_type::f64, size, own);
      c.multiply(1, left, op::transpose, task.left, op::none, 0, u);
      c.scale_columns(task.values, u);
      c.multiply(1, right, op::transpose, task.right, op::none, 0, v);
      cores.push_back(c.make(scalar_type::f64, size, size));
      c.multiply(1, u, op::none, v, op::transpose, 0, cores.back());
    }
    auto core = elected(c, p, r, cores);
    // The blocks on the diagonal alone.
    index_t first = 0;
    for (const auto& task : tasks) {
      const index_t own = std::ssize(task.values);
      const auto columns = [&](const typename Context::matrix& m) {
        return c.slice(const_view(m), 0, c.rows(m), first, own);
      };
      auto along = c.make(scalar_type::f64, c.rows(tau), own);
      c.multiply(1, columns(left), op::none, c.slice(const_view(core), first, own, first, own),
                 op::none, 0, along);
      c.multiply(1, along, op::none, columns(right), op::transpose, 1, tau);
      first += own;
    }
  }

  /// polar of the tasks' singular vectors side by side.
  template <class Context, class Side>
  static typename Context::matrix cover(Context& c, index_t rows,
                                        const std::vector<detail::thin_svd<Context>>& tasks,
                                        const Side& side) {
    index_t columns = 0;
    for (const auto& task : tasks) columns += std::ssize(task.values);
    auto all = c.make(scalar_type::f64, rows, columns);
    index_t first = 0;
    for (const auto& task : tasks) {
      const index_t own = std::ssize(task.values);
      c.assign(*side(task), c.slice(typename Context::view(all), 0, rows, first, own));
      first += own;
    }
    return detail::polar_factor(c, all);
  }

  /// M of the M_k, of which the largest entries stay.
  template <class Context>
  typename Context::matrix elected(Context& c, const layer_problem<Context>& p, index_t r,
                                   std::vector<typename Context::matrix>& cores) const {
    const auto views = views_of<Context>(cores);
    const vector_list<Context> list(views);
    const index_t size = c.rows(cores.front());
    const double entries = static_cast<double>(size) * static_cast<double>(size),
                 wanted =
                     std::floor(static_cast<double>(r) * static_cast<double>(r) * options.share);
    breadcrumbs_options largest;
    largest.gamma = 0;
    largest.density = (std::min)(1.0, ((std::max)(1.0, wanted) + 0.5) / entries);
    layer_report unused;
    breadcrumbs_trim{largest}.apply(c, p, list, unused);
    ties_elect election;
    election.end_scan();  // what has no sum is set to zero below
    auto merged = c.make(scalar_type::f64, size, size), sum = c.make(scalar_type::f64, size, size);
    election.combine(c, p, list, merged, unused);
    sum_vectors(c, list, typename Context::view(sum));
    c.map(entry_function::sign, 0, sum, sum);
    c.map(entry_function::absolute, 0, sum, sum);
    c.zip(pair_function::product, sum, merged, merged);
    return merged;
  }
};

/// DC-Merge of one matrix, as dc_merge_method.
/// @code
/// auto [merged, report] = dc_merge(base, experts);  // and (base, experts, options[, context])
/// @endcode
/// base: d_out x d_in; experts: a range of K of its shape, in its domain. Returns a merge_result,
/// `merged` of base's family and compute type. Throws catmerge::error if there are no experts,
/// shapes differ, a value is not finite, and for options as validate says.
inline constexpr detail::vectors_fn<dc_merge_method, layer_kind::linear> dc_merge{};

}  // namespace catmerge
