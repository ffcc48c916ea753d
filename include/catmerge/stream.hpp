// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/method.hpp>
#include <catmerge/parameter_stream.hpp>
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
    using expert = source_expert_t<Source>;
    std::vector<parameter_report> reports;
    const std::vector<std::string> tasks = source.tasks();
    for (const parameter_group& group : source.groups()) {
      for (const parameter_info& info : group) {
        decltype(auto) base = source.base(info);
        std::vector<kept<expert>> experts;
        layer_problem<Context> problem;
        for (index_t k = 0; k < std::ssize(tasks); ++k) experts.push_back({source.expert(k, info)});
        for (const auto& e : experts) problem.experts.push_back(read(e.tensor));
        problem.kind = info.kind;
        problem.parts = info.parts;
        problem.base = read(base);
        problem.names = {info.name, tasks};
        const bool needs = method.needs_statistics(info.kind);
        if (needs) problem.statistics = all_statistics<domain>(statistics, info, std::ssize(tasks));
        check_shapes(c, problem);

        auto merged = make_result(c, base, problem.base);
        parameter_report report{info.name, method.merge(c, problem, write(merged)),
                                needs && problem.statistics.empty()};
        sink.put(info, std::move(merged));
        seen(report);
        reports.push_back(std::move(report));
      }
      source.release(group);
      statistics.release(group);
    }
    return reports;
  }

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
/// it is made, for progress. A linear or scale for which a task has no statistics is merged as if
/// it had none for any, and its report says so. Throws catmerge::error, naming the parameter and
/// the task, where shapes or statistics do not fit, and as the method does; what the sink has by
/// then, it keeps, and the group at work is not released. Whole programs: examples/embedding.cpp,
/// examples/own_method.cpp.
inline constexpr detail::merge_stream_fn merge_stream{};

}  // namespace catmerge
