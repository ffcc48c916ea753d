// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/merge/report.hpp>
#include <cmath>
#include <concepts>
#include <span>
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
  /// One per task, of base's shape, or none: how much each entry matters to the task (squared
  /// gradients, sensitivities).
  std::vector<const_view> importance{};
  layer_names names{};  ///< for messages
};

/// A merging method, for tensors of a context's domain. It holds its options, and is called from
/// one thread.
///
/// Requirements:
/// - `merge(context, problem, out)`, const: writes the merged parameter to `out`, shaped like base,
///   and returns a layer_report;
/// - `needs_statistics(kind)`, const: a bool, whether parameters of a kind can use statistics.
///
/// A method that uses importances has `needs_importance()`, const, too, which returns true.
/// `wants_statistics(problem)`, const, where it differs from needs_statistics of the kind, tells
/// whether statistics that are missing are missed. `sees_matrices`, static and true: tables and
/// embeddings must come whole, not in pieces of rows.
///
/// A method that must have seen the whole model before it merges any of it (TIES' thresholds) has
/// a scan: `scan_wanted()`, const, tells whether all parameters have to pass by (once more);
/// `scan(context, problem, vectors)` sees one, `end_scan()` ends the pass. `merge` is called once
/// no scan is wanted. merge_stream and the calls for one parameter scan a copy: what a method has
/// found is gone with it.
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
/// (examples/own_method.cpp has a useful one.) Models: cat_method and all of methods/, with every
/// context.
template <class M, class Context>
concept merging_method = requires(const M& m, Context& c, const layer_problem<Context>& p,
                                  typename Context::view out) {
  { m.merge(c, p, out) } -> std::same_as<layer_report>;
  { m.needs_statistics(layer_kind::linear) } -> std::same_as<bool>;
};

/// The task vectors of one parameter, T_k = theta_k - theta_0, K of base's shape, in the order of
/// the tasks. What they refer to may be changed.
template <class Context>
using vector_list = std::span<const typename Context::view>;

/// A merging method that asks nothing of experts but their task vectors, so that these may be
/// changed before (compose.hpp).
///
/// Requirements, beside merging_method's:
/// - `combine(context, problem, vectors, tau, report)`, const: writes the merged task vector to
///   `tau`, which holds zeros, and what it did to `report`. The vectors are its to change, the
///   problem's experts are not asked;
/// - `factor()`, const: a double, by which tau is multiplied: theta = theta_0 + factor() tau.
///
/// `merge` is then `return detail::merge_vectors(*this, c, p, out);`.
template <class M, class Context>
concept vector_method = merging_method<M, Context> &&
    requires(const M& m, Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
             typename Context::view tau, layer_report& report) {
  m.combine(c, p, vectors, tau, report);
  { m.factor() } -> std::same_as<double>;
};

/// How large the task vectors of one parameter are, in Frobenius norms.
struct vector_sizes {
  double of_base = 0;              ///< ||theta_0||
  std::vector<double> of_vectors;  ///< ||T_k||, in the order of the tasks
};

/// What changes task vectors before they are merged: a trim, a filter.
///
/// Requirements:
/// - `apply(context, problem, vectors, report)`, const: changes the vectors in place;
/// - `needs_statistics(kind)`, const, as a merging_method's.
///
/// It may have a scan, as merging methods may.
///
/// Models: cat_trim, dare_transform, tatr_filter.
template <class T, class Context>
concept vector_transform = requires(const T& t, Context& c, const layer_problem<Context>& p,
                                    vector_list<Context> vectors, layer_report& report) {
  t.apply(c, p, vectors, report);
  { t.needs_statistics(layer_kind::linear) } -> std::same_as<bool>;
};

namespace detail {

/// Whether m, a method or a transform, wants all parameters to pass by (once more).
template <class M>
bool scan_wanted(const M& m) {
  if constexpr (requires { m.scan_wanted(); })
    return m.scan_wanted();
  else
    return false;
}
template <class M, class Context>
void scan(M& m, Context& c, const layer_problem<Context>& p, vector_list<Context> vectors) {
  if constexpr (requires { m.scan_wanted(); }) m.scan(c, p, vectors);
}
template <class M>
void end_scan(M& m) {
  if constexpr (requires { m.scan_wanted(); }) m.end_scan();
}

/// Whether m uses importances.
template <class M>
bool needs_importance(const M& m) {
  if constexpr (requires { m.needs_importance(); })
    return m.needs_importance();
  else
    return false;
}

/// Whether a method has a better rule for a parameter with statistics than without.
template <class Method, class Context>
bool wants_statistics(const Method& method, const layer_problem<Context>& p) {
  if constexpr (requires { method.wants_statistics(p); })
    return method.wants_statistics(p);
  else
    return method.needs_statistics(p.kind);
}

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

/// Throws unless v has the base's shape, rows x columns. `what` names it.
template <class Context>
void require_base_shape(Context& c, const typename Context::const_view& v, index_t rows,
                        index_t columns, const std::string& what) {
  if (rows != columns && c.rows(v) == columns && c.columns(v) == rows)
    throw error(what + ": expected " + shape_text(rows, columns) + ", found " + shape_text(c, v) +
                ", the shape of the base's transpose: linear weights are d_out x d_in: pass the "
                "other one transposed, as a view (Eigen: .transpose(), xtensor: "
                "xt::transpose(...), PyTorch: .t())");
  require_shape(c, v, rows, columns, what);
}

/// Throws unless experts and statistics fit the base.
template <class Context>
void check_shapes(Context& c, const layer_problem<Context>& p) {
  if (p.experts.empty()) throw error(p.names.who() + ": there are no experts to merge");
  const index_t rows = c.rows(p.base), columns = c.columns(p.base);
  if (p.kind == layer_kind::scale || p.kind == layer_kind::shift)
    require_shape(c, p.base, rows, 1, p.names.base() + " (a " + name_of(p.kind) + ")");
  for (index_t k = 0; k < std::ssize(p.experts); ++k)
    require_base_shape(c, p.experts[static_cast<std::size_t>(k)], rows, columns, p.names.expert(k));
  if (p.parts < 1 || rows % p.parts != 0)
    throw error(p.names.who() + ": " + std::to_string(rows) + " rows cannot be split into " +
                std::to_string(p.parts) + " equal parts");
  if (!p.importance.empty() && p.importance.size() != p.experts.size())
    throw error(p.names.who() + ": importances of " + std::to_string(p.importance.size()) +
                " tasks for " + std::to_string(p.experts.size()) + " experts");
  for (index_t k = 0; k < std::ssize(p.importance); ++k)
    require_shape(c, p.importance[static_cast<std::size_t>(k)], rows, columns,
                  p.names.importance(k));
  if (p.statistics.empty()) return;
  if (p.statistics.size() != p.experts.size())
    throw error(p.names.who() + ": features of " + std::to_string(p.statistics.size()) +
                " tasks for " + std::to_string(p.experts.size()) +
                " experts: pass one for each, in the order of the experts, or none at all");
  for (index_t k = 0; k < std::ssize(p.statistics); ++k) {
    const auto& s = p.statistics[static_cast<std::size_t>(k)];
    if (p.kind == layer_kind::linear) require_inputs(c, s, rows, columns, p.names.features(k));
    if (p.kind == layer_kind::scale) require_width(c, s, rows, p.names.features(k));
  }
}

/// Throws if a result is not finite, and says which input is to blame, or names the result. (Every
/// input enters a merged parameter, and what is not finite stays so: looking at that is enough.)
template <class Context>
void check_finite(Context& c, const layer_problem<Context>& p, typename Context::const_view result,
                  const std::string& what = ": the merged parameter") {
  if (c.all_finite(result)) return;
  if (!c.all_finite(p.base))
    throw not_finite_error(p.names.base() + " holds a value that is not finite");
  for (index_t k = 0; k < std::ssize(p.experts); ++k)
    if (!c.all_finite(p.experts[static_cast<std::size_t>(k)]))
      throw not_finite_error(p.names.expert(k) + " holds a value that is not finite");
  throw error(p.names.who() + what + " overflows " + name_of(c.type(result)));
}

/// ||T_k||_F of every task and ||theta_0||_F, in strips of rows: no task vector is held.
template <class Context>
vector_sizes sizes_of(Context& c, const layer_problem<Context>& p) {
  const index_t rows = c.rows(p.base), columns = c.columns(p.base);
  // 128 KiB of float: a strip stays in the processor's cache between its two passes.
  const index_t height = std::clamp<index_t>((index_t{1} << 15) / (std::max<index_t>)(1, columns),
                                             1, (std::max<index_t>)(1, rows));
  const auto strips = [&](const auto& energy) {
    double sum = 0;
    for (index_t row = 0; row < rows; row += height)
      sum += energy(row, (std::min)(height, rows - row));
    return std::sqrt(sum);
  };
  const auto part = [&](const typename Context::const_view& t, index_t row, index_t count) {
    return c.slice(t, row, count, 0, columns);
  };
  vector_sizes sizes;
  sizes.of_base =
      strips([&](index_t row, index_t count) { return c.squared_norm(part(p.base, row, count)); });
  sizes.of_vectors.resize(p.experts.size());
  c.concurrently(std::ssize(p.experts), [&](index_t k) {
    const auto& expert = p.experts[static_cast<std::size_t>(k)];
    const bool wide = c.type(p.base) == scalar_type::f64 || c.type(expert) == scalar_type::f64;
    auto difference = c.make(wide ? scalar_type::f64 : scalar_type::f32, height, columns);
    sizes.of_vectors[static_cast<std::size_t>(k)] = strips([&](index_t row, index_t count) {
      const typename Context::view t =
          c.slice(typename Context::view(difference), 0, count, 0, columns);
      c.subtract(part(expert, row, count), part(p.base, row, count), t);
      return c.squared_norm(t);
    });
  });
  return sizes;
}

/// The same for statistics, before they are used.
template <class Context>
void check_finite_statistics(Context& c, const layer_problem<Context>& p) {
  for (index_t k = 0; k < std::ssize(p.statistics); ++k)
    if (!c.all_finite(p.statistics[static_cast<std::size_t>(k)].data))
      throw error(p.names.features(k) + " hold a value that is not finite");
}

/// The same for importances; negative ones are refused too.
template <class Context>
void check_importance(Context& c, const layer_problem<Context>& p) {
  for (index_t k = 0; k < std::ssize(p.importance); ++k) {
    const auto& x = p.importance[static_cast<std::size_t>(k)];
    if (!c.all_finite(x)) throw error(p.names.importance(k) + " hold a value that is not finite");
    auto size = c.make(compute_type(c.type(x)), c.rows(x), c.columns(x));
    c.map(entry_function::absolute, 0, x, size);
    c.axpy(-1, x, size);  // zero but where x is negative
    if (c.squared_norm(size) > 0) throw error(p.names.importance(k) + " hold a negative value");
  }
}

/// T_i of every task, in double where base or expert is. Throws catmerge::error, naming the expert,
/// where one is not finite.
template <class Context>
std::vector<typename Context::matrix> form_vectors(Context& c, const layer_problem<Context>& p) {
  std::vector<typename Context::matrix> vectors(p.experts.size());
  const bool base_is_double = c.type(p.base) == scalar_type::f64;
  c.concurrently(std::ssize(vectors), [&](index_t i) {
    const auto& expert = p.experts[static_cast<std::size_t>(i)];
    const auto type = base_is_double ? scalar_type::f64 : compute_type(c.type(expert));
    auto& t = vectors[static_cast<std::size_t>(i)];
    t = c.make(type, c.rows(p.base), c.columns(p.base));
    c.subtract(expert, p.base, t);
  });
  for (index_t i = 0; i < std::ssize(vectors); ++i)
    check_finite(c, p, vectors[static_cast<std::size_t>(i)],
                 ": the task vector of '" + p.names.task(i) + "'");
  return vectors;
}

/// The handles by which vectors are passed on.
template <class Context>
std::vector<typename Context::view> views_of(std::vector<typename Context::matrix>& vectors) {
  return {vectors.begin(), vectors.end()};
}

/// What every vector_method's merge is: theta_0 + factor tau, tau as m combines the task vectors.
template <class Method, class Context>
layer_report merge_vectors(const Method& m, Context& c, const layer_problem<Context>& p,
                           const typename Context::view& out) {
  layer_report report;
  report.kind = p.kind;
  auto tau = c.make(compute_type(c.type(out)), c.rows(out), c.columns(out));
  {
    auto vectors = form_vectors(c, p);
    m.combine(c, p, vector_list<Context>(views_of<Context>(vectors)), tau, report);
  }
  c.assign(p.base, out);
  c.axpy(m.factor(), tau, out);
  check_finite(c, p, out);
  return report;
}

/// tau += sum_k T_k, added in the order of the tasks.
template <class Context>
void sum_vectors(Context& c, vector_list<Context> vectors, const typename Context::view& tau) {
  const std::vector<typename Context::const_view> list(vectors.begin(), vectors.end());
  c.accumulate(1, list, c.slice(typename Context::const_view(tau), 0, 0, 0, 0), tau);
}

/// tau += (1/K) sum_k T_k: what most methods do with parameters that their rule is not for.
template <class Context>
void mean_vector(Context& c, vector_list<Context> vectors, const typename Context::view& tau) {
  sum_vectors(c, vectors, tau);
  c.scale(1 / static_cast<double>(vectors.size()), tau);
}

/// Shows a method's scans the parameter of a call that has one alone.
template <class Context, class Method>
void scan_one(Context& c, Method& method, const layer_problem<Context>& p) {
  while (scan_wanted(method)) {
    auto vectors = form_vectors(c, p);
    scan(method, c, p, vector_list<Context>(views_of<Context>(vectors)));
    end_scan(method);
  }
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
  if constexpr (requires { method.scan_wanted(); }) {
    Method scanned = method;
    scan_one(c, scanned, problem);
    result.report = scanned.merge(c, problem, write(result.merged));
  } else {
    result.report = method.merge(c, problem, write(result.merged));
  }
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
