// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/detail/basis_plan.hpp>
#include <catmerge/cat/detail/gram_by_shifts.hpp>
#include <catmerge/cat/detail/gram_by_weights.hpp>
#include <catmerge/cat/removal_bases.hpp>
#include <catmerge/numeric/eigen_search.hpp>
#include <memory>

/// From G_k to the removal basis: the selection of eigenvalues and the solvers.
namespace catmerge::detail {

/// The threshold of positive eigenvalues: d_out times the rounding of G_k times max|lambda|.
/// Without it, rounding makes zeros of a low-rank G_k "positive".
inline double positive_above(index_t size, double rounding, double magnitude) {
  return static_cast<double>(size) * rounding * magnitude;
}

/// The number of eigenvalues (descending) that the rule takes.
inline index_t directions_taken(const direction_rule& rule, const std::vector<double>& values,
                                double threshold) {
  index_t positive = 0;
  while (positive < std::ssize(values) && values[static_cast<std::size_t>(positive)] > threshold)
    ++positive;
  if (const auto* t = std::get_if<largest>(&rule))
    return (std::min<index_t>)(t->count, t->positive_only ? positive : std::ssize(values));
  if (std::holds_alternative<all_positive>(rule)) return positive;
  const auto& e = std::get<energy_share>(rule);
  double total = 0;
  for (index_t j = 0; j < positive; ++j)
    total += values[static_cast<std::size_t>(j)] * values[static_cast<std::size_t>(j)];
  double sum = 0;
  index_t count = 0;
  for (; count < positive; ++count) {
    const double next =
        sum + values[static_cast<std::size_t>(count)] * values[static_cast<std::size_t>(count)];
    if (e.stop == energy_share::bound::reach ? sum >= e.share * total : next >= e.share * total)
      break;
    sum = next;
  }
  return count;
}

/// Stores in `result` the eigenvalues (of a descending list) that the rule takes; returns their
/// number.
template <class Result>
index_t take_directions(const direction_rule& rule, const std::vector<double>& values,
                        double threshold, Result& result) {
  const index_t count = directions_taken(rule, values, threshold);
  result.positive = 0;
  for (const double v : values) result.positive += v > threshold;
  result.eigenvalues = values;
  result.eigenvalues.resize(static_cast<std::size_t>(count));
  return count;
}

/// The removal basis of task k by the dense solver.
template <class Context>
void dense_basis(Context& c, conflict_gram<Context>& g, index_t k, const direction_rule& rule,
                 removal_basis_result<typename Context::matrix>& result) {
  const index_t size = g.size();
  auto vectors = g.dense(k);
  const auto ascending = c.symmetric_eigen(vectors, size);
  std::vector<double> values(ascending.rbegin(), ascending.rend());
  if (!values.empty())
    result.magnitude = (std::max)(std::abs(values.front()), std::abs(values.back()));
  const double threshold =
      positive_above(size, g.rounding(scalar_type::f64), (std::max)(result.magnitude, g.terms(k)));
  const index_t count = take_directions(rule, values, threshold, result);
  result.basis = c.make(scalar_type::f64, size, count);
  for (index_t j = 0; j < count; ++j)
    c.assign(c.slice(typename Context::const_view(vectors), 0, size, size - 1 - j, 1),
             c.slice(typename Context::view(result.basis), 0, size, j, 1));
  values.resize(static_cast<std::size_t>((std::min<index_t>)(count + 8, size)));
  result.spectrum = std::move(values);
}

/// The searches for the leading eigenvectors of several G_k, side by side. They make their products
/// together.
template <class Context>
class basis_searches {
  using search = eigen_search<Context>;
  using task_product = typename conflict_gram<Context>::task_product;

 public:
  basis_searches(Context& c, conflict_gram<Context>& g, const std::vector<index_t>& wanted,
                 index_t count, eigen_options eigen)
      : c_(c), g_(g), tasks_(wanted), spent_(wanted.size(), 0) {
    const scalar_type type = g.type();
    if (eigen.tolerance == 0) eigen.tolerance = default_tolerance(type);
    // Products in float leave residuals of about 1e-7 of the spectrum, so they reach no tolerance
    // below four times that. A search that stalls nevertheless, or has spent half of its products,
    // goes on in double.
    const bool single = type == scalar_type::f32 && g.single() && eigen.tolerance >= 4e-7;
    eigen_options first = eigen;
    if (single) first.products /= 2;
    for (std::size_t j = 0; j < tasks_.size(); ++j)
      searches_.emplace_back(c, g.size(), count, first);
    if (single)
      run(scalar_type::f32, 16 * default_tolerance(scalar_type::f32),
          25 * (std::max<index_t>)(count, 4));
    else
      run(scalar_type::f64);

    // If float cannot tell the sign of an eigenvalue that may be taken, the search goes on in
    // double from float's eigenpairs. If a value is still smaller than its residual, it goes on to
    // double's tolerance, which tells a small eigenvalue from zero.
    const double finest = default_tolerance(scalar_type::f64);
    for (const bool last : {false, true}) {
      if (last ? eigen.tolerance <= finest : !single) continue;
      if (last) eigen.tolerance = finest;
      for (std::size_t j = 0; j < tasks_.size(); ++j) {
        const auto found = searches_[j].result();
        const double terms = (std::max)(found.magnitude, g.terms(tasks_[j]));
        const double unsure = last ? 2 * found.residual * found.magnitude
                                   : positive_above(g.size(), g.rounding(scalar_type::f32), terms);
        bool sure = found.converged;
        for (const double v : found.values) sure = sure && std::abs(v) > unsure;
        const bool given_up = !found.converged && spent_[j] + found.products >= eigen.products;
        if (sure || given_up) continue;
        spent_[j] += found.products;
        eigen_options rest = eigen;
        rest.products -= spent_[j];
        const auto start = found.converged ? searches_[j].leading() : searches_[j].kept();
        searches_[j] =
            search(c, g.size(), count, rest, typename Context::const_view(start), found.magnitude);
      }
      run(scalar_type::f64);
    }
  }

  eigenpairs<Context> result(std::size_t j) {
    auto found = searches_[j].result();
    found.products += spent_[j];
    return found;
  }

 private:
  /// Continues each search until it is done or stalls by rounding: its residual is below `floor`,
  /// and `patience` products have not lowered it by a tenth.
  void run(scalar_type arithmetic, double floor = 0, index_t patience = 0) {
    struct progress {
      double residual = std::numeric_limits<double>::infinity();
      index_t products = 0;  // made when `residual` was reached
      bool stalled = false;
    };
    std::vector<progress> seen(searches_.size());
    while (true) {
      std::vector<task_product> list;
      for (std::size_t j = 0; j < searches_.size(); ++j)
        if (!searches_[j].done() && !seen[j].stalled)
          list.push_back({tasks_[j], searches_[j].block(), searches_[j].product()});
      if (list.empty()) return;
      g_.apply(list, arithmetic);
      c_.concurrently(std::ssize(searches_), [&](index_t t) {
        const auto j = static_cast<std::size_t>(t);
        search& s = searches_[j];
        if (s.done() || seen[j].stalled) return;
        s.advance();
        const double residual = s.residual() * (std::min)(1.0, s.magnitude() / g_.terms(tasks_[j]));
        if (residual < 0.9 * seen[j].residual) seen[j] = {residual, s.products()};
        seen[j].stalled = residual < floor && s.products() - seen[j].products >= patience;
      });
    }
  }

  Context& c_;
  conflict_gram<Context>& g_;
  std::vector<index_t> tasks_;
  std::vector<search> searches_;
  std::vector<index_t> spent_;  // products of each task's earlier searches
};

/// The removal bases of several tasks, from one G_k each.
template <class Context>
std::vector<removal_basis_result<typename Context::matrix>> find_bases(
    Context& c, conflict_gram<Context>& g, const std::vector<index_t>& tasks,
    const projection_options& options, const basis_plan& plan) {
  std::vector<removal_basis_result<typename Context::matrix>> results(tasks.size());
  std::vector<index_t> left;  // positions in `tasks` for the dense solver
  const auto* few = std::get_if<largest>(&options.directions);
  if (plan.solver == basis_solver::dense || few == nullptr || !g.searchable()) {
    for (index_t j = 0; j < std::ssize(tasks); ++j) left.push_back(j);
  } else {
    eigen_options eigen = options.eigen;
    eigen.products = plan.products;
    basis_searches<Context> searches(c, g, tasks, few->count, eigen);
    for (std::size_t j = 0; j < tasks.size(); ++j) {
      auto pairs = searches.result(j);
      auto& result = results[j];
      result.products = pairs.products;
      if (!pairs.converged) {
        // The search has spent its products without convergence. The dense solver always converges,
        // and result.solver names it.
        left.push_back(static_cast<index_t>(j));
        continue;
      }
      const double threshold = positive_above(g.size(), g.rounding(scalar_type::f64),
                                              (std::max)(pairs.magnitude, g.terms(tasks[j])));
      const index_t count = take_directions(options.directions, pairs.values, threshold, result);
      result.basis = c.make(scalar_type::f64, g.size(), count);
      c.assign(c.slice(typename Context::const_view(pairs.vectors), 0, g.size(), 0, count),
               result.basis);
      result.spectrum = std::move(pairs.values);
      for (const double v : pairs.after) result.spectrum.push_back(v);
      result.magnitude = pairs.magnitude;
      result.residual = pairs.residual;
      result.solver = plan.solver;
    }
  }
  if (left.empty()) return results;

  const auto solve = [&](index_t j) {
    const auto at = static_cast<std::size_t>(left[static_cast<std::size_t>(j)]);
    dense_basis(c, g, tasks[at], options.directions, results[at]);
  };
  // In parallel if that takes little memory: the solver needs five matrices of this size. (From
  // weights, one G_k is formed on all threads.)
  if (g.stacked() && g.size() <= 1024)
    c.concurrently(std::ssize(left), solve);
  else
    for (index_t j = 0; j < std::ssize(left); ++j) solve(j);
  return results;
}

/// The matrices G_k of the wanted tasks, and the plan for their bases.
template <class Context>
struct planned_gram {
  std::unique_ptr<conflict_gram<Context>> gram;
  basis_plan plan;
};

/// Makes both by the options, or for the cheapest solver.
template <class Context>
planned_gram<Context> make_gram(Context& c, gram_problem<Context> problem,
                                const projection_options& options) {
  problem.lambda = options.lambda;
  problem.weighting = options.weighting;
  const basis_plan plan =
      plan_bases(c, problem.vectors, problem.statistics, problem.wanted, options);
  const bool stack = plan.solver == basis_solver::shifts ||
                     (plan.solver == basis_solver::dense && has_rows(problem.statistics));
  if (stack) return {std::make_unique<gram_by_shifts<Context>>(c, std::move(problem)), plan};
  return {std::make_unique<gram_by_weights<Context>>(c, std::move(problem)), plan};
}

}  // namespace catmerge::detail
