// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/merge_data.hpp>

/// Sums over many parameters. Features of some layers are a thousand times as large as
/// those of others, and a plain sum of ||X_k T_i||^2 would show these layers alone. So every
/// parameter's numbers are divided by own_shift(), the mean of ||X_k T_k||^2 over its tasks, and
/// then summed. Ratios are taken of the sums: a task vector that hardly moves its features in one
/// layer cannot make them grow beyond bounds.
namespace catmerge::harness::page {

enum class moment { before, after };  ///< of the trim

inline const grid& shifts(const parameter& p, moment when) {
  return when == moment::before ? p.before : p.after;
}

/// sum_p ||X_k T_i||^2 / own_shift, for all k and i. Parameters must be measured.
inline grid summed_shifts(const parameters& list, std::size_t tasks, moment when) {
  grid sum(tasks, tasks);
  for (const auto* p : list) {
    const double own = p->own_shift();
    for (std::size_t e = 0; e < sum.values.size(); ++e)
      sum.values[e] += shifts(*p, when).values[e] / own;
  }
  return sum;
}

/// Entry (k, i): the shift of task k's features by task i's vector over that by task k's own
/// (untrimmed) vector, both squared. Unknown if the latter is zero.
inline grid relative_conflict(const parameters& list, std::size_t tasks, moment when) {
  const grid own = summed_shifts(list, tasks, moment::before);
  grid ratio = summed_shifts(list, tasks, when);
  for (std::size_t k = 0; k < tasks; ++k)
    for (std::size_t i = 0; i < tasks; ++i)
      ratio(k, i) = own(k, k) > 0 ? ratio(k, i) / own(k, k) : unknown;
  return ratio;
}

/// Row k's mean without the diagonal: the mean conflict of one other task with task k.
inline double mean_of_others(const grid& conflict, std::size_t k) {
  double sum = 0;
  for (std::size_t i = 0; i < conflict.columns; ++i)
    if (i != k) sum += conflict(k, i);
  return conflict.columns > 1 ? sum / static_cast<double>(conflict.columns - 1) : unknown;
}

/// The conflict of a list of parameters: the mean of ||X_k T_i||^2 over all pairs k != i, over that
/// of ||X_k T_k||^2.
inline double conflict_level(const parameters& list, std::size_t tasks, moment when) {
  const grid own = summed_shifts(list, tasks, moment::before),
             sum = summed_shifts(list, tasks, when);
  double others = 0, self = 0;
  for (std::size_t k = 0; k < tasks; ++k) {
    others += mean_of_others(sum, k);
    self += own(k, k);
  }
  return self > 0 ? others / self : unknown;
}

/// The share removed by a trim: 1 - after / before.
inline double share_removed(double before, double after) {
  return before > 0 ? 1 - after / before : unknown;
}

/// Task k's deviation ||X_k (T_k - T_k')||^2 over ||X_k T_k||^2.
inline double relative_deviation(const parameters& list, std::size_t k) {
  double lost = 0, own = 0;
  for (const auto* p : list) {
    lost += p->deviation[k] / p->own_shift();
    own += p->before(k, k) / p->own_shift();
  }
  return own > 0 ? lost / own : unknown;
}

/// ||T_k|| over a list of parameters that have the number.
inline double total_norm(const parameters& list, std::size_t k) {
  double sum = 0;
  bool any = false;
  for (const auto* p : list)
    if (std::isfinite(p->norm[k])) any = true, sum += p->norm[k] * p->norm[k];
  return any ? std::sqrt(sum) : unknown;
}

/// 1 - ||T_k'||^2 / ||T_k||^2 over a list of parameters, before any rescaling.
inline double total_energy_removed(const parameters& list, std::size_t k) {
  double removed = 0, all = 0;
  for (const auto* p : list) {
    const double energy = p->norm[k] * p->norm[k];
    if (!std::isfinite(energy) || !std::isfinite(p->energy_removed[k])) continue;
    removed += energy * p->energy_removed[k];
    all += energy;
  }
  return all > 0 ? removed / all : unknown;
}

/// True if a parameter's drift is known for all tasks.
inline bool has_drift(const parameter& p) {
  double scale = 0;
  for (std::size_t k = 0; k < p.drift.size(); ++k) {
    if (!std::isfinite(p.drift[k]) || !std::isfinite(p.drift_scale[k])) return false;
    scale += p.drift_scale[k];
  }
  return scale > 0;
}

/// ||X_k (theta - theta_k)||^2 over ||X_k T_k||^2; parameters have equal weight, as above.
inline double relative_drift(const parameters& list, std::size_t k) {
  double drift = 0, own = 0;
  for (const auto* p : list) {
    double scale = 0;
    for (const double s : p->drift_scale) scale += s;
    drift += p->drift[k] / scale;
    own += p->drift_scale[k] / scale;
  }
  return own > 0 ? drift / own : unknown;
}

/// Mean overlap of the removals for tasks k and l, over the parameters with removals for both.
inline grid mean_overlap(const parameters& list, std::size_t tasks) {
  grid sum(tasks, tasks), counts(tasks, tasks);
  for (const auto* p : list) {
    if (p->overlap.empty()) continue;
    for (std::size_t k = 0; k < tasks; ++k)
      for (std::size_t l = 0; l < tasks; ++l)
        if (p->overlap(k, k) > 0 && p->overlap(l, l) > 0 && std::isfinite(p->overlap(k, l))) {
          sum(k, l) += p->overlap(k, l);
          counts(k, l) += 1;
        }
  }
  for (std::size_t e = 0; e < sum.values.size(); ++e)
    sum.values[e] = counts.values[e] > 0 ? sum.values[e] / counts.values[e] : unknown;
  return sum;
}

}  // namespace catmerge::harness::page
