// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/cat/projection.hpp>
#include <catmerge/factors/factored_vector.hpp>
#include <catmerge/numeric/thin_blocks.hpp>
#include <limits>
#include <vector>

/// The coordinates in which factored task vectors are small dense matrices.
namespace catmerge::detail {

/// An orthonormal basis of the columns of all blocks (each of `size` rows), and of `more` further
/// directions as far as there are any; at least one column. Lost is at most the rounding of a
/// block: what joint_basis takes for noise, directions of length below 1e-7, is looked at again.
/// (Directions that are noise do no harm in a basis.)
template <class Context>
typename Context::matrix span_of(Context& c, std::vector<typename Context::const_view> blocks,
                                 index_t size, index_t more) {
  using matrix = typename Context::matrix;
  auto basis = joint_basis(c, blocks, size);
  std::vector<matrix> owned;
  std::vector<typename Context::const_view> parts{basis};
  for (const auto& block : blocks) {
    auto& rest = owned.emplace_back(c.make(scalar_type::f64, size, c.columns(block)));
    c.assign(block, rest);
    remove_directions<Context>(c, basis, basis, rest);
    // The residual's own rounding: the sums of a product are of some 64 terms in a row.
    constexpr double rounding = 64 * std::numeric_limits<double>::epsilon();
    if (c.squared_norm(rest) > rounding * rounding * c.squared_norm(block)) parts.push_back(rest);
  }
  more =
      (std::min)((std::max<index_t>)(more, c.columns(basis) == 0 ? 1 : 0), size - c.columns(basis));
  if (more > 0) {
    auto& others = owned.emplace_back(c.make(scalar_type::f64, size, more));
    c.from_host(seeded_block(size, more, 1), others);
    parts.push_back(others);
  }
  return parts.size() == 1 ? std::move(basis) : joint_basis(c, parts, size);
}

/// T_i = Q C_i R^T for all T_i = s_i B_i A_i, Q and R orthonormal bases of all columns of the B_i
/// and of all rows of the A_i, C_i = s_i (Q^T B_i)(A_i R) of some (sum r_i) x (sum r_i). Products
/// with T_i, norms and eigenvectors of T_i M T_i^T are those of C_i, turned by Q and R.
template <class Context>
struct core_space {
  using matrix = typename Context::matrix;
  using const_view = typename Context::const_view;

  /// more: the number of columns that Q has beside the span of the B_i.
  core_space(Context& c, const std::vector<factored_view<Context>>& vectors, index_t more = 0) {
    std::vector<const_view> columns, rows;
    std::vector<matrix> turned;
    turned.reserve(vectors.size());
    for (const auto& v : vectors) {
      columns.push_back(v.b);
      auto& a = turned.emplace_back(c.make(scalar_type::f64, c.columns(v.a), c.rows(v.a)));
      c.transpose(v.a, a);
      rows.push_back(a);
    }
    left = span_of(c, columns, c.rows(vectors[0].b), more);
    right = span_of(c, rows, c.columns(vectors[0].a), 0);
  }

  index_t height(Context& c) const { return c.columns(left); }
  index_t width(Context& c) const { return c.columns(right); }

  /// C, f64, in the upper left corner of a matrix of zeros, height x width at least.
  matrix core(Context& c, const factored_view<Context>& v, index_t rows, index_t columns) const {
    const index_t rank = c.columns(v.b), q = height(c), p = width(c);
    auto b = c.make(scalar_type::f64, q, rank), a = c.make(scalar_type::f64, rank, p);
    c.multiply(1, left, op::transpose, v.b, op::none, 0, b);
    c.multiply(1, v.a, op::none, right, op::none, 0, a);
    auto whole = c.make(scalar_type::f64, rows, columns);
    c.multiply(v.scale, b, op::none, a, op::none, 0,
               c.slice(typename Context::view(whole), 0, q, 0, p));
    return whole;
  }
  matrix core(Context& c, const factored_view<Context>& v) const {
    return core(c, v, height(c), width(c));
  }

  matrix left;   ///< Q, d_out x q, f64
  matrix right;  ///< R, d_in x p, f64
};

/// Statistics of X_k R, for those of X_k.
template <class Context>
struct core_statistics {
  core_statistics(Context& c, const core_space<Context>& space,
                  const std::vector<statistics_view<typename Context::domain>>& given)
      : data(given.size()) {
    c.concurrently(std::ssize(given), [&](index_t k) {
      const auto& s = given[static_cast<std::size_t>(k)];
      auto& projected = data[static_cast<std::size_t>(k)];
      projected = c.make(scalar_type::f64, c.rows(s.data), space.width(c));
      c.multiply(1, s.data, op::none, space.right, op::none, 0, projected);
      if (s.form != statistics_form::gram) return;
      auto gram = c.make(scalar_type::f64, space.width(c), space.width(c));
      c.multiply(1, space.right, op::transpose, projected, op::none, 0, gram);
      projected = std::move(gram);
    });
    for (std::size_t k = 0; k < given.size(); ++k)
      views.push_back({given[k].form, data[k], given[k].rows});
  }
  core_statistics(const core_statistics&) = delete;
  core_statistics& operator=(const core_statistics&) = delete;

  std::vector<typename Context::matrix> data;
  std::vector<statistics_view<typename Context::domain>> views;
};

}  // namespace catmerge::detail
