// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/method.hpp>

/// @file
/// Needs of methods that a source of parameters has to know: tables as matrices, and whole ones.
namespace catmerge {

/// True if m merges tables and embeddings as matrices. Tables of tokens should not come to it.
template <class M>
constexpr bool sees_matrices(const M& m) {
  if constexpr (requires { m.sees_matrices(); }) return m.sees_matrices();
  if constexpr (method_wrapper<M>) return sees_matrices(m.wrapped());
  return false;
}

/// True if m needs tables and embeddings whole, not in pieces of rows.
template <class M>
constexpr bool needs_whole_tables(const M& m) {
  if constexpr (requires { m.needs_whole_tables(); }) return m.needs_whole_tables();
  if constexpr (method_wrapper<M>) return needs_whole_tables(m.wrapped());
  return sees_matrices(m);
}

}  // namespace catmerge
