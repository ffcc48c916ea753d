// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/merge/call.hpp>
#include <catmerge/numeric/strips.hpp>
#include <catmerge/numeric/task_thresholds.hpp>
#include <cmath>
#include <vector>

namespace catmerge {

/// Settings of PCB-Merging.
struct pcb_options {
  /// rho, the share of each task's entries that count: those with the largest scores. 0.05 in the
  /// authors' ViT script; 0.1 to 0.2 for language models.
  double ratio = 0.05;
  /// The share of the smallest and of the largest |T_k| to clamp. 1e-4 in the authors' function,
  /// 0.01 in their ViT script.
  double clip = 1e-4;
  double alpha = 1.2;  ///< the factor of tau; lambda in the paper, 1.2 in its ViT script
};

/// Throws catmerge::error for a ratio outside (0, 1], a clip outside [0, 0.5) and an alpha that is
/// not finite.
inline void validate(const pcb_options& options) {
  if (!(options.ratio > 0 && options.ratio <= 1))
    throw error("PCB: ratio must be above 0 and at most 1");
  if (!(options.clip >= 0 && options.clip < 0.5))
    throw error("PCB: clip must be at least 0 and below 0.5");
  if (!std::isfinite(options.alpha)) throw error("PCB: alpha must be a finite number");
}

/// PCB-Merging (Du et al., "Parameter Competition Balancing for Model Merging", NeurIPS 2024, arXiv
/// 2410.02396), for every parameter, entry by entry. minmax(x) = (x - min) / (max - min) over the
/// whole model, for each task alone. The rule is that of the authors' code:
///
///     A_k = |T_k|, clamped to its quantiles clip and 1 - clip
///     s_k = exp(K minmax(A_k)^2) o tanh(T_k o sum_j T_j)
///     w_k = minmax(max(s_k, its quantile 1 - ratio))
///     tau = sum_k w_k o sgn(T_k) o A_k / max(sum_k w_k, 1e-12);   theta = theta_0 + alpha tau
///
/// The quantiles are entries, not interpolated. Of n entries in ascending order, counted from 0,
/// they are number floor(n clip) and floor(n (1 - clip) - 1) of |T_k| (for n < 1 / clip the second
/// largest) and floor(n (1 - ratio)) of s_k. minmax of equal values is 0: a task without scores
/// above the threshold drops out (the authors' code divides 0 by 0). Four scans find all quantiles
/// exactly (eight if some vectors are double). Needs nothing but vectors.
///
/// s_k is computed in double and rounded to the type of T_k. It lacks the factor e^K, which cancels
/// in w_k. The authors' ViT script has sum_j sgn(T_j) minmax(A_j) in the tanh, and their search
/// gives each task an alpha of its own.
struct pcb_method {
  pcb_options options{};  ///< checked by validate in each scan

  pcb_method() = default;
  explicit pcb_method(const pcb_options& o) : options(o) {}  ///< with these options

  /// alpha.
  double factor() const { return options.alpha; }

  bool scan_wanted() const { return magnitudes_.wanted() || scores_.wanted(); }  ///< of |T_k|, s_k
  /// Reads |T_k|, and after their quantiles are known, s_k.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>&, vector_list<Context> vectors) {
    validate(options);
    const auto size_rule = [clip = options.clip](std::uint64_t count) {
      const auto n = static_cast<double>(count);
      const auto low = static_cast<std::uint64_t>(n * clip);
      const auto high = static_cast<std::uint64_t>((std::max)(0.0, n * (1 - clip) - 1));
      return std::vector<std::uint64_t>{low, (std::max)(low, high)};
    };
    const auto score_rule = [ratio = options.ratio](std::uint64_t n) {
      const auto threshold = static_cast<std::uint64_t>(static_cast<double>(n) * (1 - ratio));
      return std::vector<std::uint64_t>{(std::min)(threshold, n - 1), n - 1};
    };
    detail::for_strips(c, vectors.front(), [&](const detail::strip<Context>& cut) {
      if (magnitudes_.wanted()) {
        for (std::size_t k = 0; k < vectors.size(); ++k) {
          auto size = cut.make(c.type(vectors[k]));
          c.map(entry_function::absolute, 0, cut(vectors[k]), size);
          magnitudes_.see(c, k, size, size_rule);
        }
      } else {
        const auto sum = cut.sum(vectors);
        for (std::size_t k = 0; k < vectors.size(); ++k)
          scores_.see(c, k, score(c, cut, vectors, k, sum, clamped(c, cut, vectors, k)),
                      score_rule);
      }
    });
  }
  /// Fixes one more digit of each quantile.
  void end_scan() { magnitudes_.wanted() ? magnitudes_.end_pass() : scores_.end_pass(); }

  /// tau as above, its sums in double.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>&, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report&) const {
    detail::for_strips(c, tau, [&](const detail::strip<Context>& cut) {
      const auto vector_sum = cut.sum(vectors);
      const auto ones = cut.filled(1);
      auto sum = cut.make(scalar_type::f64), weights = cut.make(scalar_type::f64);
      for (std::size_t k = 0; k < vectors.size(); ++k) {
        auto value = clamped(c, cut, vectors, k);
        auto weight = cut.make(scalar_type::f64);
        c.assign(score(c, cut, vectors, k, vector_sum, value), weight);
        const double threshold = scores_.value(k, 0);
        c.map(entry_function::at_least, threshold, weight, weight);
        normalise(c, ones, threshold, scores_.value(k, 1), weight);
        c.axpy(1, weight, weights);

        c.zip(pair_function::product, weight, value, weight);
        c.map(entry_function::sign, 0, cut(vectors[k]), value);
        c.zip(pair_function::product, weight, value, weight);
        c.axpy(1, weight, sum);
      }
      c.map(entry_function::at_least, 1e-12, weights, weights);  // no division by zero
      c.zip(pair_function::quotient, sum, weights, cut(tau));
    });
  }

 private:
  /// x = (x - low) / (high - low), or 0 if low = high.
  template <class Context>
  static void normalise(Context& c, const typename Context::const_view& ones, double low,
                        double high, const typename Context::view& x) {
    c.axpy(-low, ones, x);
    c.scale(high > low ? 1 / (high - low) : 0, x);
  }

  /// A_k of a strip, in double.
  template <class Context>
  typename Context::matrix clamped(Context& c, const detail::strip<Context>& cut,
                                   vector_list<Context> vectors, std::size_t k) const {
    auto size = cut.make(scalar_type::f64);
    c.map(entry_function::absolute, 0, cut(vectors[k]), size);
    c.map(entry_function::at_least, magnitudes_.value(k, 0), size, size);
    c.map(entry_function::at_most, magnitudes_.value(k, 1), size, size);
    return size;
  }

  /// s_k / e^K of a strip, in the type of T_k: the scans and the merge see the same bits.
  template <class Context>
  typename Context::matrix score(Context& c, const detail::strip<Context>& cut,
                                 vector_list<Context> vectors, std::size_t k,
                                 const typename Context::const_view& sum,
                                 const typename Context::const_view& size) const {
    const auto tasks = static_cast<double>(vectors.size());
    const auto ones = cut.filled(1);
    auto own = cut.make(scalar_type::f64), cross = cut.make(scalar_type::f64);
    c.assign(size, own);
    normalise(c, ones, magnitudes_.value(k, 0), magnitudes_.value(k, 1), own);
    c.zip(pair_function::product, own, own, own);
    c.axpy(-1, ones, own);
    c.scale(tasks, own);
    c.map(entry_function::exponential, 0, own, own);
    c.zip(pair_function::product, cut(vectors[k]), sum, cross);
    c.map(entry_function::tangent, 0, cross, cross);
    auto product = cut.make(c.type(vectors[k]));
    c.zip(pair_function::product, own, cross, product);
    return product;
  }

  detail::task_thresholds magnitudes_, scores_;
};

/// PCB-Merging of one parameter, as pcb_method of a model with this parameter alone.
/// @code
/// auto [merged, report] = pcb(base, experts);  // and (base, experts, options[, context])
/// @endcode
/// base: a tensor of any shape; experts: a range of K of its shape, in its domain, or of references
/// to such. Returns a merge_result, `merged` of base's family and compute type. Throws
/// catmerge::error if there are no experts, shapes differ or a value is not finite, and for options
/// as validate says.
inline constexpr detail::vectors_fn<pcb_method, layer_kind::other> pcb{};

}  // namespace catmerge
