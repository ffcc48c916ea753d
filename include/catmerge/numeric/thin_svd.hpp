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

/// The largest singular values of a matrix A and their vectors on its smaller side.
template <class Context>
struct half_svd {
  typename Context::matrix shorter;  ///< f64, orthonormal columns
  std::vector<double> squares;       ///< of the values, ascending, above rounding noise
  bool wide = false;                 ///< A has no more rows than columns: these are left vectors

  /// See leading_singular. rest, if given: becomes the vectors of that side that are left out.
  half_svd(Context& c, typename Context::const_view a, index_t count, double floor = 0,
           typename Context::matrix* rest = nullptr)
      : wide(c.rows(a) <= c.columns(a)) {
    const index_t size = (std::min)(c.rows(a), c.columns(a)),
                  other = (std::max)(c.rows(a), c.columns(a));
    auto gram = c.make(scalar_type::f64, size, size);
    c.multiply(1, a, wide ? op::none : op::transpose, a, wide ? op::transpose : op::none, 0, gram);
    const index_t wanted = rest == nullptr ? (std::min)(count, size) : size;
    squares = eigen_of_gram(c, gram, other, wanted, floor * floor).values;
    const index_t n = (std::min)(count, std::ssize(squares));
    squares.erase(squares.begin(), squares.end() - n);
    const auto columns = [&](index_t first, index_t how_many) {
      auto part = c.make(scalar_type::f64, size, how_many);
      c.assign(c.slice(typename Context::const_view(gram), 0, size, first, how_many), part);
      return part;
    };
    shorter = columns(size - n, n);
    if (rest != nullptr) *rest = columns(0, size - n);
  }

  /// The other side's vectors A V / sigma or A^T V / sigma, V = shorter; orthonormal up to an error
  /// of at most gram_cut sigma_1^2 / (4 sigma^2), for the smallest sigma, in the 2-norm.
  typename Context::matrix longer(Context& c, typename Context::const_view a) const {
    auto y = c.make(scalar_type::f64, (std::max)(c.rows(a), c.columns(a)), std::ssize(squares));
    c.multiply(1, a, wide ? op::transpose : op::none, shorter, op::none, 0, y);
    c.scale_columns(inverse_roots(squares), y);
    return y;
  }

  std::vector<double> values() const {
    std::vector<double> roots;
    for (const double x : squares) roots.push_back(std::sqrt(x));
    return roots;
  }
};

/// (x^T x)^(-1/2) for the columns of x, f64. Precondition: they are orthonormal up to an error E =
/// x^T x - I of at most 1/4 in the 2-norm. x times the result is the orthogonal polar factor of x.
/// By the binomial series I - E / 2 + 3 E^2 / 8 - ...: E is rounding, so few terms are needed.
template <class Context>
typename Context::matrix inverse_root_of_gram(Context& c, typename Context::const_view x) {
  const index_t n = c.columns(x);
  auto error = c.make(scalar_type::f64, n, n), root = c.make(scalar_type::f64, n, n);
  c.from_host(small_matrix::Identity(n, n), root);
  c.multiply(1, x, op::transpose, x, op::none, 0, error);
  c.axpy(-1, root, error);
  c.axpy(-0.5, error, root);
  // The terms that follow fall by `ratio`, or faster.
  const double ratio = (std::min)(0.25, std::sqrt(c.squared_norm(error)));
  if (ratio * ratio <= std::numeric_limits<double>::epsilon()) return root;
  auto term = c.make(scalar_type::f64, n, n), next = c.make(scalar_type::f64, n, n);
  c.axpy(-0.5, error, term);
  double size = ratio * ratio;
  for (double j = 2; size > std::numeric_limits<double>::epsilon(); ++j, size *= ratio) {
    c.multiply(-(2 * j - 1) / (2 * j), term, op::none, error, op::none, 0, next);
    c.axpy(1, next, root);
    std::swap(term, next);
  }
  return root;
}

/// The decomposition with both sides, from the smaller side's of the same a.
template <class Context>
thin_svd<Context> both_sides(Context& c, typename Context::const_view a, half_svd<Context> half) {
  auto longer = half.longer(c, a);
  const auto root = inverse_root_of_gram(c, longer);
  for_strips(c, longer, [&](const auto& strip) {
    auto turned = strip.make(scalar_type::f64);
    c.multiply(1, strip(typename Context::const_view(longer)), op::none, root, op::none, 0, turned);
    c.assign(turned, strip(typename Context::view(longer)));
  });
  if (half.wide) return {std::move(half.shorter), std::move(longer), half.values()};
  return {std::move(longer), std::move(half.shorter), half.values()};
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
/// much from orthonormal; inverse_root_of_gram corrects that and moves the vectors least (Higham,
/// Functions of Matrices, 2008, chapter 8).
///
/// Values not above `floor` are left out, too. Pass it the rounding error of an `a` that is a
/// remainder of larger numbers.
template <class Context>
thin_svd<Context> leading_singular(Context& c, typename Context::const_view a, index_t count,
                                   double floor = 0) {
  return both_sides(c, a, half_svd<Context>(c, a, count, floor));
}

/// The orthogonal polar factor of a matrix M as a product: left right^T, f64. It is U V^T of M =
/// U S V^T, the nearest matrix with orthonormal columns (for a wide M, rows). Singular values that
/// count as zero are left out, as by leading_singular: the factor is then M times the
/// pseudo-inverse of the root of M^T M, a partial isometry.
template <class Context>
struct polar_factors {
  typename Context::matrix left, right;
  std::vector<double> values;  ///< M's singular values, ascending, all above zero

  polar_factors() = default;

  /// From M, f64. `result`: the type that the factor is rounded to in the end. M V / sigma is off
  /// from orthonormal by at most e = gram_cut sigma_1^2 / (4 sigma^2), the factor by some e / 2. If
  /// that is an eighth of the type's rounding at most, the factor is M (V S^(-1) V^T) as it stands.
  /// Else inverse_root_of_gram corrects it, which takes two more products of M's size.
  polar_factors(Context& c, typename Context::matrix m, scalar_type result) {
    const half_svd<Context> half(c, m, (std::min)(c.rows(m), c.columns(m)));
    const auto& squares = half.squares;
    values = half.values();
    const index_t size = c.rows(half.shorter), n = std::ssize(squares);
    const double cut = gram_cut((std::max)(c.rows(m), c.columns(m)));
    const double rounding = result == scalar_type::f64
                                ? std::numeric_limits<double>::epsilon()
                                : double{std::numeric_limits<float>::epsilon()};
    typename Context::matrix longer, turned;
    if (n > 0 && cut * squares.back() / squares.front() <= rounding) {
      auto scaled = c.make(scalar_type::f64, size, n);
      c.assign(half.shorter, scaled);
      c.scale_columns(inverse_roots(squares), scaled);
      turned = c.make(scalar_type::f64, size, size);
      c.multiply(1, scaled, op::none, half.shorter, op::transpose, 0, turned);
      if (half.wide) {
        longer = c.make(scalar_type::f64, c.columns(m), c.rows(m));
        c.transpose(m, longer);
      } else {
        longer = std::move(m);
      }
    } else {
      longer = half.longer(c, m);
      const auto root = inverse_root_of_gram(c, longer);
      turned = c.make(scalar_type::f64, size, n);
      c.multiply(1, half.shorter, op::none, root, op::none, 0, turned);
    }
    left = std::move(half.wide ? turned : longer);
    right = std::move(half.wide ? longer : turned);
  }
};

/// The orthogonal polar factor of m, f64.
template <class Context>
typename Context::matrix polar_factor(Context& c, typename Context::const_view m) {
  auto product = c.make(scalar_type::f64, c.rows(m), c.columns(m));
  c.assign(m, product);
  const polar_factors<Context> factors(c, std::move(product), scalar_type::f64);
  product = c.make(scalar_type::f64, c.rows(m), c.columns(m));
  c.multiply(1, factors.left, op::none, factors.right, op::transpose, 0, product);
  return product;
}

}  // namespace catmerge::detail
