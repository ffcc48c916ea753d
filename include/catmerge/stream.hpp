// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/method.hpp>
#include <concepts>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// Whole networks, a group of parameters at a time: nothing is held that is not being worked on.
namespace catmerge {

/// One parameter as a source describes it.
struct parameter_info {
  std::string name;
  layer_kind kind = layer_kind::other;
  index_t parts = 1;  ///< fused linears or shifts: equal blocks of rows
  bool transposed =
      false;  ///< stored d_in x d_out (GPT-2's Conv1D): source and sink transpose the window
};

/// Parameters that share an input (q, k, v), or one alone: the unit of streaming.
using parameter_group = std::vector<parameter_info>;

/// Where parameters come from. Tensors are in logical layout (d_out x d_in, vectors of d) and stay
/// valid until release.
template <class S>
concept parameter_source = requires(S& s, const parameter_info& p, const parameter_group& group,
                                    index_t k) {
  { s.tasks() } -> std::convertible_to<std::vector<std::string>>;  ///< names of the experts
  { s.groups() } -> std::convertible_to<std::vector<parameter_group>>;
  requires tensor<decltype(s.base(p))>;
  requires tensor<decltype(s.expert(k, p))>;
  s.release(group);  ///< the tensors of this group are not needed any more
};

/// Where statistics come from: get(k, p) is what task k's calibration samples say of the input of
/// p, as a std::optional<statistics_view>; empty where nothing is known.
template <class S, class Domain>
concept statistics_source = requires(S& s, const parameter_info& p, const parameter_group& group,
                                     index_t k) {
  { s.get(k, p) } -> std::convertible_to<std::optional<statistics_view<Domain>>>;
  s.release(group);
};

/// Where merged parameters go: put(p, tensor) takes the tensor over, in logical layout.
template <class S, class Tensor>
concept parameter_sink = requires(S& s, const parameter_info& p, Tensor&& t) {
  s.put(p, std::move(t));
};

/// For methods that need none.
template <class Domain = host>
struct no_statistics {
  std::optional<statistics_view<Domain>> get(index_t, const parameter_info&) {
    return std::nullopt;
  }
  void release(const parameter_group&) {}
};

struct parameter_report {
  std::string name;
  layer_report layer;
  bool missing_statistics = false;  ///< the method could have used statistics, and there were none
};

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

}  // namespace detail

/// Merges every parameter of a source by `method` into `sink`, group by group, in the source's
/// order. `seen` is called with each parameter's report (for progress). A linear or scale for which
/// a task has no statistics is merged as if it had none for any, and its report says so. Errors
/// name the parameter and the task.
template <class Method, class Source, class Statistics, class Sink, class Context, class Seen>
std::vector<parameter_report> merge_stream(const Method& method, Source& source,
                                           Statistics& statistics, Sink& sink, Context& c,
                                           const Seen& seen) {
  using domain = typename Context::domain;
  static_assert(parameter_source<Source>,
                "catmerge: the source does not satisfy catmerge::parameter_source");
  static_assert(statistics_source<Statistics, domain>,
                "catmerge: the statistics do not satisfy catmerge::statistics_source for the "
                "context's domain");
  static_assert(merging_method<Method, Context>,
                "catmerge: the method does not satisfy catmerge::merging_method");
  using expert = decltype(source.expert(index_t{}, std::declval<const parameter_info&>()));
  std::vector<parameter_report> reports;
  const std::vector<std::string> tasks = source.tasks();
  for (const parameter_group& group : source.groups()) {
    for (const parameter_info& info : group) {
      decltype(auto) base = source.base(info);
      std::vector<detail::kept<expert>> experts;
      layer_problem<Context> problem;
      for (index_t k = 0; k < std::ssize(tasks); ++k) experts.push_back({source.expert(k, info)});
      for (const auto& e : experts) problem.experts.push_back(detail::read(e.tensor));
      problem.kind = info.kind;
      problem.parts = info.parts;
      problem.base = detail::read(base);
      problem.names = {info.name, tasks};
      const bool needs = method.needs_statistics(info.kind);
      if (needs)
        problem.statistics = detail::all_statistics<domain>(statistics, info, std::ssize(tasks));
      detail::check_shapes(c, problem);

      auto merged = detail::make_result(c, base, problem.base);
      parameter_report report{info.name, method.merge(c, problem, detail::write(merged)),
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
std::vector<parameter_report> merge_stream(const Method& method, Source& source,
                                           Statistics& statistics, Sink& sink, Context& c) {
  return merge_stream(method, source, statistics, sink, c, [](const parameter_report&) {});
}

}  // namespace catmerge
