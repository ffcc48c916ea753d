// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/detail/gram_by_shifts.hpp>
#include <catmerge/cat/detail/gram_by_weights.hpp>
#include <memory>
#include <utility>

namespace test {

/// How a conflict_gram multiplies.
enum class gram_way { shifts, weights };

template <class Context>
std::unique_ptr<catmerge::detail::conflict_gram<Context>> make_gram(
    gram_way way, Context& c, catmerge::detail::gram_problem<Context> problem) {
  if (way == gram_way::shifts)
    return std::make_unique<catmerge::detail::gram_by_shifts<Context>>(c, std::move(problem));
  return std::make_unique<catmerge::detail::gram_by_weights<Context>>(c, std::move(problem));
}

}  // namespace test
