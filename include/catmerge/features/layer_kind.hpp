// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/host/host.hpp>
#include <functional>
#include <string>
#include <vector>

namespace catmerge {

/// What a parameter does to the features that pass it, which decides how it is trimmed.
enum class layer_kind {
  linear,  ///< x -> W x, W d_out x d_in: trimmed by projection
  scale,   ///< x -> w o x, the gamma of a normalisation: trimmed by a mask
  shift,   ///< x -> x + b, a bias: trimmed by a mask, needs no features
  other    ///< anything else: never trimmed, summed as in Task Arithmetic
};

/// "linear", "scale", "shift" or "other", for messages and reports.
constexpr const char* name_of(layer_kind kind) {
  switch (kind) {
    case layer_kind::linear: return "linear";
    case layer_kind::scale: return "scale";
    case layer_kind::shift: return "shift";
    case layer_kind::other: return "other";
  }
  return "unknown";
}

/// What is done with weights that hold several linears one above the other (q, k, v).
enum class fused_weights {
  split,  ///< each is a linear with directions of its own
  whole   ///< one matrix, as a derivative of the authors' code has it
};

/// Names for messages. Empty ones are filled in: "the parameter", "task 0".
struct layer_names {
  std::string parameter;           ///< the parameter's, as its checkpoint has it
  std::vector<std::string> tasks;  ///< the tasks', in the order of the experts
  std::string whole{};             ///< of a piece of a tensor: the tensor's name
  index_t first_row = 0;           ///< of a piece of a tensor: where in it this one begins

  /// "PARAMETER: expert 'TASK'".
  std::string expert(index_t k) const { return about(": expert '", k); }
  /// "PARAMETER: features of 'TASK'".
  std::string features(index_t k) const { return about(": features of '", k); }
  /// "PARAMETER: importances of 'TASK'".
  std::string importance(index_t k) const { return about(": importances of '", k); }
  /// "PARAMETER: base".
  std::string base() const { return who() + ": base"; }
  /// The parameter's name, or what stands for it.
  std::string who() const { return parameter.empty() ? "the parameter" : parameter; }
  /// The name of the tensor that the parameter is, or is a piece of.
  const std::string& tensor() const { return whole.empty() ? parameter : whole; }
  /// The name of task k, or what stands for it.
  std::string task(index_t k) const {
    const auto i = static_cast<std::size_t>(k);
    return i < tasks.size() ? tasks[i] : "task " + std::to_string(k);
  }

 private:
  [[gnu::noinline]] std::string about(const char* what, index_t k) const {
    return who() + what + task(k) + "'";
  }
};

namespace detail {

/// Ranges of tensors may hold std::reference_wrapper, so that nobody copies weights into a vector.
template <class T>
const T& unwrap(const T& t) {
  return t;
}
template <class T>
const T& unwrap(const std::reference_wrapper<T>& t) {
  return t.get();
}

template <class Range>
using element_t = std::remove_cvref_t<decltype(unwrap(*std::begin(std::declval<const Range&>())))>;

/// The context of a call that passes none, and whose first tensors are a range.
template <class Range>
auto context_of_first(const Range& range) -> context<domain_t<element_t<Range>>> {
  if (std::begin(range) == std::end(range)) return {};
  return context_of(unwrap(*std::begin(range)));
}

/// The windows of a range of tensors.
template <class Context, class Range>
std::vector<typename Context::const_view> read_all(const Range& range) {
  std::vector<typename Context::const_view> views;
  for (const auto& t : range) views.push_back(read(unwrap(t)));
  return views;
}

}  // namespace detail
}  // namespace catmerge
