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
    orthogonalise(left_);
    c_.scale_columns(values, left_);
    orthogonalise(right_);
    c_.multiply(1, left_, op::none, right_, op::transpose, 0, y);
  }

 private:
  void orthogonalise(typename Context::matrix& factor) {
    factor =
        polar_factor(c_, c_.slice(const_view(factor), 0, c_.rows(factor), 0, std::ssize(values_)));
  }

  Context& c_;
  typename Context::matrix left_, right_;
  std::vector<double> values_;
};

}  // namespace catmerge::detail
