// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/cat/projection.hpp>
#include <cmath>
#include <cstdint>
#include <optional>
#include <random>
#include <utility>
#include <vector>

namespace catmerge {

namespace detail {

/// The mean of the principal angles between the spans of two bases with orthonormal columns, as
/// many as the narrower one has, in degrees. None if one has no columns.
template <class Context>
std::optional<double> mean_angle(Context& c, typename Context::const_view a,
                                 typename Context::const_view b) {
  if (c.columns(a) > c.columns(b)) std::swap(a, b);
  const index_t n = c.columns(a);
  if (n == 0) return std::nullopt;
  auto cosines = c.make(scalar_type::f64, n, c.columns(b)),
       squares = c.make(scalar_type::f64, n, n);
  c.multiply(1, a, op::transpose, b, op::none, 0, cosines);
  c.multiply(1, cosines, op::none, cosines, op::transpose, 0, squares);
  double sum = 0;
  for (const double square : c.symmetric_eigen(squares, 0))
    sum += std::acos(std::sqrt((std::clamp)(square, 0.0, 1.0)));
  constexpr double degrees = 57.29577951308232;
  return degrees * sum / static_cast<double>(n);
}

}  // namespace detail

/// A rule for removal bases (trim.hpp) that also measures how far they depend on the samples: the
/// bases are another rule's, and removal_basis_result::angle is the mean principal angle to those
/// that it finds from other draws of the rows, with replacement (bootstrap). Each draw costs as
/// much as the bases. 0 degrees: the rows determine B_k. 90: they say nothing. Two spans of c
/// directions at random in d_out dimensions have some 90 - 50 sqrt(c / d_out).
/// @code
/// catmerge::cat_with<catmerge::resampled_bases<>> method{options, {.resamples = 8}};
/// @endcode
/// The rows of every task are drawn by one std::mt19937_64 of seed 1: `random() % n_k` for each of
/// the n_k rows, task after task, draw after draw. Only rows can be drawn: for statistics of
/// another form there is no angle.
template <class Rule = conflict_bases>
struct resampled_bases {
  index_t resamples = 8;  ///< the number of draws; 0: no angle
  Rule rule{};            ///< the rule that finds the bases

  /// As the rule's own, which it calls resamples + 1 times.
  template <class Context>
  removal_bases<Context> operator()(Context& c, const removal_problem<Context>& p) const {
    auto found = rule(c, p);
    for (const auto& s : p.statistics)
      if (s.form != statistics_form::rows) return found;
    std::mt19937_64 random(1);
    for (index_t draw = 0; draw < resamples; ++draw) {
      std::vector<typename Context::matrix> drawn;  // owns the rows
      removal_problem<Context> again{p.vectors, {}, p.energies, p.options, false, p.who};
      for (const auto& s : p.statistics) {
        drawn.push_back(rows_drawn(c, s.data, random));
        again.statistics.push_back({s.form, drawn.back(), s.rows});
      }
      const auto other = rule(c, again);
      for (std::size_t k = 0; k < found.of_task.size(); ++k) {
        const auto angle =
            detail::mean_angle<Context>(c, found.of_task[k].basis, other.of_task[k].basis);
        auto& sum = found.of_task[k].angle;
        if (angle) sum = sum.value_or(0) + *angle / static_cast<double>(resamples);
      }
    }
    return found;
  }

 private:
  template <class Context>
  static typename Context::matrix rows_drawn(Context& c, typename Context::const_view x,
                                             std::mt19937_64& random) {
    const index_t n = c.rows(x), width = c.columns(x);
    auto rows = c.make(c.type(x), n, width);
    for (index_t i = 0; i < n; ++i) {
      const auto from = static_cast<index_t>(random() % static_cast<std::uint64_t>(n));
      c.assign(c.slice(x, from, 1, 0, width),
               c.slice(typename Context::view(rows), i, 1, 0, width));
    }
    return rows;
  }
};

}  // namespace catmerge
