// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/context.hpp>
#include <functional>
#include <iterator>
#include <vector>

/// Ranges of tensors, one element per task or weight, as public calls take them.
namespace catmerge::detail {

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
  for (const auto& t : range) views.push_back(const_view_of(unwrap(t)));
  return views;
}

}  // namespace catmerge::detail
