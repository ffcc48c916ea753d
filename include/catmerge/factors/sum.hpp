// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/factors/detail/core_space.hpp>
#include <catmerge/numeric/thin_svd.hpp>
#include <cmath>
#include <limits>
#include <vector>

/// @file
/// Sums of factored task vectors, and their best approximation of a lower rank.
namespace catmerge {

/// A factored vector of a lower rank, and how far it is from the given one.
template <class Vector>
struct compressed_vector {
  Vector vector;     ///< orthonormal columns in B, scale 1
  double error = 0;  ///< ||T - T'||_F / ||T||_F before T' is rounded to its type; 0 for T = 0
};

namespace detail {

/// sum_k w_k T_k. weights: K, or none for ones.
template <class Context>
factored_matrix<Context> concatenated(Context& c, const factored_problem<Context>& p,
                                      const std::vector<double>& weights) {
  if (!weights.empty() && weights.size() != p.vectors.size())
    throw error(p.names.who() + ": " + std::to_string(weights.size()) + " weights for " +
                std::to_string(p.vectors.size()) + " task vectors");
  std::vector<double> scales;
  index_t rank = 0;
  auto b_type = scalar_type::f32, a_type = scalar_type::f32;
  for (std::size_t k = 0; k < p.vectors.size(); ++k) {
    const auto& v = p.vectors[k];
    scales.push_back((weights.empty() ? 1 : weights[k]) * v.scale);
    if (!std::isfinite(scales.back()))
      throw error(p.names.who() + ": the weight of '" + p.names.task(static_cast<index_t>(k)) +
                  "' must be a finite number");
    rank += c.columns(v.b);
    if (c.type(v.b) == scalar_type::f64) b_type = scalar_type::f64;
    if (c.type(v.a) == scalar_type::f64) a_type = scalar_type::f64;
  }
  const index_t d_out = c.rows(p.vectors[0].b), d_in = c.columns(p.vectors[0].a);
  // A scale that all share stays outside, so that no factor is rounded.
  const bool shared =
      std::all_of(scales.begin(), scales.end(), [&](double s) { return s == scales.front(); });
  factored_matrix<Context> sum{c.make(b_type, d_out, rank), c.make(a_type, rank, d_in),
                               shared ? scales.front() : 1.0};
  index_t first = 0;
  for (std::size_t k = 0; k < p.vectors.size(); ++k) {
    const auto& v = p.vectors[k];
    const index_t r = c.columns(v.b);
    const auto b = c.slice(typename Context::view(sum.b), 0, d_out, first, r);
    c.assign(v.b, b);
    if (!shared) c.scale(scales[k], b);
    c.assign(v.a, c.slice(typename Context::view(sum.a), first, r, 0, d_in));
    first += r;
  }
  return sum;
}

/// An orthonormal basis U, m x (at most count), of the leading left singular directions of C: U U^T
/// C is the best approximation of C of that rank.
///
/// Eigenvectors of C C^T resolve only singular values above some 1e-8 of the largest
/// (leading_singular). So directions are taken in rounds: those of singular values above 1e-3 of
/// the rest's norm, then those of what is left of C. A round's directions are off by eps (s_1 /
/// s)^2, s >= 1e-3 s_1, so what they leave in the rest by mistake is below eps 1e3 s_1, some 2e-13
/// of C, and so is the error of ||C - U U^T C|| / ||C||.
template <class Context>
typename Context::matrix leading_directions(Context& c, typename Context::const_view core,
                                            index_t count) {
  const index_t rows = c.rows(core), columns = c.columns(core);
  auto rest = c.make(scalar_type::f64, rows, columns);
  c.assign(core, rest);
  const double rounding =
      static_cast<double>((std::max)(rows, columns)) * std::numeric_limits<double>::epsilon();
  const double noise = rounding * std::sqrt(c.squared_norm(core));
  std::vector<typename Context::matrix> found;
  for (index_t n = 0; n < count;) {
    const double left = std::sqrt(c.squared_norm(rest));
    if (!(left > noise)) break;
    auto leading = leading_singular<Context>(c, rest, count - n, 1e-3 * left);
    if (leading.values.empty()) break;
    n += std::ssize(leading.values);
    remove_directions<Context>(c, leading.left, leading.left, rest);
    found.push_back(std::move(leading.left));
  }
  return joint_basis(c, {found.begin(), found.end()}, rows);
}

/// The best approximation of T = s B A of this rank.
template <class Context>
compressed_vector<factored_matrix<Context>> compressed(Context& c, const factored_view<Context>& v,
                                                       index_t rank) {
  if (rank < 1) throw error("compress: the rank must be at least 1, found " + std::to_string(rank));
  const core_space<Context> space(c, std::vector{v});
  const auto core = space.core(c, 0);
  const auto directions = leading_directions<Context>(c, core, rank);
  const index_t n = c.columns(directions), kept = (std::max<index_t>)(n, 1);
  compressed_vector<factored_matrix<Context>> result{
      {c.make(compute_type(c.type(v.b)), c.rows(v.b), kept),
       c.make(compute_type(c.type(v.a)), kept, c.columns(v.a)), 1},
      0};
  if (n == 0) return result;
  auto rest = c.make(scalar_type::f64, space.height(), space.width(c));
  c.assign(core, rest);
  const auto along = remove_directions<Context>(c, directions, directions, rest);
  result.error = std::sqrt(c.squared_norm(rest) / c.squared_norm(core));
  c.multiply(1, space.left(), op::none, directions, op::none, 0, result.vector.b);
  c.multiply(1, along, op::none, space.right(), op::transpose, 0, result.vector.a);
  return result;
}

struct concatenate_fn {
  template <class Context>
  factored_matrix<Context> operator()(const factored_problem<Context>& p,
                                      const std::vector<double>& weights, Context& c) const {
    check_factors(c, p);
    return concatenated(c, p, weights);
  }

  template <class Vectors, class Context>
  auto operator()(const Vectors& vectors, const std::vector<double>& weights, Context& c) const {
    const auto p = problem_of<Context>(vectors);
    auto sum = (*this)(p, weights, c);
    return write_factors(c, unwrap(*std::begin(vectors)), std::move(sum));
  }

  template <class Vectors>
  auto operator()(const Vectors& vectors, const std::vector<double>& weights = {}) const {
    static_assert(require_factors_with_domain<Vectors>());
    auto c = context_of_factors(vectors);
    return (*this)(vectors, weights, c);
  }
};

struct compress_fn {
  template <class Vector, class Context>
  auto operator()(const Vector& vector, index_t rank, Context& c) const {
    static_assert(require_factored<Context, Vector>());
    const factored_problem<Context> p{{read_factors<Context>(vector)}};
    check_factors(c, p);
    auto found = compressed(c, p.vectors.front(), rank);
    return compressed_vector<owned_vector<Vector, Context>>{
        write_factors(c, vector, std::move(found.vector)), found.error};
  }

  template <class Vector>
  auto operator()(const Vector& vector, index_t rank) const {
    static_assert(is_factored<Vector>, "catmerge: compress takes a catmerge::factored_vector");
    auto c = context_of(unwrap(vector.b));
    return (*this)(vector, rank, c);
  }
};

}  // namespace detail

/// sum_k w_k T_k, of rank sum_k r_k, exactly: B = [w_1 s_1 B_1, ..., w_K s_K B_K], the A_k one
/// below the other, scale 1. If all w_k s_k are equal, they are the scale and the B_k stay as they
/// are, bit for bit. Task Arithmetic (Ilharco et al., ICLR 2023) is w_k = alpha.
/// @code
/// auto sum = concatenate(vectors);  // and (vectors, weights[, context])
/// auto sum = concatenate(problem, weights, context);
/// @endcode
/// vectors: a range of K factored vectors; weights: K numbers, or none for ones. Returns a factored
/// vector of the family and compute type of the first one. Throws catmerge::error if there are no
/// vectors, shapes do not fit, or a value is not finite.
inline constexpr detail::concatenate_fn concatenate{};

/// The factored vector of at most this rank that is nearest to T = s B A in the Frobenius norm
/// (Eckart & Young, Psychometrika 1936), and the relative error, right to about 1e-12: the
/// truncated singular value decomposition, found in the coordinates of B and A, without a d_out x
/// d_in matrix.
/// @code
/// auto [vector, error] = compress(concatenate(vectors), 16);  // and (vector, rank, context)
/// @endcode
/// The result has as many directions as T has above rounding, if these are fewer (and one, of
/// zeros, for T = 0). Throws catmerge::error if the rank is less than 1, ranks of B and A differ,
/// or a value is not finite.
inline constexpr detail::compress_fn compress{};

}  // namespace catmerge
