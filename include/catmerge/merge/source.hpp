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
/// Where the parameters of whole networks come from and go to.
namespace catmerge {

/// One parameter as a source describes it.
struct parameter_info {
  std::string name;                     ///< unique in the source
  layer_kind kind = layer_kind::other;  ///< how it is trimmed
  index_t parts = 1;                    ///< fused linears or shifts: equal blocks of rows
  /// Stored d_in x d_out (GPT-2's Conv1D): source and sink transpose the window.
  bool transposed = false;
  std::string whole{};    ///< of some rows of a larger tensor (a table): that one's name
  index_t first_row = 0;  ///< of some rows of a larger tensor: the first one
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
/// - `release(group)`: the tensors of this group are not needed until they are asked for again,
///   which only methods with scans do.
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
/// that loads and frees, examples/harness/checkpoints/checkpoint_set.hpp one on io::checkpoint.
template <class S>
concept parameter_source = requires(S& s, const parameter_info& p, const parameter_group& group,
                                    index_t k) {
  { s.tasks() } -> std::convertible_to<std::vector<std::string>>;  ///< names of the experts
  { s.groups() } -> std::convertible_to<std::vector<parameter_group>>;
  requires any_tensor<decltype(s.base(p))>;
  requires any_tensor<decltype(s.expert(k, p))>;
  s.release(group);  ///< the tensors of this group are not needed any more
};

/// Where statistics of a domain come from.
///
/// Requirements:
/// - `get(k, parameter)`: what task k's calibration samples say of the parameter's input, a
///   std::optional<statistics_view<Domain>>, empty where nothing is known; valid until release;
/// - `release(group)`: the statistics of this group are not needed until it is asked for again;
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
/// Models: no_statistics; examples/harness/features/input_statistics.hpp has one on
/// io::statistics_file.
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
/// examples/harness/checkpoints/checkpoint_output.hpp one on io::checkpoint_writer.
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
  bool missing_importance = false;  ///< the method uses importances, and there were none
  vector_sizes sizes{};  ///< of the task vectors as the source has them, before any transform
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
    static_assert(any_tensor<base>,
                  "catmerge: what a parameter source's base(parameter) returns must be "
                  "a tensor");
    static_assert(any_tensor<expert>,
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

}  // namespace detail
}  // namespace catmerge
