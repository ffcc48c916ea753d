// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/statistics_view.hpp>
#include <catmerge/merge/report.hpp>
#include <catmerge/merge/vector_sizes.hpp>
#include <concepts>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// @file
/// Concepts for the parameters of whole networks: their sources and sinks.
namespace catmerge {

/// One parameter as a source describes it.
struct parameter_info {
  std::string name;                     ///< unique in the source
  layer_kind kind = layer_kind::other;  ///< the parameter's effect on features
  index_t parts = 1;                    ///< fused linears or shifts: equal blocks of rows
  bool transposed = false;  ///< stored d_in x d_out (GPT-2's Conv1D): source and sink transpose it
  std::string whole{};      ///< the larger tensor's name, if this is a piece of one (a table)
  index_t first_row = 0;    ///< the piece's first row in the larger tensor
};

/// Parameters that share an input (q, k, v), or one alone: the unit of streaming.
using parameter_group = std::vector<parameter_info>;

/// A source of parameters: the base's and the experts'. Tensors are in logical layout (d_out x
/// d_in, vectors of d) and stay valid until release.
///
/// Requirements:
/// - `tasks()`: the names of the K experts, a vector of strings;
/// - `groups()`: a vector of parameter_group, in the order in which they are merged;
/// - `base(parameter)` and `expert(k, parameter)`: makeable tensors of one domain, by value (a
///   handle) or by reference;
/// - `release(group)`: the tensors of this group may be freed. Only methods with scans ask for them
///   again.
///
/// @code
/// struct networks {
///   std::map<std::string, Eigen::MatrixXf> pretrained, tuned[2];
///   std::vector<std::string> tasks() const { return {"cars", "textures"}; }
///   std::vector<catmerge::parameter_group> groups() const {
///     return {{{"query", catmerge::layer_kind::linear}, {"key", catmerge::layer_kind::linear}}};
///   }
///   const auto& base(const catmerge::parameter_info& p) { return pretrained.at(p.name); }
///   const auto& expert(long k, const catmerge::parameter_info& p) { return tuned[k].at(p.name); }
///   void release(const catmerge::parameter_group&) {}
/// };
/// @endcode
/// The library has no model of its own. Models: examples/embedding.cpp loads and frees,
/// examples/harness/checkpoints/checkpoint_set.hpp reads an io::checkpoint.
template <class S>
concept parameter_source = requires(S& s, const parameter_info& p, const parameter_group& group,
                                    index_t k) {
  { s.tasks() } -> std::convertible_to<std::vector<std::string>>;
  { s.groups() } -> std::convertible_to<std::vector<parameter_group>>;
  requires any_tensor<decltype(s.base(p))>;
  requires any_tensor<decltype(s.expert(k, p))>;
  s.release(group);
};

/// A source of statistics in a domain.
///
/// Requirements:
/// - `get(k, parameter)`: statistics of the parameter's input on task k's calibration samples, a
///   std::optional<statistics_view<Domain>>, empty if there are none; valid until release;
/// - `release(group)`: the statistics of this group may be freed until the next `get`;
/// - `importance(k, parameter)`, only for methods that use it: how much each entry of the parameter
///   matters to task k, a std::optional<context<Domain>::const_view> of the parameter's shape.
///
/// @code
/// struct recorded {
///   std::map<std::string, catmerge::feature_statistics<>> tasks[2];
///   std::optional<catmerge::statistics_view<catmerge::host>> get(
///       long k, const catmerge::parameter_info& p) const { return tasks[k].at(p.name).view(); }
///   void release(const catmerge::parameter_group&) {}
/// };
/// @endcode
/// Models: no_statistics; examples/harness/features/input_statistics.hpp on io::statistics_file.
template <class S, class Domain>
concept statistics_source = requires(S& s, const parameter_info& p, const parameter_group& group,
                                     index_t k) {
  { s.get(k, p) } -> std::convertible_to<std::optional<statistics_view<Domain>>>;
  s.release(group);
};

/// A sink of merged parameters, in logical layout.
///
/// Requirement: `put(parameter, tensor)` takes over a tensor that the base's tensor_traits made.
/// @code
/// struct merged {
///   std::map<std::string, Eigen::MatrixXf> parameters;
///   void put(const catmerge::parameter_info& p, Eigen::MatrixXf t) { parameters[p.name] = t; }
/// };
/// @endcode
/// The library has no model of its own. Models: examples/embedding.cpp,
/// examples/harness/checkpoints/checkpoint_output.hpp on io::checkpoint_writer.
template <class S, class Tensor>
concept parameter_sink = requires(S& s, const parameter_info& p, Tensor&& t) {
  s.put(p, std::move(t));
};

/// The empty statistics_source. With it CAT merges linears and scales as Task Arithmetic does.
template <class Domain = host>
struct no_statistics {
  /// Returns nothing.
  std::optional<statistics_view<Domain>> get(index_t, const parameter_info&) { return {}; }
  void release(const parameter_group&) {}  ///< Has nothing to release.
};

/// The report of merge_stream on one parameter.
struct parameter_report {
  std::string name;                 ///< the name in the source
  layer_report layer;               ///< the method's report
  bool missing_statistics = false;  ///< the method could have used statistics, and there were none
  bool missing_importance = false;  ///< the method uses importances, and there were none
  vector_sizes sizes{};             ///< sizes of the source's task vectors, before any transform
};

namespace detail {

/// The types of a source's base() and expert().
template <class S>
using source_base_t = decltype(std::declval<S&>().base(std::declval<const parameter_info&>()));
template <class S>
using source_expert_t =
    decltype(std::declval<S&>().expert(index_t{}, std::declval<const parameter_info&>()));

/// Stops compilation, with a sentence, unless S is a parameter_source in this domain.
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
      "catmerge: a parameter source needs groups(): a std::vector<catmerge::parameter_group>");
  static_assert(
      requires(S & s, const parameter_group& group) { s.release(group); },
      "catmerge: a parameter source needs release(group): its tensors are not needed any more");
  static_assert(
      requires(S & s, const parameter_info& p) { s.base(p); },
      "catmerge: a parameter source needs base(parameter): a tensor");
  static_assert(
      requires(S & s, const parameter_info& p, index_t k) { s.expert(k, p); },
      "catmerge: a parameter source needs expert(task, parameter): the expert's tensor");
  if constexpr (requires {
                  typename source_base_t<S>;
                  typename source_expert_t<S>;
                }) {
    using base = source_base_t<S>;
    using expert = source_expert_t<S>;
    static_assert(any_tensor<base>,
                  "catmerge: a parameter source's base(parameter) must return a tensor");
    static_assert(any_tensor<expert>,
                  "catmerge: a parameter source's expert(task, parameter) must return a tensor");
    static_assert(require_makeable<base>());
    static_assert(require_tensor<expert>());
    static_assert(require_same_domain<base, expert>());
    static_assert(require_domain<Domain, domain_t<base>>());
  }
  return true;
}

/// Stops compilation, with a sentence, unless S is a statistics_source in this domain.
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
      "catmerge: a statistics source needs release(group): its views are not needed any more");
  return true;
}

/// Stops compilation, with a sentence, unless S is a parameter_sink of these tensors.
template <class S, class Tensor>
constexpr bool require_sink() {
  static_assert(parameter_sink<S, Tensor>,
                "catmerge: a parameter sink needs put(parameter, tensor), which takes over tensors "
                "as tensor_traits of the base make them");
  return true;
}

}  // namespace detail
}  // namespace catmerge
