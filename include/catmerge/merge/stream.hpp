// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/run.hpp>
#include <catmerge/merge/source.hpp>
#include <catmerge/merge/vector_sizes.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// @file
/// Merges whole networks. Only the tensors of one group of parameters are held at a time.
namespace catmerge {

namespace detail {

/// A tensor that a source returned: stored if it came by value, else referred to.
template <class T>
struct kept {
  T tensor;
};

/// get(k) of every task, each a std::optional<T>; an empty list if one of them is empty.
template <class T, class Get>
std::vector<T> of_all_tasks(index_t tasks, const Get& get) {
  std::vector<T> list;
  for (index_t k = 0; k < tasks; ++k) {
    const std::optional<T> found = get(k);
    if (!found) return {};
    list.push_back(*found);
  }
  return list;
}

struct merge_stream_fn {
  template <class Method, class Source, class Statistics, class Sink, class Context, class Seen>
  std::vector<parameter_report> operator()(const Method& method, Source& source,
                                           Statistics& statistics, Sink& sink, Context& c,
                                           const Seen& seen) const {
    static_assert(require_own_context<Context>());
    using domain = typename Context::domain;
    static_assert(require_source<Source, domain>());
    static_assert(require_statistics_source<Statistics, domain>());
    static_assert(require_method<Method, Context>());
    static_assert(require_sink<Sink, result_t<source_base_t<Source>>>());
    std::vector<parameter_report> reports;
    const auto& ready = scanned(method, source, statistics, c, seen);
    for_parameters(
        ready, source, statistics,
        [&](const parameter_info& given, const layer_problem<Context>& problem, const auto& base) {
          check_shapes(c, problem);
          auto merged = make_result(c, base, problem.base);
          parameter_report report{given.name, merge_problem(ready, c, problem, view_of(merged)),
                                  problem.statistics.empty() && wants_statistics(ready, problem),
                                  problem.importance.empty() && needs_importance(ready),
                                  sizes_of(c, problem)};
          sink.put(given, std::move(merged));
          seen(report);
          reports.push_back(std::move(report));
        });
    return reports;
  }

 private:
  /// Calls act(info, problem, base) for every parameter, and releases each group after its last.
  template <class Method, class Source, class Statistics, class Act>
  static void for_parameters(const Method& method, Source& source, Statistics& statistics,
                             const Act& act) {
    using domain = domain_t<source_base_t<Source>>;
    const std::vector<std::string> names = source.tasks();
    const index_t tasks = std::ssize(names);
    for (const parameter_group& group : source.groups()) {
      for (const parameter_info& info : group) {
        decltype(auto) base = source.base(info);
        std::vector<kept<source_expert_t<Source>>> experts;
        layer_problem<context<domain>> problem;
        for (index_t k = 0; k < tasks; ++k) experts.push_back({source.expert(k, info)});
        for (const auto& e : experts) problem.experts.push_back(const_view_of(e.tensor));
        problem.kind = info.kind;
        problem.parts = info.parts;
        problem.base = const_view_of(base);
        problem.names = {info.name, names, info.whole, info.first_row};
        if (needs_statistics(method, info.kind))
          problem.statistics = of_all_tasks<statistics_view<domain>>(
              tasks, [&](index_t k) { return statistics.get(k, info); });
        if constexpr (requires { statistics.importance(tasks, info); })
          if (needs_importance(method))
            problem.importance = of_all_tasks<typename context<domain>::const_view>(
                tasks, [&](index_t k) { return statistics.importance(k, info); });
        act(info, problem, base);
      }
      source.release(group);
      statistics.release(group);
    }
  }

  /// The method after its scans of the whole source.
  template <class Method, class Source, class Statistics, class Context, class Seen>
  static decltype(auto) scanned(const Method& method, Source& source, Statistics& statistics,
                                Context& c, const Seen& seen) {
    if constexpr (has_scan<Method>()) {
      Method copy = method;
      while (scan_wanted(copy)) {
        for_parameters(
            copy, source, statistics,
            [&](const parameter_info& given, const layer_problem<Context>& problem, const auto&) {
              check_shapes(c, problem);
              auto vectors = form_vectors(c, problem);
              scan_parameter(copy, c, problem, vector_list<Context>(views_of<Context>(vectors)));
              if constexpr (requires { seen.scanned(given); }) seen.scanned(given);
            });
        end_scan(copy);
      }
      return Method(std::move(copy));
    } else {
      return (method);
    }
  }

 public:
  template <class Method, class Source, class Statistics, class Sink, class Context>
  std::vector<parameter_report> operator()(const Method& method, Source& source,
                                           Statistics& statistics, Sink& sink, Context& c) const {
    return (*this)(method, source, statistics, sink, c, [](const parameter_report&) {});
  }

  template <class Method, class Source, class Statistics, class Sink>
  std::vector<parameter_report> operator()(const Method& method, Source& source,
                                           Statistics& statistics, Sink& sink) const {
    static_assert(require_tensor<source_base_t<Source>>());
    context<domain_t<source_base_t<Source>>> c;
    return (*this)(method, source, statistics, sink, c);
  }

  template <class Method, class Source, class Sink>
  std::vector<parameter_report> operator()(const Method& method, Source& source, Sink& sink) const {
    static_assert(require_tensor<source_base_t<Source>>());
    no_statistics<domain_t<source_base_t<Source>>> none;
    return (*this)(method, source, none, sink);
  }
};

}  // namespace detail

/// Merges every parameter of a source by `method` into `sink`, group by group, in the order of
/// `groups()`. Returns a vector of parameter_reports in the same order.
/// @code
/// merge_stream(method, source, statistics, sink, context, seen);
/// merge_stream(method, source, statistics, sink);  // on a default-constructed context
/// merge_stream(method, source, sink);              // for methods that need no statistics
/// @endcode
/// method: a merging_method; source, statistics, sink: a parameter_source, a statistics_source and
/// a parameter_sink of the context's domain. `seen` (optional) is called with each report, for
/// progress; its optional member `scanned(parameter)` is called after each scan of a parameter.
/// Each scan reads and releases the whole source, as the merge does. A linear or scale that lacks
/// statistics of one task is merged without any, and its report says so. Throws catmerge::error,
/// naming parameter and task, if shapes or statistics do not fit, and as the method does; the sink
/// then keeps the tensors received so far, and the current group is not released. Whole programs:
/// examples/embedding.cpp, examples/own_method.cpp.
inline constexpr detail::merge_stream_fn merge_stream{};

}  // namespace catmerge
