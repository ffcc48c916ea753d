// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/statistics_view.hpp>
#include <limits>

/// Squared norms of feature shifts, from statistics of the features.
namespace catmerge::detail {

/// E[x_j^2] (d x 1, f64) from statistics of any form; zero if there were no rows.
template <class Context, class Statistics>
typename Context::matrix second_moment(Context& c, const Statistics& s) {
  if (s.form == statistics_form::second_moment) {
    auto moment = c.make(scalar_type::f64, c.rows(s.data), 1);
    c.assign(s.data, moment);
    return moment;
  }
  const index_t d = c.columns(s.data);
  auto moment = c.make(scalar_type::f64, d, 1);
  if (s.rows == 0) return moment;
  if (s.form == statistics_form::gram)
    c.add_diagonal(1 / s.rows, s.data, moment);
  else
    c.column_energies(1 / s.rows, s.data, moment);
  return moment;
}

/// True if float can hold a matrix of sums of `depth` products each, of this energy (its squared
/// Frobenius norm, in double). Products above 2^128 are infinite, and so is the energy. Products
/// below 2^-126 are rounded to multiples of 2^-149: an entry is off by at most depth 2^-150, which
/// is float's own rounding, 2^-24, of depth 2^-126.
inline bool float_holds(double energy, index_t entries, index_t depth) {
  const double least = static_cast<double>(depth) * 0x1p-126;
  return energy >= static_cast<double>(entries) * least * least &&
         energy < std::numeric_limits<double>::infinity();
}

/// X T^T, n x m, for T (m x d_in), in the compute type of T, or in double if float does not hold
/// it. The product of any two floats is within the range of double.
template <class Context>
struct feature_shifts {
  using const_view = typename Context::const_view;

  feature_shifts(Context& c, const const_view& x, const const_view& t) {
    form(c, x, t, compute_type(c.type(t)));
    const auto zero = [&](const const_view& v) { return c.squared_norm(v) == 0; };
    if (c.type(values) == scalar_type::f32 &&
        !float_holds(energy, c.rows(x) * c.rows(t), c.columns(t)) && !zero(x) && !zero(t))
      form(c, x, t, scalar_type::f64);
  }

  typename Context::matrix values;
  double energy = 0;  ///< ||X T^T||_F^2

 private:
  void form(Context& c, const const_view& x, const const_view& t, scalar_type type) {
    values = c.make(type, c.rows(x), c.rows(t));
    c.multiply(1, x, op::none, t, op::transpose, 0, values);
    energy = c.squared_norm(values);
  }
};

/// ||X T^T||_F^2 for stored weights T (d_out x d_in) and statistics of X in any form but moments.
template <class Context, class Statistics>
double linear_energy(Context& c, const Statistics& s, typename Context::const_view t) {
  if (s.form == statistics_form::gram) {  // tr(T S T^T)
    auto product = c.make(scalar_type::f64, c.rows(t), c.columns(t));
    c.multiply(1, t, op::none, s.data, op::none, 0, product);
    const double energy = c.dot(product, t);
    return energy < 0 ? 0.0 : energy;  // rounding; a NaN stays a NaN
  }
  if (s.form == statistics_form::second_moment)
    throw error(
        "a linear layer needs rows, a factor or a Gram matrix of its inputs, not second moments");
  return feature_shifts<Context>(c, s.data, t).energy;
}

/// tr(P S Q^T) = <X P^T, X Q^T> for P and Q (m x d_in) and statistics of X, S = X^T X, in any form
/// but moments.
template <class Context, class Statistics>
double linear_product(Context& c, const Statistics& s, typename Context::const_view p,
                      typename Context::const_view q) {
  if (s.form == statistics_form::gram) {
    auto product = c.make(scalar_type::f64, c.rows(p), c.columns(p));
    c.multiply(1, p, op::none, s.data, op::none, 0, product);
    return c.dot(product, q);
  }
  const feature_shifts<Context> left(c, s.data, p), right(c, s.data, q);
  return c.dot(left.values, right.values);
}

/// n sum_j E[x_j^2] t_j^2 for a scale; `moment` is E[x^2], d x 1.
template <class Context>
double scale_energy(Context& c, typename Context::const_view moment, double rows,
                    typename Context::const_view t) {
  auto energies = c.make(scalar_type::f64, c.rows(t), 1);
  c.weighted_square(rows, moment, t, energies);
  return c.to_host(energies).sum();
}

}  // namespace catmerge::detail
