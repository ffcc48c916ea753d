// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/report.hpp>
#include <concepts>
#include <utility>
#include <vector>

/// @file
/// The shape that every merging method has: one parameter of all tasks in, the merged one out.
namespace catmerge {

/// One parameter to be merged. Vectors are d x 1.
template <class Context>
struct layer_problem {
  using const_view = typename Context::const_view;  ///< a tensor, in the layout d_out x d_in

  layer_kind kind = layer_kind::other;  ///< what the parameter does to features
  index_t parts = 1;  ///< fused linears (q, k, v): equal blocks of rows; shifts likewise
  /// theta_0, d_out x d_in or d x 1.
  const_view base;
  /// theta_k, K of base's shape.
  std::vector<const_view> experts;
  std::vector<statistics_view<typename Context::domain>> statistics;  ///< one per task, or none
  layer_names names;                                                  ///< for messages
};

/// A merging method, for tensors of a context's domain. It holds its options and nothing else, and
/// is called from one thread.
///
/// Requirements:
/// - `merge(context, problem, out)`, const: writes the merged parameter to `out`, shaped like base,
///   and returns a layer_report;
/// - `needs_statistics(kind)`, const: a bool, whether parameters of a kind can use statistics.
///
/// @code
/// struct keep_base {
///   static constexpr bool needs_statistics(catmerge::layer_kind) { return false; }
///   template <class Context>
///   catmerge::layer_report merge(Context& c, const catmerge::layer_problem<Context>& p,
///                                typename Context::view out) const {
///     c.assign(p.base, out);
///     return {};
///   }
/// };
/// @endcode
/// (examples/own_method.cpp has a useful one.) Models: cat_method, task_arithmetic_method,
/// weight_average_method, with every context.
template <class M, class Context>
concept merging_method = requires(const M& m, Context& c, const layer_problem<Context>& p,
                                  typename Context::view out) {
  { m.merge(c, p, out) } -> std::same_as<layer_report>;
  { m.needs_statistics(layer_kind::linear) } -> std::same_as<bool>;
};

namespace detail {

/// What M lacks of a merging method for this context.
template <class M, class Context>
constexpr bool require_method() {
  static_assert(
      requires(const M& m, Context& c, const layer_problem<Context>& p,
               typename Context::view out) {
        { m.merge(c, p, out) } -> std::same_as<layer_report>;
      },
      "catmerge: a merging method needs merge(context, problem, out) const, which returns a "
      "catmerge::layer_report");
  static_assert(
      requires(const M& m) {
        { m.needs_statistics(layer_kind::linear) } -> std::same_as<bool>;
      },
      "catmerge: a merging method needs needs_statistics(kind) const, which returns a bool: "
      "whether parameters of that kind can use statistics");
  return true;
}

}  // namespace detail

/// The merged parameter and what was done.
template <class Tensor>
struct merge_result {
  Tensor merged;        ///< shaped like base, of its family and compute type
  layer_report report;  ///< what a method says of its work; not every method fills everything
};

namespace detail {

/// Throws unless experts and statistics fit the base.
template <class Context>
void check_shapes(Context& c, const layer_problem<Context>& p) {
  if (p.experts.empty()) throw error(p.names.who() + ": there are no experts to merge");
  const index_t rows = c.rows(p.base), columns = c.columns(p.base);
  if (p.kind == layer_kind::scale || p.kind == layer_kind::shift)
    require_shape(c, p.base, rows, 1, p.names.base() + " (a " + name_of(p.kind) + ")");
  for (index_t k = 0; k < std::ssize(p.experts); ++k)
    require_shape(c, p.experts[static_cast<std::size_t>(k)], rows, columns, p.names.expert(k));
  if (p.parts < 1 || rows % p.parts != 0)
    throw error(p.names.who() + ": " + std::to_string(rows) + " rows cannot be split into " +
                std::to_string(p.parts) + " equal parts");
  if (p.statistics.empty()) return;
  if (p.statistics.size() != p.experts.size())
    throw error(p.names.who() + ": features of " + std::to_string(p.statistics.size()) +
                " tasks for " + std::to_string(p.experts.size()) + " experts");
  if (p.kind == layer_kind::linear || p.kind == layer_kind::scale)
    for (index_t k = 0; k < std::ssize(p.statistics); ++k) {
      const auto& s = p.statistics[static_cast<std::size_t>(k)];
      require_width(c, s, p.kind == layer_kind::linear ? columns : rows, p.names.features(k));
      if (p.kind == layer_kind::linear && s.form == statistics_form::second_moment)
        throw error(p.names.features(k) +
                    ": a linear layer needs rows, a factor or a Gram matrix, found second moments");
    }
}

/// Throws if a result is not finite, and says which input is to blame, or names the result. (Every
/// input enters a merged parameter, and what is not finite stays so: looking at that is enough.)
template <class Context>
void check_finite(Context& c, const layer_problem<Context>& p, typename Context::const_view result,
                  const std::string& what = ": the merged parameter") {
  if (c.all_finite(result)) return;
  if (!c.all_finite(p.base)) throw error(p.names.base() + " holds a value that is not finite");
  for (index_t k = 0; k < std::ssize(p.experts); ++k)
    if (!c.all_finite(p.experts[static_cast<std::size_t>(k)]))
      throw error(p.names.expert(k) + " holds a value that is not finite");
  throw error(p.names.who() + what + " overflows " + name_of(c.type(result)));
}

/// The same for statistics, before they are used.
template <class Context>
void check_finite_statistics(Context& c, const layer_problem<Context>& p) {
  for (index_t k = 0; k < std::ssize(p.statistics); ++k)
    if (!c.all_finite(p.statistics[static_cast<std::size_t>(k)].data))
      throw error(p.names.features(k) + " hold a value that is not finite");
}

/// One call for one parameter: typed tensors in, a typed tensor out.
template <class Context, class Method, class Base, class Experts>
merge_result<result_t<Base>> merge_one(Context& c, const Method& method,
                                       layer_problem<Context> problem, const Base& base,
                                       const Experts& experts) {
  static_assert(require_method<Method, Context>());
  problem.base = read(base);
  problem.experts = read_all<Context>(experts);
  check_shapes(c, problem);
  merge_result<result_t<Base>> result{make_result(c, base, problem.base), {}};
  result.report = method.merge(c, problem, write(result.merged));
  return result;
}

/// The sentences for what users pass to any method.
template <class Base, class Experts>
constexpr bool require_parameters() {
  static_assert(require_makeable<Base>());
  static_assert(require_tensors<Experts>());
  static_assert(require_same_domain<Base, element_t<Experts>>());
  return true;
}

/// The same for several weights: a range of bases, and for each task a range of experts.
template <class Bases, class Experts>
constexpr bool require_parameter_group() {
  static_assert(require_tensors<Bases>());
  static_assert(require_range<Experts>());
  static_assert(require_parameters<element_t<Bases>, element_t<Experts>>());
  return true;
}

}  // namespace detail
}  // namespace catmerge
