// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/call.hpp>
#include <catmerge/methods/detail/matrix_parts.hpp>
#include <catmerge/numeric/orthogonal_sum.hpp>

namespace catmerge {

/// The two methods of isotropic merging.
enum class iso_variant {
  c,   ///< Iso-C: the common subspace, that of the summed task vectors
  cts  ///< Iso-CTS: the common and the task-specific subspaces
};

/// Settings of isotropic merging.
struct iso_options {
  iso_variant variant = iso_variant::c;  ///< Iso-C, or Iso-CTS
  double alpha = 1;                      ///< the factor of the merged task vector; 1.5 on CLIP
  double common = 0.8;  ///< Iso-CTS: the share of common directions; 0.8 in the paper
  /// Weights that hold several linears: one matrix, as in the authors' code, or each alone.
  fused_weights fused = fused_weights::whole;
};

/// Throws catmerge::error for an alpha that is not finite or a share outside [0, 1].
inline void validate(const iso_options& options) {
  if (!std::isfinite(options.alpha)) throw error("Iso: alpha must be a finite number");
  if (!(options.common >= 0 && options.common <= 1)) throw error("Iso: common must be from 0 to 1");
}

/// Iso-C and Iso-CTS [layer by layer] (Marczak, Magistri, Cygert, Twardowski, Bagdanov, van de
/// Weijer, "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces",
/// ICML 2025, arXiv 2502.04959): all singular values of the summed task vectors become equal. For
/// matrices of d_out x d_in and r = min(d_out, d_in), with U diag(s) V^T = sum_k T_k:
///
///     Iso-C    tau = mean(s) U V^T, the mean over all r
///     Iso-CTS  tau = mean(s) polar(U) polar(V)^T,   polar(M) = M (M^T M)^(-1/2)
///              U = [U_1 ... U_K U_c], s and V likewise
///              U_c, s_c, V_c: of the n_c largest singular values of sum_k T_k
///              U_k, s_k, V_k: of the n_s largest of T_k - U_c U_c^T T_k
///              n_s = round((r - floor(common r)) / K),   n_c = r - K n_s
///
/// and theta = theta_0 + alpha tau. A half is rounded to the even number, as in the authors' code.
/// n_s is at most r / K; beyond that the authors' code would count from the end. Iso-CTS with n_s =
/// 0 is Iso-C.
///
/// Directions of zero singular value stay zero and count in the mean. gram_cut (gram_eigen.hpp)
/// decides which values are zero, for a remainder T_k - U_c U_c^T T_k relative to T_k. The authors'
/// code raises arbitrary vectors of the decomposition to the mean for them; U V^T, the polar
/// factors and the result are then arbitrary.
///
/// Applies to linears, and to tables and embeddings that are matrices (the authors' code leaves out
/// CLIP's text projection; use `where` of compose.hpp for that). All else, and matrices with r < K:
/// the mean of the task vectors, and a fallback in the report. (The authors' code takes these for
/// matrices, too: for r = 1 Iso-C is then the sum of the task vectors.) Needs no statistics.
struct iso_method {
  iso_options options{};  ///< checked by validate in each merge

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
  void add(Context& c, vector_list<Context> vectors, const typename Context::view& tau) const {
    const index_t d_out = c.rows(tau), d_in = c.columns(tau), r = (std::min)(d_out, d_in);
    const index_t own = options.variant == iso_variant::cts ? own_directions(r, vectors) : 0;
    auto whole = c.make(scalar_type::f64, d_out, d_in);
    sum_vectors(c, vectors, whole);
    if (own == 0) {
      const detail::polar_factors<Context> polar(c, std::move(whole), c.type(tau));
      return c.multiply(mean(polar.values, r), polar.left, op::none, polar.right, op::transpose, 0,
                        tau);
    }
    typename Context::matrix rest;
    detail::half_svd<Context> one_side(c, whole, r - own * std::ssize(vectors), 0, &rest);
    const bool complete = one_side.wide;  // `rest` and the common directions span all of R^d_out
    const auto common = detail::both_sides(c, whole, std::move(one_side));
    whole = {};
    std::vector<detail::thin_svd<Context>> remainders(vectors.size());
    c.concurrently(std::ssize(vectors), [&](index_t k) {
      const auto i = static_cast<std::size_t>(k);
      remainders[i] =
          complete ? inside(c, vectors[i], rest, own) : outside(c, vectors[i], common.left, own);
    });
    detail::orthogonal_sum<Context> sum(c, d_out, d_in, r);
    for (const auto& svd : remainders) sum.append(svd);
    sum.append(common);
    const std::vector<double> level(sum.values().size(), mean(sum.values(), r));
    sum.write(level, tau);
  }

  /// The mean over r values: the given ones and zeros.
  static double mean(const std::vector<double>& values, index_t r) {
    double mean = 0;
    for (const double s : values) mean += s / static_cast<double>(r);
    return mean;
  }

  /// n_s.
  template <class List>
  index_t own_directions(index_t r, const List& vectors) const {
    const auto tasks = std::ssize(vectors);
    const index_t rest = r - static_cast<index_t>(static_cast<double>(r) * options.common);
    const index_t below = rest / tasks, twice = 2 * (rest % tasks);
    const bool up = twice > tasks || (twice == tasks && below % 2 != 0);
    return (std::min)(below + (up ? 1 : 0), r / tasks);
  }

  /// The leading directions of C C^T T, for C of orthonormal columns, without those within T's
  /// rounding: of C^T T, which has fewer rows.
  template <class Context>
  static detail::thin_svd<Context> inside(Context& c, typename Context::const_view t,
                                          typename Context::const_view basis, index_t count) {
    auto part = c.make(scalar_type::f64, c.columns(basis), c.columns(t));
    c.multiply(1, basis, op::transpose, t, op::none, 0, part);
    auto svd = detail::leading_singular(c, part, count, noise(c, t));
    auto left = c.make(scalar_type::f64, c.rows(t), std::ssize(svd.values));
    c.multiply(1, basis, op::none, svd.left, op::none, 0, left);
    svd.left = std::move(left);
    return svd;
  }

  /// The leading directions of T - U U^T T, without those within T's rounding.
  template <class Context>
  static detail::thin_svd<Context> outside(Context& c, typename Context::const_view t,
                                           typename Context::const_view u, index_t count) {
    auto along = c.make(scalar_type::f64, c.columns(u), c.columns(t));
    c.multiply(1, u, op::transpose, t, op::none, 0, along);
    auto rest = c.make(scalar_type::f64, c.rows(t), c.columns(t));
    c.assign(t, rest);
    c.multiply(-1, u, op::none, along, op::none, 1, rest);
    return detail::leading_singular(c, rest, count, noise(c, t));
  }

  /// The size of T's rounding errors.
  template <class Context>
  static double noise(Context& c, typename Context::const_view t) {
    return std::sqrt(detail::gram_cut((std::max)(c.rows(t), c.columns(t))) * c.squared_norm(t));
  }
};

/// Isotropic merging of one matrix, as iso_method: Iso-C by default.
/// @code
/// auto [merged, report] = iso(base, experts);  // and (base, experts, options[, context])
/// auto [both, why] = iso(base, experts, {iso_variant::cts});
/// @endcode
/// base: d_out x d_in; experts: a range of K of its shape, in its domain. Returns a merge_result,
/// `merged` of base's family and compute type. Throws catmerge::error if there are no experts,
/// shapes differ, a value is not finite, and for options as validate says.
inline constexpr detail::vectors_fn<iso_method, layer_kind::linear> iso{};

}  // namespace catmerge
