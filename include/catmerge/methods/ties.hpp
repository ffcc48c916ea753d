// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/call.hpp>
#include <catmerge/numeric/strips.hpp>
#include <catmerge/numeric/task_thresholds.hpp>
#include <cmath>
#include <limits>

/// @file
/// TIES: Yadav, Tam, Choshen, Raffel, Bansal, "TIES-Merging: Resolving Interference When Merging
/// Models", NeurIPS 2023, arXiv 2306.01708. Trim, elect signs, merge the entries that agree:
///
///     T_k  <- T_k where |T_k| is among task k's largest over the whole model, else 0
///     s    =  sgn(sum_k T_k)
///     tau  =  mean or sum over the tasks with sgn(T_k) = s;   theta = theta_0 + alpha tau
namespace catmerge {

/// The rule for the values with the elected sign.
enum class ties_merge {
  mean,  ///< over the tasks with that sign: the paper's
  sum    ///< FusionBench's default, with alpha = 0.3
};

/// Settings of TIES. Defaults are the paper's for merging without validation data.
struct ties_options {
  /// The share of each task's entries that the trim keeps: of n entries in the whole model the
  /// floor(n density) + 1 largest in magnitude (at most n) and all that equal the smallest of
  /// these. The authors' code and FusionBench's keep the same entries; mergekit keeps floor(n
  /// density) of each parameter.
  double density = 0.2;
  double alpha = 1;                     ///< the factor of tau; lambda in the paper
  ties_merge merge = ties_merge::mean;  ///< of the values with the elected sign
};

/// Throws catmerge::error for a density outside (0, 1] and an alpha that is not finite.
inline void validate(const ties_options& options) {
  if (!(options.density > 0 && options.density <= 1))
    throw error("TIES: density must be above 0 and at most 1");
  if (!std::isfinite(options.alpha)) throw error("TIES: alpha must be a finite number");
}

/// TIES' trim alone, a transform of task vectors (method.hpp): every task keeps its entries of
/// largest magnitude over the whole model, by ties_options::density. Two scans find each task's
/// threshold exactly (four if some vectors are double). Applies to every parameter; needs nothing
/// but vectors. alpha and merge are not used.
struct ties_trim {
  ties_options options{};  ///< checked by validate in each scan

  ties_trim() = default;
  explicit ties_trim(const ties_options& o) : options(o) {}  ///< with these options

  bool scan_wanted() const { return magnitudes_.wanted(); }  ///< until thresholds are known
  /// Reads |T_k|.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>&, vector_list<Context> vectors) {
    validate(options);
    const auto rule = [density = options.density](std::uint64_t n) {
      const auto kept = static_cast<std::uint64_t>(static_cast<double>(n) * density);
      return std::vector<std::uint64_t>{kept < n ? n - kept - 1 : 0};
    };
    detail::for_strips(c, vectors.front(), [&](const detail::strip<Context>& cut) {
      for (std::size_t k = 0; k < vectors.size(); ++k) {
        auto size = cut.make(c.type(vectors[k]));
        c.map(entry_function::absolute, 0, cut(vectors[k]), size);
        magnitudes_.see(c, k, size, rule);
      }
    });
  }
  void end_scan() { magnitudes_.end_pass(); }  ///< fixes one more digit of each threshold

  /// Makes every entry below its task's threshold zero.
  template <class Context>
  void apply(Context& c, const layer_problem<Context>&, vector_list<Context> vectors,
             layer_report&) const {
    detail::for_strips(c, vectors.front(), [&](const detail::strip<Context>& cut) {
      for (std::size_t k = 0; k < vectors.size(); ++k) {
        // In double "at least the threshold" is "above the double before it".
        const double below =
            std::nextafter(magnitudes_.value(k), -std::numeric_limits<double>::infinity());
        auto kept = cut.make(scalar_type::f64);
        c.map(entry_function::absolute, 0, cut(vectors[k]), kept);
        c.map(entry_function::above, below, kept, kept);
        c.zip(pair_function::product, kept, cut(vectors[k]), cut(vectors[k]));
      }
    });
  }

 private:
  detail::task_thresholds magnitudes_;
};

/// TIES' election and merge alone, as a method: `chain{dare_transform{}, ties_elect{}}`. Entry by
/// entry, s is the sign of sum_k T_k (added in double). If that is zero, s is the majority of these
/// signs over the whole model, which one scan counts; minus in a tie (as in the authors' code). tau
/// is the mean (or sum) of the T_k with sign s, 0 if there are none. Applies to every parameter;
/// needs nothing but vectors. density is not used.
struct ties_elect {
  ties_options options{};  ///< checked by validate in each scan and merge

  ties_elect() = default;
  explicit ties_elect(const ties_options& o) : options(o) {}  ///< with these options

  /// alpha.
  double factor() const { return options.alpha; }

  bool scan_wanted() const { return !scanned_; }  ///< once
  /// Counts the signs of sum_k T_k.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>&, vector_list<Context> vectors) {
    validate(options);
    detail::for_strips(c, vectors.front(), [&](const detail::strip<Context>& cut) {
      auto sum = cut.sum(vectors), found = cut.make(scalar_type::f32);
      for (const double sign : {1.0, -1.0}) {
        c.map(entry_function::above, 0, sum, found);
        majority_ += sign * c.squared_norm(found);
        c.scale(-1, sum);
      }
    });
  }
  void end_scan() { scanned_ = true; }  ///< fixes the majority

  /// tau as above.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>&, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report&) const {
    validate(options);
    if (!scanned_) throw error("TIES merges a parameter after all have passed its scans");
    detail::for_strips(c, tau, [&](const detail::strip<Context>& cut) {
      // The elected signs, 1 and -1: minus if sum < 0, or if sum = 0 and plus has no majority.
      auto sum = cut.sum(vectors), minus = cut.make(scalar_type::f32);
      c.map(entry_function::sign, 0, sum, minus);
      c.scale(-1, minus);
      c.map(entry_function::above, majority_ > 0 ? 0.5 : -0.5, minus, minus);
      auto elected = cut.filled(1);
      c.axpy(-2, minus, elected);

      // The sum and the number of the vectors with the elected sign.
      auto total = cut.make(scalar_type::f64), agreeing = cut.make(scalar_type::f64),
           count = cut.make(scalar_type::f64);
      for (const auto& t : vectors) {
        c.zip(pair_function::product, elected, cut(t), agreeing);
        c.map(entry_function::at_least, 0, agreeing, agreeing);
        c.axpy(1, agreeing, total);
        c.map(entry_function::sign, 0, agreeing, agreeing);
        c.axpy(1, agreeing, count);
      }
      if (options.merge == ties_merge::mean) c.zip(pair_function::quotient, total, count, total);
      c.zip(pair_function::product, elected, total, cut(tau));
    });
  }

 private:
  bool scanned_ = false;
  double majority_ = 0;  // number of positive minus negative sums: exact up to 2^53
};

/// TIES as a method (method.hpp): ties_trim, then ties_elect, with three scans in all (five if some
/// vectors are double). Applies to every parameter; tied parameters count once, as in the source.
/// Defaults are the paper's. FusionBench sums with alpha = 0.3; mergekit trims each parameter for
/// itself and elects plus if the sum is zero.
struct ties_method {
  ties_options options{};  ///< checked by validate in each scan and merge

  ties_method() = default;
  explicit ties_method(const ties_options& o) : options(o) {}  ///< with these options

  /// alpha.
  double factor() const { return options.alpha; }

  bool scan_wanted() const { return trim_.scan_wanted() || elect_.scan_wanted(); }  ///< by a part
  /// Scans for the trim, then, with the trimmed vectors, for the election.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
    trim_.options = elect_.options = options;
    if (trim_.scan_wanted()) return trim_.scan(c, p, vectors);
    layer_report unused;
    trim_.apply(c, p, vectors, unused);
    elect_.scan(c, p, vectors);
  }
  void end_scan() { trim_.scan_wanted() ? trim_.end_scan() : elect_.end_scan(); }  ///< of that part

  /// tau = the mean (or sum) of the trimmed T_k with the elected sign.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    trim_.apply(c, p, vectors, report);
    ties_elect elect = elect_;
    elect.options = options;
    elect.combine(c, p, vectors, tau, report);
  }

 private:
  ties_trim trim_;
  ties_elect elect_;
};

/// TIES of one parameter, as ties_method of a model with this parameter alone.
/// @code
/// auto [merged, report] = ties(base, experts);  // and (base, experts, options[, context])
/// @endcode
/// base: a tensor of any shape; experts: a range of K of its shape, in its domain, or of references
/// to such. Returns a merge_result, `merged` of base's family and compute type. Throws
/// catmerge::error if there are no experts, shapes differ or a value is not finite, and for options
/// as validate says.
inline constexpr detail::vectors_fn<ties_method, layer_kind::other> ties{};

}  // namespace catmerge
