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

/// An orthonormal basis Q of the columns of all blocks, and of `more` further directions as far as
/// there are any; at least one column. Lost is at most the rounding of the blocks: what joint_basis
/// takes for noise, directions of length below 1e-7, is looked at again. (A direction that is noise
/// does no harm in a basis.)
template <class Context>
struct block_span {
  using matrix = typename Context::matrix;
  using const_view = typename Context::const_view;

  /// blocks: each of `size` rows.
  block_span(Context& c, const std::vector<const_view>& blocks, index_t size, index_t more)
      : basis(joint_basis(c, blocks, size)) {
    const auto all = side_by_side(c, blocks, size);
    auto rest = c.make(scalar_type::f64, size, c.columns(all));
    c.assign(all, rest);
    coordinates = remove_directions<Context>(c, basis, basis, rest);
    std::vector<const_view> parts{basis};
    index_t first = 0;
    for (const auto& block : blocks) {
      const const_view part = c.slice(const_view(rest), 0, size, first, c.columns(block));
      first += c.columns(block);
      // The rounding of a residual: the sums in its products are of some 64 terms in a row.
      constexpr double rounding = 64 * std::numeric_limits<double>::epsilon();
      if (c.squared_norm(part) > rounding * rounding * c.squared_norm(block)) parts.push_back(part);
    }
    more = (std::min)((std::max<index_t>)(more, c.columns(basis) == 0 ? 1 : 0),
                      size - c.columns(basis));
    auto others = c.make(scalar_type::f64, size, more);
    if (more > 0) {
      c.from_host(seeded_block(size, more, 1), others);
      parts.push_back(others);
    }
    if (parts.size() == 1) return;
    basis = joint_basis(c, parts, size);
    coordinates = c.make(scalar_type::f64, c.columns(basis), c.columns(all));
    c.multiply(1, basis, op::transpose, all, op::none, 0, coordinates);
  }

  matrix basis;        ///< Q, size x q, f64
  matrix coordinates;  ///< Q^T [block_1 ... block_K], f64
};

/// The rows of all A_i, as columns.
template <class Context>
block_span<Context> span_of_rows(Context& c, const std::vector<factored_view<Context>>& vectors) {
  std::vector<typename Context::matrix> turned;
  for (const auto& v : vectors)
    c.transpose(v.a, turned.emplace_back(c.make(scalar_type::f64, c.columns(v.a), c.rows(v.a))));
  return {c, {turned.begin(), turned.end()}, c.columns(vectors[0].a), 0};
}

/// The columns of all B_i, of one of `parts` blocks of rows.
template <class Context>
block_span<Context> span_of_columns(Context& c, const std::vector<factored_view<Context>>& vectors,
                                    index_t part, index_t parts, index_t more) {
  std::vector<typename Context::const_view> blocks;
  const index_t size = c.rows(vectors[0].b) / parts;
  for (const auto& v : vectors)
    blocks.push_back(c.slice(v.b, part * size, size, 0, c.columns(v.b)));
  return {c, blocks, size, more};
}

/// T_i = Q C_i R^T for all T_i = s_i B_i A_i, Q and R orthonormal bases of all columns of the B_i
/// and of all rows of the A_i, C_i = s_i (Q^T B_i)(A_i R) of some (sum r_i) x (sum r_i). Products
/// with T_i, norms and eigenvectors of T_i M T_i^T are those of C_i, turned by Q and R. A fused
/// weight has a Q for each part, all of one width, and C_i has the parts' cores one below the
/// other.
template <class Context>
class core_space {
  using matrix = typename Context::matrix;
  using view = typename Context::view;
  using const_view = typename Context::const_view;

 public:
  /// more: the number of columns that each Q has beside the span of the B_i.
  core_space(Context& c, const std::vector<factored_view<Context>>& vectors, index_t parts = 1,
             index_t more = 0)
      : right_(span_of_rows(c, vectors)) {
    for (index_t part = 0; part < parts; ++part) {
      left_.push_back(span_of_columns(c, vectors, part, parts, more));
      height_ = (std::max)(height_, c.columns(left_.back().basis));
    }
    for (index_t part = 0; part < parts; ++part)
      if (const index_t q = c.columns(left(part)); q < height_)
        left_[static_cast<std::size_t>(part)] =
            span_of_columns(c, vectors, part, parts, more + height_ - q);
    for (const auto& v : vectors) {
      scales_.push_back(v.scale);
      starts_.push_back(starts_.back() + c.columns(v.b));
    }
  }

  /// Q of a part, (d_out / parts) x q, f64.
  const matrix& left(index_t part = 0) const { return left_[static_cast<std::size_t>(part)].basis; }
  const matrix& right() const { return right_.basis; }            ///< R, d_in x p, f64
  index_t parts() const { return std::ssize(left_); }             ///< the parts of a fused weight
  index_t height() const { return height_; }                      ///< q, of one part
  index_t width(Context& c) const { return c.columns(right()); }  ///< p

  /// Q^T B_i of a part, q x r_i.
  const_view left_of(Context& c, index_t part, index_t i) const {
    return columns_of(c, left_[static_cast<std::size_t>(part)], i);
  }

  /// The core of one part, in the upper left corner of y, for b in place of Q^T B_i.
  void write_core(Context& c, index_t i, const const_view& b, const view& y) const {
    c.multiply(scales_[static_cast<std::size_t>(i)], b, op::none, columns_of(c, right_, i),
               op::transpose, 0, c.slice(y, 0, height(), 0, width(c)));
  }
  /// C_i, in the upper left corner of y, the rest of which is left alone.
  void write_core(Context& c, index_t i, const view& y) const {
    for (index_t part = 0; part < parts(); ++part)
      write_core(c, i, left_of(c, part, i), c.slice(y, part * height(), height(), 0, width(c)));
  }
  /// C_i, f64.
  matrix core(Context& c, index_t i) const {
    auto y = c.make(scalar_type::f64, parts() * height(), width(c));
    write_core(c, i, y);
    return y;
  }

 private:
  const_view columns_of(Context& c, const block_span<Context>& side, index_t i) const {
    const index_t first = starts_[static_cast<std::size_t>(i)];
    return c.slice(const_view(side.coordinates), 0, c.rows(side.coordinates), first,
                   starts_[static_cast<std::size_t>(i) + 1] - first);
  }

  std::vector<block_span<Context>> left_;
  block_span<Context> right_;
  index_t height_ = 0;
  std::vector<double> scales_;
  std::vector<index_t> starts_{0};  // of the columns of each B_i among all, and their number
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
      c.multiply(1, s.data, op::none, space.right(), op::none, 0, projected);
      if (s.form != statistics_form::gram) return;
      auto gram = c.make(scalar_type::f64, space.width(c), space.width(c));
      c.multiply(1, space.right(), op::transpose, projected, op::none, 0, gram);
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
