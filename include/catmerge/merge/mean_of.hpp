// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/copied_vectors.hpp>
#include <catmerge/merge/run.hpp>
#include <catmerge/merge/tables.hpp>
#include <iterator>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace catmerge {

/// The mean of the merged task vectors of several methods, each at its own factor:
///
///     tau = (1/M) sum_m factor_m tau_m
///
/// of M vector_methods, which all read the same task vectors. It is a vector_method itself: in a
/// chain the transforms come before all of them.
///
/// @code
/// mean_of spectral{tsv_m_method{}, iso_method{}, iso_method{{iso_variant::cts}}};
/// auto result = merge_parameter(spectral, base, experts);
/// std::vector<any_method> chosen = ...;  // or a range of methods of one type
/// mean_of mean{chosen};
/// @endcode
/// Methods: a range of methods of one type, or a std::tuple.
///
/// The report's fallback is that of the methods if all have the same, else fallback_rule::some. Its
/// trim is the first one.
template <class Methods>
class mean_of {
 public:
  /// A range or a tuple. Throws catmerge::error if a range is empty.
  explicit mean_of(Methods methods) : methods_(std::move(methods)) {
    each(methods_, [&](const auto&) { ++count_; });
    if (count_ == 0) throw error("the mean of no methods");
  }
  /// Several methods, of any types.
  template <class First, class Second, class... Rest>
  explicit mean_of(First first, Second second, Rest... rest)
      : mean_of(Methods(std::move(first), std::move(second), std::move(rest)...)) {}

  /// The methods: a range or a tuple.
  Methods& methods() { return methods_; }
  const Methods& methods() const { return methods_; }  ///< likewise

  /// True if a method needs statistics.
  bool needs_statistics(layer_kind kind) const {
    return any([&](const auto& m) { return catmerge::needs_statistics(m, kind); });
  }
  /// True if a method wants statistics.
  template <class Context>
  bool wants_statistics(const layer_problem<Context>& p) const {
    return any([&](const auto& m) { return catmerge::wants_statistics(m, p); });
  }
  /// True if a method needs importances.
  bool needs_importance() const {
    return any([](const auto& m) { return catmerge::needs_importance(m); });
  }
  /// True if a method sees matrices.
  bool sees_matrices() const {
    return any([](const auto& m) { return catmerge::sees_matrices(m); });
  }
  /// True if a method needs tables whole.
  bool needs_whole_tables() const {
    return any([](const auto& m) { return catmerge::needs_whole_tables(m); });
  }

  bool scan_wanted() const {  ///< true if a method wants a scan
    return any([](const auto& m) { return catmerge::scan_wanted(m); });
  }
  /// Scans for each method that wants it, in the same pass.
  template <class Context>
  void scan(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
    each(methods_, [&](auto& m) {
      if (!catmerge::scan_wanted(m)) return;
      auto copies = detail::copied_vectors(c, vectors);
      catmerge::scan_parameter(m, c, p, vector_list<Context>(views_of<Context>(copies)));
    });
  }
  void end_scan() {  ///< ends the pass of each method that wanted it
    each(methods_, [](auto& m) {
      if (catmerge::scan_wanted(m)) catmerge::end_scan(m);
    });
  }

  /// 1: combine has applied the factors.
  static constexpr double factor() { return 1; }

  /// tau as above.
  template <class Context>
  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report& report) const {
    bool first = true;
    each(methods_, [&](const auto& m) {
      auto copies = detail::copied_vectors(c, vectors);
      auto part = c.make(c.type(tau), c.rows(tau), c.columns(tau));
      layer_report own;
      own.kind = report.kind;
      m.combine(c, p, vector_list<Context>(views_of<Context>(copies)), part, own);
      c.axpy(m.factor() / static_cast<double>(count_), part, tau);
      if (!first && own.fallback != report.fallback) own.fallback = fallback_rule::some;
      report.fallback = own.fallback;
      first = false;
      if (own.trim && !report.trim) report.trim = std::move(own.trim);
    });
  }

 private:
  /// Calls f with each method.
  template <class List, class F>
  static void each(List& methods, const F& f) {
    if constexpr (requires { std::begin(methods); })
      for (auto& m : methods) f(m);
    else
      std::apply([&](auto&... m) { (f(m), ...); }, methods);
  }

  template <class F>
  bool any(const F& f) const {
    bool found = false;
    each(methods_, [&](const auto& m) { found = found || f(m); });
    return found;
  }

  Methods methods_;
  index_t count_ = 0;
};
/// mean_of{...} without naming types.
template <class Methods>
mean_of(Methods) -> mean_of<Methods>;
/// Likewise, for several methods.
template <class First, class Second, class... Rest>
mean_of(First, Second, Rest...) -> mean_of<std::tuple<First, Second, Rest...>>;

}  // namespace catmerge
