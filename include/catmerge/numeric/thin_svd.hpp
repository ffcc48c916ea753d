// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/numeric/gram_eigen.hpp>
#include <catmerge/numeric/strips.hpp>
#include <vector>

/// Singular value decompositions by coarse operations.
namespace catmerge::detail {

/// A = left diag(values) right^T, or the largest terms of that sum. Both factors are f64 with
/// orthonormal columns.
template <class Context>
struct thin_svd {
  typename Context::matrix left, right;  ///< rows x n and columns x n
  std::vector<double> values;            ///< n, ascending, all above zero
};

/// Makes the columns of x (f64) orthonormal up to rounding. Precondition: they are so up to
/// `error`, the 2-norm of x^T x - I, below 1/2. Newton and Schulz's iteration for the orthogonal
/// polar factor moves them least and squares the error in each step (Higham, Functions of Matrices,
/// 2008, chapter 8).
template <class Context>
void orthonormalise_nearly(Context& c, const typename Context::view& x, double error) {
  const index_t n = c.columns(x);
  auto gram = c.make(scalar_type::f64, n, n);
  while (error > std::numeric_limits<double>::epsilon()) {
    c.multiply(-0.5, x, op::transpose, x, op::none, 0, gram);
    for_strips(c, x, [&](const auto& strip) {  // x (3 I - x^T x) / 2
      auto step = c.make(scalar_type::f64, strip.rows, n);
      c.multiply(1, strip(x), op::none, gram, op::none, 0, step);
      c.scale(1.5, strip(x));
      c.axpy(1, step, strip(x));
    });
    error *= error;
  }
}

/// The `count` largest singular values of a, of any type, and their vectors; fewer if fewer are
/// above rounding noise.
///
/// A context decomposes symmetric matrices only. So the vectors of the smaller side are the
/// eigenvectors Q of its Gram matrix, the other's are A Q / sigma or A^T Q / sigma. The Gram
/// matrix squares the condition. An eigenvalue sigma^2 is off by some eps sigma_1^2, so singular
/// values below the root of gram_cut (8e-7 sigma_1 for 768 rows or columns) count as zero and are
/// left out with their vectors. The vectors kept are off by some eps (sigma_1 / sigma)^2. In
/// PyTorch's decomposition of float weights, in float, they are off by some eps_float sigma_1 /
/// sigma, which is more if sigma > 2e-9 sigma_1, so for all vectors kept. A Q / sigma is off as
/// much from orthonormal; orthonormalise_nearly corrects that.
///
/// Values not above `floor` are left out, too. Pass it the rounding error of an `a` that is a
/// remainder of larger numbers.
template <class Context>
thin_svd<Context> leading_singular(Context& c, typename Context::const_view a, index_t count,
                                   double floor = 0) {
  const bool wide = c.rows(a) < c.columns(a);
  const index_t size = (std::min)(c.rows(a), c.columns(a)),
                other = (std::max)(c.rows(a), c.columns(a));
  auto gram = c.make(scalar_type::f64, size, size);
  c.multiply(1, a, wide ? op::none : op::transpose, a, wide ? op::transpose : op::none, 0, gram);
  auto pairs = eigen_of_gram(c, gram, other, (std::min)(count, size), floor * floor);
  const index_t n = (std::min)(count, std::ssize(pairs.values));
  pairs.values.erase(pairs.values.begin(), pairs.values.end() - n);

  const auto last_columns = [&] {
    auto part = c.make(scalar_type::f64, size, n);
    c.assign(c.slice(typename Context::const_view(gram), 0, size, size - n, n), part);
    return part;
  };
  auto shorter = n == size ? std::move(gram) : last_columns();
  auto longer = c.make(scalar_type::f64, other, n);
  c.multiply(1, a, wide ? op::transpose : op::none, shorter, op::none, 0, longer);
  if (n > 0) {
    c.scale_columns(inverse_roots(pairs.values), longer);
    orthonormalise_nearly(c, longer,
                          gram_cut(other) * pairs.values.back() / pairs.values.front() / 4);
  }
  for (double& x : pairs.values) x = std::sqrt(x);
  if (wide) return {std::move(shorter), std::move(longer), std::move(pairs.values)};
  return {std::move(longer), std::move(shorter), std::move(pairs.values)};
}

/// The orthogonal polar factor of m, f64: U V^T of m = U S V^T, the nearest matrix with orthonormal
/// columns (for a wide m, rows). Singular values that count as zero are left out: the factor is
/// then m times the pseudo-inverse of the root of m^T m, a partial isometry.
template <class Context>
typename Context::matrix polar_factor(Context& c, typename Context::const_view m) {
  const auto svd = leading_singular(c, m, (std::min)(c.rows(m), c.columns(m)));
  auto factor = c.make(scalar_type::f64, c.rows(m), c.columns(m));
  c.multiply(1, svd.left, op::none, svd.right, op::transpose, 0, factor);
  return factor;
}

}  // namespace catmerge::detail
