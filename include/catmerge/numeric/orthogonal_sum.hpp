// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/numeric/thin_svd.hpp>
#include <vector>

namespace catmerge::detail {

/// The sum of matrices of one shape, the singular vectors of different matrices made orthogonal to
/// each other. Of their singular triplets side by side, U = [U_1 U_2 ...], s and V, it is
///
///     polar(U) diag(s) polar(V)^T
template <class Context>
class orthogonal_sum {
  using view = typename Context::view;
  using const_view = typename Context::const_view;
  using matrix = typename Context::matrix;

 public:
  /// For matrices of rows x columns, with at most `capacity` triplets in all.
  orthogonal_sum(Context& c, index_t rows, index_t columns, index_t capacity)
      : c_(c),
        left_(c.make(scalar_type::f64, rows, capacity)),
        right_(c.make(scalar_type::f64, columns, capacity)) {}

  /// Appends all triplets of a decomposition.
  void append(const thin_svd<Context>& svd) {
    const index_t used = std::ssize(values_), n = std::ssize(svd.values);
    c_.assign(svd.left, c_.slice(view(left_), 0, c_.rows(left_), used, n));
    c_.assign(svd.right, c_.slice(view(right_), 0, c_.rows(right_), used, n));
    values_.insert(values_.end(), svd.values.begin(), svd.values.end());
  }

  /// s, in the order of the calls of append.
  const std::vector<double>& values() const { return values_; }

  /// y = the sum, with these values for s. Can be called once.
  void write(const std::vector<double>& values, const view& y) {
    // With polar factors L_u R_u^T and L_v R_v^T: L_u ((R_u^T diag(s) R_v) L_v^T).
    polar_factors<Context> u, v;
    c_.concurrently(2, [&](index_t i) {
      matrix& whole = i == 0 ? left_ : right_;
      auto used = c_.make(scalar_type::f64, c_.rows(whole), std::ssize(values_));
      c_.assign(c_.slice(const_view(whole), 0, c_.rows(whole), 0, std::ssize(values_)), used);
      whole = {};
      (i == 0 ? u : v) = polar_factors<Context>(c_, std::move(used), c_.type(y));
    });
    auto rotated = c_.make(scalar_type::f64, c_.columns(u.right), std::ssize(values));
    c_.transpose(u.right, rotated);
    c_.scale_columns(values, rotated);
    auto middle = c_.make(scalar_type::f64, c_.columns(u.right), c_.columns(v.right));
    c_.multiply(1, rotated, op::none, v.right, op::none, 0, middle);
    auto rows = c_.make(scalar_type::f64, c_.columns(u.right), c_.rows(v.left));
    c_.multiply(1, middle, op::none, v.left, op::transpose, 0, rows);
    c_.multiply(1, u.left, op::none, rows, op::none, 0, y);
  }

 private:
  Context& c_;
  matrix left_, right_;
  std::vector<double> values_;
};

}  // namespace catmerge::detail
