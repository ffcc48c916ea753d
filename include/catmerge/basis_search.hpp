// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/projection_options.hpp>
#include <limits>

/// From G_k to the removal basis: which eigenvalues are taken, by which solver.
namespace catmerge::detail {

/// An eigenvalue counts as positive above this: d_out times the rounding of G_k times max|lambda|.
/// Without it the zeros of a low-rank G_k come out "positive" by rounding.
inline double positive_above(index_t size, double rounding, double magnitude) {
  return static_cast<double>(size) * rounding * magnitude;
}

/// How many of the eigenvalues (descending) the rule takes.
inline index_t directions_taken(const direction_rule& rule, const std::vector<double>& values,
                                double threshold) {
  index_t positive = 0;
  while (positive < std::ssize(values) && values[static_cast<std::size_t>(positive)] > threshold)
    ++positive;
  if (const auto* t = std::get_if<top>(&rule))
    return std::min<index_t>(t->count, t->positive_only ? positive : std::ssize(values));
  if (std::holds_alternative<all_positive>(rule)) return positive;
  const auto& e = std::get<energy>(rule);
  double total = 0;
  for (index_t j = 0; j < positive; ++j)
    total += values[static_cast<std::size_t>(j)] * values[static_cast<std::size_t>(j)];
  double sum = 0;
  index_t count = 0;
  for (; count < positive; ++count) {
    const double next =
        sum + values[static_cast<std::size_t>(count)] * values[static_cast<std::size_t>(count)];
    if (e.stop == energy::bound::reach ? sum >= e.share * total : next >= e.share * total) break;
    sum = next;
  }
  return count;
}

/// The removal basis of the task that g protects.
template <class Context>
removal_basis_result<typename Context::matrix> find_basis(Context& c, conflict_gram<Context>& g,
                                                          const projection_options& options,
                                                          basis_way way) {
  using const_view = typename Context::const_view;
  removal_basis_result<typename Context::matrix> result;
  const index_t size = g.size();
  const auto* few = std::get_if<top>(&options.directions);
  if (way != basis_way::dense && few != nullptr) {
    eigen_options eigen = options.eigen;
    eigen.count = few->count;
    auto pairs = largest_eigenpairs(
        c, size, [&](const_view x, typename Context::view y) { g.apply(x, y); }, eigen);
    if (pairs.converged) {
      const double threshold =
          positive_above(size, g.rounding(), std::max(pairs.magnitude, g.terms()));
      const index_t count = directions_taken(options.directions, pairs.values, threshold);
      result.basis = c.make(scalar_type::f64, size, count);
      c.assign(c.slice(const_view(pairs.vectors), 0, size, 0, count), result.basis);
      result.positive = std::count_if(pairs.values.begin(), pairs.values.end(),
                                      [&](double v) { return v > threshold; });
      result.eigenvalues.assign(pairs.values.begin(), pairs.values.begin() + count);
      result.spectrum = std::move(pairs.values);
      result.spectrum.insert(result.spectrum.end(), pairs.after.begin(), pairs.after.end());
      result.magnitude = pairs.magnitude;
      result.residual = pairs.residual;
      result.way = way;
      return result;
    }
    // The products are spent without the residual asked for: the dense solver always gets there,
    // and result.way says that it was used.
  }
  auto vectors = g.dense();
  auto values = c.symmetric_eigen(vectors);
  std::reverse(values.begin(), values.end());
  if (!values.empty())
    result.magnitude = std::max(std::abs(values.front()), std::abs(values.back()));
  const double threshold =
      positive_above(size, g.rounding(), std::max(result.magnitude, g.terms()));
  const index_t count = directions_taken(options.directions, values, threshold);
  result.positive =
      std::count_if(values.begin(), values.end(), [&](double v) { return v > threshold; });
  result.basis = c.make(scalar_type::f64, size, count);
  for (index_t j = 0; j < count; ++j)
    c.assign(c.slice(const_view(vectors), 0, size, size - 1 - j, 1),
             c.slice(typename Context::view(result.basis), 0, size, j, 1));
  result.eigenvalues.assign(values.begin(), values.begin() + count);
  result.spectrum.assign(values.begin(), values.begin() + std::min<index_t>(count + 8, size));
  return result;
}

/// G_k of the options, by the way that they ask for or the cheapest one.
template <class Context>
std::pair<conflict_gram<Context>, basis_way> make_gram(
    Context& c, std::vector<typename Context::const_view> vectors,
    std::vector<statistics_view<typename Context::domain>> statistics,
    const projection_options& options) {
  using gram = conflict_gram<Context>;
  basis_way way = options.way;
  if (way == basis_way::automatic) way = cheapest_way(c, vectors, statistics, options.directions);
  const bool stack =
      way == basis_way::shifts || (way == basis_way::dense && gram::has_rows(statistics));
  return {gram(c, std::move(vectors), std::move(statistics), options.lambda, options.rows,
               stack ? gram::way::shifts : gram::way::weights),
          way};
}

}  // namespace catmerge::detail
