// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <catmerge/catmerge.hpp>
#include <catmerge/numeric/gram_eigen.hpp>
#include <cmath>
#include <vector>

/// The spectral methods by whole decompositions: every Gram matrix by Eigen's
/// SelfAdjointEigenSolver on one thread, products by the library. For comparison only.
namespace catmerge_benchmark::full {

using catmerge::index_t;
using catmerge::op;
using context = catmerge::context<catmerge::host>;
using tensor = context::matrix;
using tensors = std::vector<context::const_view>;

struct svd {
  tensor left, right;
  std::vector<double> values;  ///< ascending
};

inline tensor product(context& c, context::const_view a, op op_a, context::const_view b, op op_b) {
  auto y = c.make(catmerge::scalar_type::f64, op_a == op::none ? c.rows(a) : c.columns(a),
                  op_b == op::none ? c.columns(b) : c.rows(b));
  c.multiply(1, a, op_a, b, op_b, 0, y);
  return y;
}

/// The `count` largest singular triplets above rounding noise.
inline svd leading(context& c, context::const_view a, index_t count) {
  const bool wide = c.rows(a) < c.columns(a);
  const op same = wide ? op::none : op::transpose, other = wide ? op::transpose : op::none;
  const auto gram = product(c, a, same, a, other);
  const Eigen::SelfAdjointEigenSolver<catmerge::small_matrix> solver(c.to_host(gram));
  const auto& all = solver.eigenvalues();
  const double cut =
      all(all.size() - 1) * catmerge::detail::gram_cut((std::max)(c.rows(a), c.columns(a)));
  index_t n = 0;
  while (n < (std::min)(count, all.size()) && all(all.size() - 1 - n) > cut) ++n;
  svd result;
  auto shorter = c.make(catmerge::scalar_type::f64, all.size(), n);
  c.from_host(solver.eigenvectors().rightCols(n), shorter);
  auto longer = product(c, a, other, shorter, op::none);
  for (index_t j = all.size() - n; j < all.size(); ++j) result.values.push_back(std::sqrt(all(j)));
  std::vector<double> inverse;
  for (const double s : result.values) inverse.push_back(1 / s);
  c.scale_columns(inverse, longer);
  // One step of Newton and Schulz: longer (3 I - longer^T longer) / 2.
  const auto near_one = product(c, longer, op::transpose, longer, op::none);
  const auto step = product(c, longer, op::none, near_one, op::none);
  c.scale(1.5, longer);
  c.axpy(-0.5, step, longer);
  result.left = std::move(wide ? shorter : longer);
  result.right = std::move(wide ? longer : shorter);
  return result;
}

inline tensor polar(context& c, context::const_view a) {
  const auto all = leading(c, a, (std::min)(c.rows(a), c.columns(a)));
  return product(c, all.left, op::none, all.right, op::transpose);
}

/// polar(U) diag(s) polar(V)^T of triplets side by side.
inline tensor orthogonal_sum(context& c, const std::vector<svd>& parts,
                             const std::vector<double>& values) {
  const auto columns = std::ssize(values);
  const auto joined = [&](auto side) {
    auto all = c.make(catmerge::scalar_type::f64, c.rows(parts[0].*side), columns);
    index_t used = 0;
    for (const auto& p : parts) {
      const index_t n = c.columns(p.*side);
      c.assign(p.*side, c.slice(context::view(all), 0, c.rows(all), used, n));
      used += n;
    }
    return polar(c, all);
  };
  auto left = joined(&svd::left);
  c.scale_columns(values, left);
  return product(c, left, op::none, joined(&svd::right), op::transpose);
}

inline std::vector<double> values_of(const std::vector<svd>& parts) {
  std::vector<double> all;
  for (const auto& p : parts) all.insert(all.end(), p.values.begin(), p.values.end());
  return all;
}

/// As many times the mean over r of `values`.
inline std::vector<double> leveled(const std::vector<double>& values, index_t r) {
  double sum = 0;
  for (const double s : values) sum += s;
  return std::vector<double>(values.size(), sum / static_cast<double>(r));
}

inline tensor tsv_m(context& c, const tensors& t) {
  const index_t n = (std::min)(c.rows(t[0]), c.columns(t[0])) / std::ssize(t);
  std::vector<svd> parts;
  for (const auto& x : t) parts.push_back(leading(c, x, n));
  return orthogonal_sum(c, parts, values_of(parts));
}

/// Iso-CTS with `own` directions for each task; with none Iso-C.
inline tensor iso(context& c, const tensors& t, index_t own) {
  const index_t r = (std::min)(c.rows(t[0]), c.columns(t[0]));
  auto sum = c.make(catmerge::scalar_type::f64, c.rows(t[0]), c.columns(t[0]));
  c.accumulate(1, t, sum);
  auto common = leading(c, sum, r - own * std::ssize(t));
  if (own == 0) {
    c.scale_columns(leveled(common.values, r), common.left);
    return product(c, common.left, op::none, common.right, op::transpose);
  }
  std::vector<svd> parts;
  for (const auto& x : t) {
    const auto along = product(c, common.left, op::transpose, x, op::none);
    c.assign(x, sum);
    c.multiply(-1, common.left, op::none, along, op::none, 1, sum);
    parts.push_back(leading(c, sum, own));
  }
  parts.push_back(std::move(common));
  return orthogonal_sum(c, parts, leveled(values_of(parts), r));
}

}  // namespace catmerge_benchmark::full
