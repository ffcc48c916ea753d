// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/method.hpp>
#include <concepts>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// @file
/// Whole networks, a group of parameters at a time: nothing is held that is not being worked on.
namespace catmerge {

/// One parameter as a source describes it.
struct parameter_info {
  std::string name;                     ///< unique in the source
  layer_kind kind = layer_kind::other;  ///< how it is trimmed
  index_t parts = 1;                    ///< fused linears or shifts: equal blocks of rows
  bool transposed =
      false;  ///< stored d_in x d_out (GPT-2's Conv1D): source and sink transpose the window
};

/// Parameters that share an input (q, k, v), or one alone: the unit of streaming.
using parameter_group = std::vector<parameter_info>;

/// Where parameters come from. Tensors are in logical layout (d_out x d_in, vectors of d) and stay
/// valid until release.
///
/// Requirements:
/// - `tasks()`: the names of the K experts, a vector of strings;
/// - `groups()`: a vector of parameter_group, in the order in which they are merged;
/// - `base(parameter)` and `expert(k, parameter)`: makeable tensors of one domain, by value (a
///   handle) or by reference;
/// - `release(group)`: the tensors of this group are not needed any more.
///
/// @code
/// struct networks {
///   std::map<std::string, Eigen::MatrixXf> pretrained, experts[2];
///   std::vector<std::string> tasks() const { return {"cars", "textures"}; }
///   std::vector<catmerge::parameter_group> groups() const {
///     return {{{"query", catmerge::layer_kind::linear}, {"key", catmerge::layer_kind::linear}}};
///   }
///   const auto& base(const catmerge::parameter_info& p) { return pretrained.at(p.name); }
///   const auto& expert(long k, const catmerge::parameter_info& p) {
///     return experts[k].at(p.name);
///   }
///   void release(const catmerge::parameter_group&) {}
/// };
/// @endcode
/// The library has no model, since it knows no checkpoint in memory; examples/embedding.cpp has one
/// that loads and frees, examples/harness/checkpoint_set.hpp one on io::checkpoint.
template <class S>
concept parameter_source = requires(S& s, const parameter_info& p, const parameter_group& group,
                                    index_t k) {
  { s.tasks() } -> std::convertible_to<std::vector<std::string>>;  ///< names of the experts
  { s.groups() } -> std::convertible_to<std::vector<parameter_group>>;
  requires tensor<decltype(s.base(p))>;
  requires tensor<decltype(s.expert(k, p))>;
  s.release(group);  ///< the tensors of this group are not needed any more
};

/// Where statistics of a domain come from.
///
/// Requirements:
/// - `get(k, parameter)`: what task k's calibration samples say of the parameter's input, a
///   std::optional<statistics_view<Domain>>, empty where nothing is known; valid until release;
/// - `release(group)`: the statistics of this group are not needed any more.
///
/// @code
/// struct recorded {
///   std::map<std::string, catmerge::feature_statistics<>> tasks[2];
///   std::optional<catmerge::statistics_view<catmerge::host>> get(
///       long k, const catmerge::parameter_info& p) const { return tasks[k].at(p.name).view(); }
///   void release(const catmerge::parameter_group&) {}
/// };
/// @endcode
/// Models: no_statistics; examples/harness/statistics.hpp has one on io::statistics_file.
template <class S, class Domain>
concept statistics_source = requires(S& s, const parameter_info& p, const parameter_group& group,
                                     index_t k) {
  { s.get(k, p) } -> std::convertible_to<std::optional<statistics_view<Domain>>>;
  s.release(group);
};

/// Where merged parameters go.
///
/// Requirement: `put(parameter, tensor)` takes the tensor over, in logical layout: one of what
/// tensor_traits of the source's base make.
/// @code
/// struct merged {
///   std::map<std::string, Eigen::MatrixXf> parameters;
///   void put(const catmerge::parameter_info& p, Eigen::MatrixXf t) {
///     parameters[p.name] = std::move(t);
///   }
/// };
/// @endcode
/// The library has no model, as for sources; examples/embedding.cpp has one,
/// examples/harness/checkpoint_set.hpp one on io::checkpoint_writer.
template <class S, class Tensor>
concept parameter_sink = requires(S& s, const parameter_info& p, Tensor&& t) {
  s.put(p, std::move(t));
};

/// The statistics_source for methods that need none, or where there are none: linears and scales
/// are then merged as in Task Arithmetic by CAT.
template <class Domain = host>
struct no_statistics {
  /// Nothing.
  std::optional<statistics_view<Domain>> get(index_t, const parameter_info&) {
    return std::nullopt;
  }
  void release(const parameter_group&) {}  ///< Nothing to release.
};

/// What merge_stream did to one parameter.
struct parameter_report {
  std::string name;                 ///< as the source has it
  layer_report layer;               ///< what the method says
  bool missing_statistics = false;  ///< the method could have used statistics, and there were none
};

namespace detail {

/// What a source returns.
template <class S>
using source_base_t = decltype(std::declval<S&>().base(std::declval<const parameter_info&>()));
template <class S>
using source_expert_t =
    decltype(std::declval<S&>().expert(index_t{}, std::declval<const parameter_info&>()));

/// What S lacks of a source for a context of this domain.
template <class S, class Domain>
constexpr bool require_source() {
  static_assert(
      requires(S & s) {
        { s.tasks() } -> std::convertible_to<std::vector<std::string>>;
      },
      "catmerge: a parameter source needs tasks(): the names of the experts, a vector of strings");
  static_assert(
      requires(S & s) {
        { s.groups() } -> std::convertible_to<std::vector<parameter_group>>;
      },
      "catmerge: a parameter source needs groups(): a vector of "
      "catmerge::parameter_group, parameters that share an input");
  static_assert(
      requires(S & s, const parameter_group& group) { s.release(group); },
      "catmerge: a parameter source needs release(group): from then on its tensors "
      "are not needed");
  static_assert(
      requires(S & s, const parameter_info& p) { s.base(p); },
      "catmerge: a parameter source needs base(parameter): a tensor");
  static_assert(
      requires(S & s, const parameter_info& p, index_t k) { s.expert(k, p); },
      "catmerge: a parameter source needs expert(task, parameter): what an expert "
      "made of it");
  if constexpr (requires(S & s, const parameter_info& p, index_t k) {
                  s.base(p), s.expert(k, p);
                }) {
    using base = source_base_t<S>;
    using expert = source_expert_t<S>;
    static_assert(tensor<base>,
                  "catmerge: what a parameter source's base(parameter) returns must be "
                  "a tensor");
    static_assert(tensor<expert>,
                  "catmerge: what a parameter source's expert(task, parameter) "
                  "returns must be a tensor");
    static_assert(require_makeable<base>());
    static_assert(require_tensor<expert>());
    static_assert(require_same_domain<base, expert>());
    static_assert(require_domain<Domain, domain_t<base>>());
  }
  return true;
}

/// The same for a source of statistics.
template <class S, class Domain>
constexpr bool require_statistics_source() {
  static_assert(
      requires(S & s, const parameter_info& p, index_t k) {
        { s.get(k, p) } -> std::convertible_to<std::optional<statistics_view<Domain>>>;
      },
      "catmerge: a statistics source needs get(task, parameter), which returns a "
      "std::optional<catmerge::statistics_view<Domain>> of the context's domain: copy statistics "
      "of another one there first");
  static_assert(
      requires(S & s, const parameter_group& group) { s.release(group); },
      "catmerge: a statistics source needs release(group): from then on its "
      "statistics are not needed");
  return true;
}

/// The same for a sink of tensors.
template <class S, class Tensor>
constexpr bool require_sink() {
  static_assert(parameter_sink<S, Tensor>,
                "catmerge: a parameter sink needs put(parameter, tensor): it takes over what "
                "tensor_traits of the base make");
  return true;
}

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
/// then, it keeps. Whole programs: examples/embedding.cpp, examples/own_method.cpp.
inline constexpr detail::merge_stream_fn merge_stream{};

}  // namespace catmerge
