// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/merge/then.hpp>
#include <catmerge/methods/detail/matrix_parts.hpp>
#include <catmerge/numeric/thin_svd.hpp>
#include <cmath>
#include <vector>

namespace catmerge {

/// Settings of SVC.
struct svc_options {
  /// The least share of a task's response that counts. A direction grows at most 1 / floor times.
  double floor = 0.1;
  /// Weights that hold several linears: one matrix, as in fusion_bench, or each alone.
  fused_weights fused = fused_weights::whole;
};

/// Throws catmerge::error for a floor that is not positive and finite.
inline void validate(const svc_options& options) {
  if (!(options.floor > 0 && std::isfinite(options.floor)))
    throw error("SVC: floor must be a finite number above 0");
}

/// Singular value calibration ("When Shared Knowledge Hurts: Spectral Over-Accumulation in Model
/// Merging", 2026, arXiv 2602.05536), a merged_transform (then.hpp): what tasks share is in the
/// merged vector several times, so each of its directions gets a factor. For matrices, with U
/// diag(s) V^T = tau,
///
///     tau <- U diag(gamma o s) V^T
///     gamma_r = K / sum_k max(floor, <u_r^T tau, u_r^T T_k> / ||u_r^T T_k||^2)
///
/// so that the mean of the tasks' projections on what is merged becomes 1. The factor of a task
/// without any response is the floor. If no factor is below it, the result does not depend on the
/// size of tau, and the method needs no alpha: `then{task_arithmetic_method{1}, svc_transform{}}`.
///
/// As in fusion_bench 0.2.33 (`singular_value_calibration`, whose `alpha` is the floor; its
/// configurations have 0.1), but for directions of zero singular value (gram_cut decides), which
/// stay zero. Applies to linears, and to tables and embeddings that are matrices. All else stays as
/// it is. Needs no statistics.
struct svc_transform {
  svc_options options{};  ///< checked by validate in each apply

  /// Embeddings and tables are calibrated as matrices: they must not come in pieces of rows.
  static constexpr bool sees_matrices() { return true; }

  /// Changes tau as above. Throws catmerge::error if a Gram matrix overflows.
  template <class Context>
  void apply(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
             const typename Context::view& tau, layer_report&) const {
    validate(options);
    if (!detail::is_matrix(c, p)) return;
    detail::merge_parts(c, p, options.fused, vectors, tau,
                        [&](const auto& t, const auto& part) { calibrate<Context>(c, t, part); });
  }

 private:
  template <class Context>
  void calibrate(Context& c, vector_list<Context> vectors,
                 const typename Context::view& tau) const {
    const index_t d_in = c.columns(tau);
    auto svd = detail::leading_singular(c, tau, (std::min)(c.rows(tau), d_in));
    const index_t n = std::ssize(svd.values);
    if (n == 0) return;
    auto ones = c.make(scalar_type::f64, d_in, 1);
    c.from_host(small_matrix::Ones(d_in, 1), ones);
    std::vector<double> sums(svd.values.size(), 0);  // of the tasks' shares, one per direction
    for (const auto& t : vectors) {
      auto response = c.make(scalar_type::f64, d_in, n);  // T^T U
      auto energy = c.make(scalar_type::f64, n, 1), along = c.make(scalar_type::f64, n, 1);
      c.multiply(1, t, op::transpose, svd.left, op::none, 0, response);
      c.column_energies(1, response, energy);
      c.zip(pair_function::product, response, svd.right, response);
      c.multiply(1, response, op::transpose, ones, op::none, 0, along);
      const small_matrix energies = c.to_host(energy), products = c.to_host(along);
      for (index_t r = 0; r < n; ++r) {
        const auto i = static_cast<std::size_t>(r);
        const double e = energies(r, 0);
        const double share = e > 0 ? svd.values[i] * products(r, 0) / e : 0;
        sums[i] += (std::max)(options.floor, share);
      }
    }
    std::vector<double> values = svd.values;
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] *= static_cast<double>(vectors.size()) / sums[i];
    c.scale_columns(values, svd.left);
    c.multiply(1, svd.left, op::none, svd.right, op::transpose, 0, tau);
  }
};

}  // namespace catmerge
