// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/call.hpp>
#include <catmerge/merge/copied_vectors.hpp>
#include <catmerge/methods/task_arithmetic.hpp>
#include <catmerge/numeric/strips.hpp>
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

namespace catmerge {

/// Settings of Consensus merging.
struct consensus_options {
  /// lambda_t, one for all tasks or one for each. A larger lambda leaves fewer entries in the mask.
  /// The authors choose each task's from 0.2, 0.3 ... 0.6 on validation data; 0.4 is their middle.
  std::vector<double> lambda{0.4};
  index_t k = 2;       ///< the number of masks that must hold an entry; 0 keeps all entries
  double alpha = 0.3;  ///< the factor of the masked vector, chosen on validation data
};

/// Throws catmerge::error without a lambda, for a lambda that is negative or not finite, a negative
/// k and an alpha that is not finite.
inline void validate(const consensus_options& options) {
  if (options.lambda.empty()) throw error("Consensus: there is no lambda");
  for (const double l : options.lambda)
    if (!(l >= 0) || !std::isfinite(l))
      throw error("Consensus: lambda must be a finite number, 0 or more");
  if (options.k < 0) throw error("Consensus: k must be 0 or more");
  if (!std::isfinite(options.alpha)) throw error("Consensus: alpha must be a finite number");
}

/// Consensus merging with TALL masks (Wang, Dimitriadis, Ortiz-Jimenez, Fleuret, Frossard,
/// "Localizing Task Information for Improved Model Merging and Compression", ICML 2024, arXiv
/// 2405.07813), entry by entry: T_mtl is Inner's merged task vector, without Inner's factor,
///
///     m_t   = |T_t| > lambda_t |T_mtl - T_t|     (the entry matters to task t)
///     theta = theta_0 + alpha (m o T_mtl),   m = 1 where at least k of the m_t are 1, else 0
///
/// Inner is any vector_method (method.hpp). The paper's first choice is Task Arithmetic with T_mtl
/// = sum_t T_t, its second ties_method with ties_merge::sum. Applies to every parameter. Inner gets
/// the statistics, importances and scans that it needs (TIES scans the whole model), and fills the
/// report. An Inner other than Task Arithmetic works on a copy of the parameter's K task vectors.
///
/// If k is larger than the number of tasks (the default k = 2 with a single task), the result is
/// theta_0, as in the authors' code.
template <class Inner = task_arithmetic_method>
struct consensus_method {
  consensus_options options{};  ///< checked by validate in each merge
  Inner inner{};                ///< a vector_method; its factor is not used

  Inner& wrapped() { return inner; }              ///< supplies the optional members
  const Inner& wrapped() const { return inner; }  ///< likewise
  /// alpha.
  double factor() const { return options.alpha; }

  /// tau = m o T_mtl, compared in double. Throws catmerge::error if the number of lambdas is
  /// neither 1 nor K.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    validate(options);
    const auto& lambda = options.lambda;
    if (lambda.size() != 1 && lambda.size() != vectors.size())
      throw error("Consensus: " + std::to_string(lambda.size()) + " lambdas for " +
                  std::to_string(vectors.size()) + " tasks: expected one, or one for each");
    merge_inner(c, p, vectors, tau, report);
    detail::for_strips(c, tau, [&](const detail::strip<Context>& cut) {
      auto own = cut.make(scalar_type::f64), rest = cut.make(scalar_type::f64),
           masks = cut.make(scalar_type::f64);
      for (std::size_t t = 0; t < vectors.size(); ++t) {
        c.map(entry_function::absolute, 0, cut(vectors[t]), own);
        c.subtract(cut(tau), cut(vectors[t]), rest);
        c.map(entry_function::absolute, 0, rest, rest);
        c.axpy(-lambda[lambda.size() == 1 ? 0 : t], rest, own);
        c.map(entry_function::above, 0, own, own);
        c.axpy(1, own, masks);
      }
      c.map(entry_function::above, static_cast<double>(options.k) - 0.5, masks, masks);
      c.zip(pair_function::product, masks, cut(tau), cut(tau));
    });
  }

 private:
  /// tau = T_mtl, by Inner, on a copy of the vectors if it may change them.
  template <class Context>
  void merge_inner(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
                   const typename Context::view& tau, layer_report& report) const {
    if constexpr (std::is_same_v<Inner, task_arithmetic_method>) {
      sum_vectors(c, vectors, tau);
    } else {
      auto copies = detail::copied_vectors(c, vectors);
      inner.combine(c, p, vector_list<Context>(views_of<Context>(copies)), tau, report);
    }
  }
};
/// consensus_method{...} without naming types.
template <class Inner>
consensus_method(consensus_options, Inner) -> consensus_method<Inner>;

/// Consensus merging of one parameter, as consensus_method of Task Arithmetic.
/// @code
/// auto [merged, report] = consensus(base, experts);  // and (base, experts, options[, context])
/// @endcode
/// base: a tensor of any shape; experts: a range of K of its shape, in its domain, or of references
/// to such. Returns a merge_result, `merged` of base's family and compute type. Throws
/// catmerge::error if there are no experts, shapes differ or a value is not finite, and for options
/// as validate and consensus_method say.
inline constexpr detail::vectors_fn<consensus_method<>, layer_kind::other> consensus{};

}  // namespace catmerge
