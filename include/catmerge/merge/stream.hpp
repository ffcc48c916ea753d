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
/// Whole networks, a group of parameters at a time: nothing is held that is not being worked on.
namespace catmerge {

namespace detail {

/// A tensor that a source returned: kept where it came by value, else referred to.
template <class T>
struct kept {
  T tensor;
};

/// What is known of the input of p on every task; nothing where one task is missing.
template <class Domain, class Statistics>
std::vector<statistics_view<Domain>> all_statistics(Statistics& source, const parameter_info& p,
                                                    index_t tasks) {
  std::vector<statistics_view<Domain>> list;
  for (index_t k = 0; k < tasks; ++k) {
    std::optional<statistics_view<Domain>> s = source.get(k, p);
    if (!s) return {};
    list.push_back(*s);
  }
  return list;
}

/// What is known of the importance of p's entries on every task; nothing where one is missing.
template <class Domain, class Statistics>
std::vector<typename context<Domain>::const_view> all_importance(Statistics& source,
                                                                 const parameter_info& p,
                                                                 index_t tasks) {
  std::vector<typename context<Domain>::const_view> list;
  if constexpr (requires { source.importance(tasks, p); })
    for (index_t k = 0; k < tasks; ++k) {
      std::optional<typename context<Domain>::const_view> x = source.importance(k, p);
      if (!x) return {};
      list.push_back(*x);
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
  /// Calls act(info, problem, base) for every parameter, and releases its group after it.
  template <class Method, class Source, class Statistics, class Act>
  static void for_parameters(const Method& method, Source& source, Statistics& statistics,
                             const Act& act) {
    using base_type = source_base_t<Source>;
    using domain = domain_t<base_type>;
    using expert = source_expert_t<Source>;
    const std::vector<std::string> tasks = source.tasks();
    for (const parameter_group& group : source.groups()) {
      for (const parameter_info& info : group) {
        decltype(auto) base = source.base(info);
        std::vector<kept<expert>> experts;
        layer_problem<context<domain>> problem;
        for (index_t k = 0; k < std::ssize(tasks); ++k) experts.push_back({source.expert(k, info)});
        for (const auto& e : experts) problem.experts.push_back(const_view_of(e.tensor));
        problem.kind = info.kind;
        problem.parts = info.parts;
        problem.base = const_view_of(base);
        problem.names = {info.name, tasks, info.whole, info.first_row};
        if (needs_statistics(method, info.kind))
          problem.statistics = all_statistics<domain>(statistics, info, std::ssize(tasks));
        if (needs_importance(method))
          problem.importance = all_importance<domain>(statistics, info, std::ssize(tasks));
        act(info, problem, base);
      }
      source.release(group);
      statistics.release(group);
    }
  }

  /// The method once it has seen all that its scans want to see.
  template <class Method, class Source, class Statistics, class Context, class Seen>
  static decltype(auto) scanned(const Method& method, Source& source, Statistics& statistics,
                                Context& c, const Seen& seen) {
    if constexpr (requires { method.scan_wanted(); }) {
      Method copy = method;
      while (scan_wanted(copy)) {
        for_parameters(
            copy, source, statistics,
            [&](const parameter_info& given, const layer_problem<Context>& problem, const auto&) {
              check_shapes(c, problem);
              auto vectors = form_vectors(c, problem);
              copy.scan(c, problem, vector_list<Context>(views_of<Context>(vectors)));
              if constexpr (requires { seen.scanned(given); }) seen.scanned(given);
            });
        copy.end_scan();
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

/// Merges every parameter of a source by `method` into `sink`, group by group, in the source's
/// order, and returns a vector of their parameter_reports.
/// @code
/// merge_stream(method, source, statistics, sink, context, seen);
/// merge_stream(method, source, statistics, sink);  // on a context of its own, made by default
/// merge_stream(method, source, sink);              // for methods that need no statistics
/// @endcode
/// method: a merging_method; source, statistics, sink: a parameter_source, a statistics_source and
/// a parameter_sink of the context's domain. `seen` (may be left out) is called with each report as
/// it is made, for progress; if it has a member `scanned(parameter)`, that is called as parameters
/// pass a scan. A method with scans has the whole source pass by once for each, in groups(), and
/// released, as for the merge itself. A linear or scale for which a task has no statistics is
/// merged as if it had none for any, and its report says so. Throws catmerge::error, naming the
/// parameter and the task, where shapes or statistics do not fit, and as the method does; what the
/// sink has by then, it keeps, and the group at work is not released. Whole programs:
/// examples/embedding.cpp, examples/own_method.cpp.
inline constexpr detail::merge_stream_fn merge_stream{};

}  // namespace catmerge
