// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/merge/compose.hpp>
#include <catmerge/methods/consensus.hpp>
#include <catmerge/methods/dare.hpp>
#include <catmerge/methods/fisher.hpp>
#include <catmerge/methods/pcb.hpp>
#include <catmerge/methods/tatr.hpp>
#include <catmerge/methods/ties.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "support/suite/algorithms.hpp"

/// The methods that go entry by entry, on one backend and one storage type: Fisher merging, TIES,
/// DARE, Consensus, PCB and TATR, against the papers' formulas in plain loops over the flattened
/// model.
namespace test::entries {

/// The numbers of a whole model, one after the other; and those of every task.
using flat = std::vector<double>;
using flats = std::vector<flat>;

/// A merged task vector, and how far rounding may move each entry of it.
struct expected {
  flat tau, slack;
};

/// The sum of all vectors' entry i.
inline double sum_at(const flats& t, std::size_t i) {
  double sum = 0;
  for (const auto& x : t) sum += x[i];
  return sum;
}

inline flat magnitudes(flat x) {
  for (double& v : x) v = std::abs(v);
  return x;
}

inline flat sorted(flat x) {
  std::sort(x.begin(), x.end());
  return x;
}

inline double sign(double x) {
  return x > 0 ? 1 : x < 0 ? -1 : 0;
}

/// The bound on the error of a sum of 2 tasks products in double, per unit of the products' sizes,
/// with the few operations that make each product.
inline double added(std::size_t tasks) {
  return (2 * static_cast<double>(tasks) + 8) * tolerance::eps<double>;
}

/// theta - theta_0, theta the weighted mean of the experts.
inline expected fisher(const flats& t, const flats& f, double floor, bool normalise) {
  flat divisor(t.size(), static_cast<double>(t.size()));
  for (std::size_t k = 0; normalise && k < t.size(); ++k) {
    double square = 0;
    for (const double x : f[k]) square += x * x;
    divisor[k] = std::sqrt(square) + floor;
  }
  expected result;
  for (std::size_t i = 0; i < t[0].size(); ++i) {
    double sum = 0, size = 0, weights = 0;
    for (std::size_t k = 0; k < t.size(); ++k) {
      const double weight = (f[k][i] + floor) / divisor[k];
      sum += weight * t[k][i], size += weight * std::abs(t[k][i]), weights += weight;
    }
    result.tau.push_back(weights > 0 ? sum / weights : 0);
    result.slack.push_back(weights > 0 ? added(t.size()) * size / weights : 0);
  }
  return result;
}

/// The trim of TIES: as many as the authors' code keeps, and what equals the last of them.
inline flats trimmed(flats t, double density) {
  for (auto& x : t) {
    const flat order = sorted(magnitudes(x));
    const auto kept = static_cast<std::size_t>(static_cast<double>(x.size()) * density);
    if (kept >= x.size()) continue;
    const double least = order[x.size() - 1 - kept];
    for (double& v : x)
      if (std::abs(v) < least) v = 0;
  }
  return t;
}

inline flat ties(const flats& vectors, double density, bool mean) {
  const flats t = trimmed(vectors, density);
  double majority = 0;
  for (std::size_t i = 0; i < t[0].size(); ++i) majority += sign(sum_at(t, i));
  flat tau;
  for (std::size_t i = 0; i < t[0].size(); ++i) {
    double elected = sign(sum_at(t, i));
    if (elected == 0) elected = majority > 0 ? 1 : -1;
    double sum = 0, count = 0;
    for (const auto& x : t)
      if (sign(x[i]) == elected) sum += x[i], ++count;
    tau.push_back(mean && count > 0 ? sum / count : sum);
  }
  return tau;
}

/// The consensus mask on `multi`, the merged vector.
inline flat consensus(const flats& t, flat multi, const std::vector<double>& lambda, int k) {
  for (std::size_t i = 0; i < multi.size(); ++i) {
    int masks = 0;
    for (std::size_t j = 0; j < t.size(); ++j)
      if (std::abs(t[j][i]) > lambda[j] * std::abs(multi[i] - t[j][i])) ++masks;
    if (masks < k) multi[i] = 0;
  }
  return multi;
}

/// PCB's rule. `eps` is the rounding of a score: it moves w by at most `uncertain`, and a mean of
/// values v with weights w by sum |v - mean| dw / sum w.
inline expected pcb(const flats& t, double ratio, double clip, double eps) {
  const std::size_t n = t[0].size(), tasks = t.size();
  const auto count = static_cast<double>(n);
  flats value(tasks, flat(n)), weight(tasks, flat(n)), uncertain(tasks, flat(n));
  for (std::size_t k = 0; k < tasks; ++k) {
    const flat order = sorted(magnitudes(t[k]));
    const double low = order[static_cast<std::size_t>(count * clip)];
    const double last = count * (1 - clip) - 1;
    const double high = order[last < 0 ? 0 : static_cast<std::size_t>(last)];
    flat score(n);
    for (std::size_t i = 0; i < n; ++i) {
      const double size = std::min(std::max(std::abs(t[k][i]), low), high);
      const double place = high > low ? (size - low) / (high - low) : 0;
      value[k][i] = sign(t[k][i]) * size;
      score[i] =
          std::exp(static_cast<double>(tasks) * place * place) * std::tanh(t[k][i] * sum_at(t, i));
    }
    const flat scores = sorted(score);
    const double threshold = scores[std::min(n - 1, static_cast<std::size_t>(count * (1 - ratio)))];
    const double range = scores.back() - threshold;
    for (std::size_t i = 0; i < n; ++i) {
      const double above = std::max(score[i], threshold) - threshold;
      weight[k][i] = range > 0 ? above / range : 0;
      uncertain[k][i] = range > 0 && above > 0
                            ? eps *
                                  (std::abs(score[i]) + std::abs(threshold) +
                                   weight[k][i] * (std::abs(scores.back()) + std::abs(threshold))) /
                                  range
                            : 0;
    }
  }
  expected result{flat(n), flat(n)};
  for (std::size_t i = 0; i < n; ++i) {
    double sum = 0, weights = 0;
    for (std::size_t k = 0; k < tasks; ++k)
      sum += weight[k][i] * value[k][i], weights += weight[k][i];
    const double divisor = std::max(weights, 1e-12);
    result.tau[i] = sum / divisor;
    for (std::size_t k = 0; k < tasks; ++k)
      result.slack[i] += (2 * std::abs(value[k][i] - result.tau[i]) * uncertain[k][i] +
                          added(tasks) * weight[k][i] * std::abs(value[k][i])) /
                         divisor;
  }
  return result;
}

/// TATR's filter; `round` is to the type in which the library keeps Omega.
inline flats tatr(flats t, const flats& g, double quantile,
                  const std::function<double(double)>& round) {
  const std::size_t n = t[0].size();
  flat omega(n);
  for (std::size_t e = 0; e < n; ++e) {
    for (std::size_t i = 0; i < t.size(); ++i)
      for (std::size_t j = 0; j < t.size(); ++j)
        if (i != j) omega[e] += g[i][e] * std::abs(t[j][e]);
    omega[e] = round(omega[e]);
  }
  const double threshold =
      sorted(omega)[std::min(n - 1, static_cast<std::size_t>(static_cast<double>(n) * quantile))];
  for (std::size_t e = 0; e < n; ++e)
    if (omega[e] >= threshold && omega[e] > 0)
      for (auto& x : t) x[e] = 0;
  return t;
}

/// The sum of the vectors, added in a compute type whose distance from 1 to the next number is eps.
inline expected summed(const flats& t, double eps) {
  expected result;
  for (std::size_t i = 0; i < t[0].size(); ++i) {
    double size = 0;
    for (const auto& x : t) size += std::abs(x[i]);
    result.tau.push_back(sum_at(t, i));
    result.slack.push_back(static_cast<double>(t.size()) * eps * size);
  }
  return result;
}

/// SplitMix64's next number, as its authors' code keeps it: state and all.
inline std::uint64_t next(std::uint64_t& state) {
  std::uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

/// The entries of n that DARE keeps: those whose number in [0, 1) is at least p.
inline std::vector<bool> dare_mask(std::uint64_t seed, std::size_t task, const std::string& name,
                                   std::size_t n, double p) {
  std::uint64_t hash = 14695981039346656037ULL;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  std::uint64_t state = seed + task * 0x9e3779b97f4a7c15;
  state = next(state) + hash * 0x9e3779b97f4a7c15;
  state = next(state);
  std::vector<bool> kept;
  for (std::size_t i = 0; i < n; ++i)
    kept.push_back(std::ldexp(static_cast<double>(next(state) >> 11), -53) >= p);
  return kept;
}

/// T_k as the library forms it, in the compute type, row after row.
template <class C, class M>
flat difference(const M& expert, const M& base) {
  flat t;
  const auto e = suite::as<C>(expert), b = suite::as<C>(base);
  for (index_t i = 0; i < e.rows(); ++i)
    for (index_t j = 0; j < e.cols(); ++j) t.push_back(static_cast<double>(e(i, j) - b(i, j)));
  return t;
}

/// A matrix's values, row after row.
template <class M>
flat values(const M& m) {
  flat v;
  for (index_t i = 0; i < m.rows(); ++i)
    for (index_t j = 0; j < m.cols(); ++j)
      v.push_back(
          static_cast<double>(static_cast<catmerge::compute_t<typename M::Scalar>>(m(i, j))));
  return v;
}

/// The largest excess of |found - (base + alpha tau)| over what rounding in C allows: alpha and tau
/// are rounded to C, multiplied, and added to base, half an eps each. Not above 0 if all is well.
template <class C>
double excess(const flat& found, const flat& base, const expected& e, double alpha) {
  double worst = -1;
  REQUIRE(found.size() == e.tau.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double step = alpha * e.tau[i];
    const double allowed = tolerance::eps<C> * (std::abs(base[i]) + 2.5 * std::abs(step)) +
                           std::abs(alpha) * (e.slack.empty() ? 0 : e.slack[i]) +
                           16 * tolerance::eps<double> * std::abs(step);
    worst = std::max(worst, std::abs(found[i] - (base[i] + step)) - allowed);
  }
  return worst;
}

/// Positive importances, some of them zero, as large as squared gradients are.
template <class S>
matrix_of<S> importance(generator& g, index_t rows, index_t columns) {
  matrix_of<double> m = g.matrix<double>(rows, columns, 1e-3);
  for (index_t j = 0; j < columns; ++j)
    for (index_t i = 0; i < rows; ++i) m(i, j) = g.uniform() < 0.1 ? 0 : m(i, j) * m(i, j);
  return suite::as<S>(matrix_of<catmerge::compute_t<S>>(m.cast<catmerge::compute_t<S>>()));
}

}  // namespace test::entries

namespace test::suite {

/// The calls for one parameter.
template <class B>
void entry_methods() {
  using S = typename B::scalar;
  using C = compute<B>;
  B b;
  const auto l = linear(b, 12, 9, 14, {1, 1, 1});
  generator g(13);
  std::vector<matrix_of<S>> importance;
  std::vector<matrix_type<B>> importance_tensors;
  entries::flats t, f;
  for (std::size_t k = 0; k < 3; ++k) {
    importance.push_back(entries::importance<S>(g, 9, 14));
    importance_tensors.push_back(b.matrix(importance.back()));
    t.push_back(entries::difference<C>(l.host.experts[k], l.host.base));
    f.push_back(entries::values(importance.back()));
  }
  const entries::flat base = entries::values(l.host.base);
  const double eps = tolerance::eps<C>;
  const auto check = [&](const auto& found, const auto& on_eigen, const entries::expected& e,
                         double alpha) {
    CHECK(entries::excess<C>(entries::values(B::to_eigen(found.merged)), base, e, alpha) <= 0);
    CHECK(found.report.fallback == catmerge::fallback_rule::none);
    if (B::same_bits) CHECK(same_bits(B::to_eigen(found.merged), as<C>(on_eigen.merged)));
  };

  catmerge::fisher_options fisher;
  fisher.normalise = true;
  check(catmerge::fisher(l.base, l.experts, importance_tensors, fisher),
        catmerge::fisher(l.host.base, l.host.experts, importance, fisher),
        entries::fisher(t, f, 1e-6, true), 1);
  check(catmerge::ties(l.base, l.experts), catmerge::ties(l.host.base, l.host.experts),
        {entries::ties(t, 0.2, true), {}}, 1);
  auto multi = entries::summed(t, eps);
  multi.tau = entries::consensus(t, multi.tau, {0.4, 0.4, 0.4}, 2);
  check(catmerge::consensus(l.base, l.experts), catmerge::consensus(l.host.base, l.host.experts),
        multi, 0.3);
  catmerge::pcb_options pcb;
  pcb.ratio = 0.3;
  check(catmerge::pcb(l.base, l.experts, pcb), catmerge::pcb(l.host.base, l.host.experts, pcb),
        entries::pcb(t, 0.3, 1e-4, 2 * eps), 1.2);
  catmerge::tatr_options tatr;
  tatr.quantile = 0.8;
  check(
      catmerge::tatr(l.base, l.experts, importance_tensors, tatr),
      catmerge::tatr(l.host.base, l.host.experts, importance, tatr),
      entries::summed(
          entries::tatr(t, f, 0.8, [](double x) { return static_cast<double>(static_cast<C>(x)); }),
          eps),
      0.3);

  auto c = catmerge::detail::context_of(l.base);
  catmerge::layer_problem<decltype(c)> problem;
  problem.names.parameter = "weight";
  const auto dropped = catmerge::detail::merge_one(
      c, catmerge::chain{catmerge::dare_transform{{0.6, 5}}, catmerge::task_arithmetic_method{1}},
      problem, l.base, l.experts);
  for (std::size_t k = 0; k < 3; ++k) {
    const auto kept = entries::dare_mask(5, k, "weight", t[k].size(), 0.6);
    for (std::size_t i = 0; i < kept.size(); ++i) t[k][i] = kept[i] ? t[k][i] / 0.4 : 0;
  }
  CHECK(entries::excess<C>(entries::values(B::to_eigen(dropped.merged)), base,
                           entries::summed(t, 2 * eps), 1) <= 0);
  l.check_unchanged();
}

}  // namespace test::suite
