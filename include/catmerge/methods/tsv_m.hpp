// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/call.hpp>
#include <catmerge/methods/detail/matrix_parts.hpp>
#include <catmerge/numeric/orthogonal_sum.hpp>

namespace catmerge {

/// Settings of TSV-M.
struct tsv_m_options {
  double alpha = 1;  ///< the factor of the merged task vector; the paper has 1
  /// Weights that hold several linears: one matrix, as in the authors' code, or each alone.
  fused_weights fused = fused_weights::whole;
};

/// Throws catmerge::error for an alpha that is not finite.
inline void validate(const tsv_m_options& options) {
  if (!std::isfinite(options.alpha)) throw error("TSV-M: alpha must be a finite number");
}

/// TSV-Merge [layer by layer] (Gargiulo, Crisostomi, Bucarelli, Scardapane, Silvestri, Rodola,
/// "Task Singular Vectors: Reducing Task Interference in Model Merging", CVPR 2025, arXiv
/// 2412.00081): the leading singular vectors of each task vector, made orthogonal to those of the
/// other tasks. For matrices of d_out x d_in, r = min(d_out, d_in) and n = floor(r / K):
///
///     T_k ~ U_k diag(s_k) V_k^T, the n largest singular values;   U = [U_1 ... U_K], s, V likewise
///     tau = polar(U) diag(s) polar(V)^T,   polar(M) = M (M^T M)^(-1/2)
///
/// and theta = theta_0 + alpha tau. The root is a pseudo-inverse: a direction shared by tasks is
/// taken once, and zero singular values (as gram_cut of gram_eigen.hpp decides) add no direction.
/// The authors' code fills up both with arbitrary vectors of the decomposition.
///
/// Applies to linears, and to tables and embeddings that are matrices (the authors' code leaves out
/// CLIP's text projection; use `where` of compose.hpp for that). All else, and matrices with r < K,
/// for which n = 0: the mean of the task vectors, and a fallback in the report. (For n = 0
/// fusion_bench 0.2.33 leaves theta_0. It computes n as int(r (1 / K)), which is one less if r / K
/// is whole and 1 / K was rounded down, as for 49 and 49.) Needs no statistics.
struct tsv_m_method {
  tsv_m_options options{};  ///< checked by validate in each merge

  /// Embeddings and tables are merged as matrices: they must not come in pieces of rows, and tables
  /// of tokens should not come to this method at all (method.hpp).
  static constexpr bool sees_matrices() { return true; }

  /// alpha.
  double factor() const { return options.alpha; }

  /// tau as above.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    validate(options);
    detail::merge_matrices(c, p, options.fused, vectors, tau, report,
                           [&](const auto& t, const auto& part) { add<Context>(c, t, part); });
  }

 private:
  template <class Context>
  static void add(Context& c, vector_list<Context> vectors, const typename Context::view& tau) {
    const index_t tasks = std::ssize(vectors), n = (std::min)(c.rows(tau), c.columns(tau)) / tasks;
    detail::orthogonal_sum<Context> sum(c, c.rows(tau), c.columns(tau), n * tasks);
    std::vector<detail::thin_svd<Context>> leading(vectors.size());
    c.concurrently(tasks, [&](index_t k) {
      const auto i = static_cast<std::size_t>(k);
      leading[i] = detail::leading_singular(c, vectors[i], n);
    });
    for (const auto& svd : leading) sum.append(svd);
    sum.write(sum.values(), tau);
  }
};

/// TSV-Merge of one matrix, as tsv_m_method.
/// @code
/// auto [merged, report] = tsv_m(base, experts);  // and (base, experts, options[, context])
/// @endcode
/// base: d_out x d_in; experts: a range of K of its shape, in its domain. Returns a merge_result,
/// `merged` of base's family and compute type. Throws catmerge::error if there are no experts,
/// shapes differ, a value is not finite, and for options as validate says.
inline constexpr detail::vectors_fn<tsv_m_method, layer_kind::linear> tsv_m{};

}  // namespace catmerge
