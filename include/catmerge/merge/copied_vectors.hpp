// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/vectors.hpp>
#include <vector>

namespace catmerge::detail {

/// Copies of the task vectors, for one of several methods: each may change its vectors.
template <class Context>
std::vector<typename Context::matrix> copied_vectors(Context& c, vector_list<Context> vectors) {
  std::vector<typename Context::matrix> copies;
  for (const auto& t : vectors) {
    copies.push_back(c.make(c.type(t), c.rows(t), c.columns(t)));
    c.assign(t, copies.back());
  }
  return copies;
}

}  // namespace catmerge::detail
