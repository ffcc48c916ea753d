// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/features/shift_energy.hpp>
#include <catmerge/merge/copied_vectors.hpp>
#include <catmerge/merge/method.hpp>
#include <catmerge/methods/detail/gram_solve.hpp>
#include <cmath>
#include <utility>
#include <vector>

namespace catmerge {

/// Settings of LOT around a prior.
struct lot_around_options {
  double gain = 2;   ///< g: the prior is so many times as long as its method makes it
  double ridge = 1;  ///< mu in shares of the mean eigenvalue of sum_k w_k S_k
};

/// Throws catmerge::error for a gain that is not finite, and for a ridge that is negative or not
/// finite.
inline void validate(const lot_around_options& options) {
  if (!std::isfinite(options.gain)) throw error("LOT: gain must be a finite number");
  if (!(options.ridge >= 0) || !std::isfinite(options.ridge))
    throw error("LOT: ridge must be a finite number, 0 or more");
}

/// LOT Merging (lot.hpp) around what another method merges: the refit of refit.hpp for those who
/// have statistics of the experts' features but no network to run. For linears, with S_k = X_k^T
/// X_k and tau_0 the other method's merged vector with its factor:
///
///     tau = argmin sum_k w_k ||X_k (tau - T_k)^T||_F^2 + mu ||tau - g tau_0||_F^2
///         = (sum_k w_k T_k S_k + mu g tau_0)(sum_k w_k S_k + mu I)^-1
///     w_k = 1 / ||X_k T_k^T||_F^2: every task's shift counts alike
///     mu  = ridge tr(sum_k w_k S_k) / d_in
///
/// All other parameters are g tau_0; linears without statistics are tau_0. A prior longer than its
/// method makes it pays where least squares draws covered directions back (g = 2; measured with
/// ridge 10 / n for n samples a task). With ridge 0 the prior stays where no row reaches; gram_cut
/// (gram_eigen.hpp) decides which eigenvalues are zero. It is refit_linear with Z_k = X_k, own 0,
/// anchor = ridge and the prior g tau_0.
///
/// @code
/// lot_around method{mean_of{tsv_m_method{}, iso_method{}}};
/// auto [merged, report] = merge_parameter(method, layer_kind::linear, base, experts, features);
/// @endcode
///
/// Needs statistics of linears, rows or Gram matrices, and what the prior needs. The report's
/// fallback and trim are the prior's.
template <class Prior>
struct lot_around {
  Prior prior;                   ///< a vector_method
  lot_around_options options{};  ///< checked by validate in each merge

  /// True for linears, and as the prior says.
  bool needs_statistics(layer_kind kind) const {
    return kind == layer_kind::linear || catmerge::needs_statistics(prior, kind);
  }
  /// True for linears, and as the prior says.
  template <class Context>
  bool wants_statistics(const layer_problem<Context>& p) const {
    return p.kind == layer_kind::linear || catmerge::wants_statistics(prior, p);
  }
  Prior& wrapped() { return prior; }              ///< supplies the optional members
  const Prior& wrapped() const { return prior; }  ///< likewise

  /// 1: combine has applied all factors.
  static constexpr double factor() { return 1; }

  /// tau as above. Throws catmerge::error if statistics hold a value that is not finite, or a shift
  /// overflows float64.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    validate(options);
    const bool linear = p.kind == layer_kind::linear, fits = linear && !p.statistics.empty();
    auto tau0 = c.make(c.type(tau), c.rows(tau), c.columns(tau));
    {
      auto copies = detail::copied_vectors(c, vectors);
      prior.combine(c, p, vector_list<Context>(views_of<Context>(copies)), tau0, report);
    }
    c.scale((linear && !fits ? 1 : options.gain) * prior.factor(), tau0);
    if (fits) {
      detail::check_finite_statistics(c, p);
      detail::gram_solver<Context> solver(c, vectors, grams_of(c, p, vectors));
      if (solver.add_with_ridge(tau0, options.ridge, tau)) return;
    }
    c.axpy(1, tau0, tau);
  }

 private:
  /// w_k S_k, w_k relative to the largest: a common factor changes nothing. A task whose vector
  /// shifts nothing has no say.
  template <class Context>
  static std::vector<detail::weighted_gram<Context>> grams_of(Context& c,
                                                              const layer_problem<Context>& p,
                                                              vector_list<Context> vectors) {
    double least = 0;
    std::vector<double> energies;
    for (std::size_t k = 0; k < vectors.size(); ++k) {
      const double energy = detail::linear_energy(c, p.statistics[k], vectors[k]);
      if (!std::isfinite(energy))
        throw error(p.names.who() + ": the shift of '" + p.names.task(static_cast<index_t>(k)) +
                    "' overflows float64");
      energies.push_back(energy);
      if (energy > 0 && (least == 0 || energy < least)) least = energy;
    }
    std::vector<detail::weighted_gram<Context>> grams;
    for (std::size_t k = 0; k < vectors.size(); ++k)
      grams.push_back({p.statistics[k].data, p.statistics[k].form == statistics_form::gram,
                       energies[k] > 0 ? least / energies[k] : 0});
    return grams;
  }
};
/// lot_around{...} without naming types.
template <class Prior>
lot_around(Prior) -> lot_around<Prior>;
/// Likewise, with options.
template <class Prior>
lot_around(Prior, lot_around_options) -> lot_around<Prior>;

}  // namespace catmerge
