// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <limits>
#include <optional>

#include "support/harness/program.hpp"

/// CAT Merging of a CLIP once more, by the paper's formulas on dense matrices in double: what
/// the program's output is compared with. It shares no code with the library but the reader of
/// files.
namespace harness_test::oracle {

struct dense {
  std::size_t rows = 0, columns = 0;
  values_t v;
  dense() = default;
  dense(std::size_t r, std::size_t c) : rows(r), columns(c), v(r * c, 0.0) {}
  double& operator()(std::size_t i, std::size_t j) { return v[i * columns + j]; }
  double operator()(std::size_t i, std::size_t j) const { return v[i * columns + j]; }
};

inline dense times(const dense& a, const dense& b) {
  REQUIRE(a.columns == b.rows);
  dense c(a.rows, b.columns);
  for (std::size_t i = 0; i < a.rows; ++i)
    for (std::size_t k = 0; k < a.columns; ++k)
      for (std::size_t j = 0; j < b.columns; ++j) c(i, j) += a(i, k) * b(k, j);
  return c;
}

inline dense transposed(const dense& a) {
  dense t(a.columns, a.rows);
  for (std::size_t i = 0; i < a.rows; ++i)
    for (std::size_t j = 0; j < a.columns; ++j) t(j, i) = a(i, j);
  return t;
}

inline void add(dense& a, double factor, const dense& b) {
  REQUIRE(a.v.size() == b.v.size());
  for (std::size_t i = 0; i < a.v.size(); ++i) a.v[i] += factor * b.v[i];
}

inline double energy_of(const dense& a) {
  double sum = 0;
  for (const double x : a.v) sum += x * x;
  return sum;
}

/// tr(T S T^T): ||X T^T||^2 for S = X^T X.
inline double shift_energy(const dense& t, const dense& s) {
  const dense ts = times(t, s);
  double sum = 0;
  for (std::size_t i = 0; i < t.v.size(); ++i) sum += ts.v[i] * t.v[i];
  return sum;
}

struct eigen {
  values_t values;  // largest first
  dense vectors;    // in columns
};

/// Cyclic Jacobi rotations on a symmetric matrix.
inline eigen eigen_of(dense a) {
  const std::size_t n = a.rows;
  dense q(n, n);
  for (std::size_t i = 0; i < n; ++i) q(i, i) = 1;
  for (int sweep = 0; sweep < 60; ++sweep) {
    double off = 0;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < i; ++j) off += a(i, j) * a(i, j);
    if (off <= 1e-32 * energy_of(a)) break;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = i + 1; j < n; ++j) {
        if (a(i, j) == 0) continue;
        const double theta = (a(j, j) - a(i, i)) / (2 * a(i, j));
        const double t = (theta < 0 ? -1 : 1) / (std::fabs(theta) + std::hypot(theta, 1));
        const double c = 1 / std::hypot(t, 1), s = t * c;
        for (std::size_t k = 0; k < n; ++k) {
          const double x = a(k, i), y = a(k, j);
          a(k, i) = c * x - s * y, a(k, j) = s * x + c * y;
        }
        for (std::size_t k = 0; k < n; ++k) {
          const double x = a(i, k), y = a(j, k);
          a(i, k) = c * x - s * y, a(j, k) = s * x + c * y;
        }
        for (std::size_t k = 0; k < n; ++k) {
          const double x = q(k, i), y = q(k, j);
          q(k, i) = c * x - s * y, q(k, j) = s * x + c * y;
        }
      }
  }
  std::vector<std::size_t> order(n);
  for (std::size_t i = 0; i < n; ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](auto i, auto j) { return a(i, i) > a(j, j); });
  eigen result{{}, dense(n, n)};
  for (std::size_t j = 0; j < n; ++j) {
    result.values.push_back(a(order[j], order[j]));
    for (std::size_t i = 0; i < n; ++i) result.vectors(i, j) = q(i, order[j]);
  }
  return result;
}

inline dense first_columns(const dense& a, std::size_t count) {
  dense b(a.rows, count);
  for (std::size_t i = 0; i < a.rows; ++i)
    for (std::size_t j = 0; j < count; ++j) b(i, j) = a(i, j);
  return b;
}

struct options {
  double alpha = 0.4;
  std::size_t rank = 4;
  bool rank_of_any_sign = false;
  std::optional<double> energy;     // the smallest number that reaches it
  bool energy_stays_below = false;  // the port's reading
  bool all_positive = false;
  double lambda = 5;
  bool joint = false, mean_rows = false, rescaled = false;
  std::size_t scale_rank = 4;
  bool scale_of_any_sign = false;
  double scale_lambda = 10;
  std::size_t shift_rank = 4;
  std::vector<std::string> untrimmed, masked_as_shift;  // names that end so

  static options port() {
    options o;
    o.rank_of_any_sign = o.scale_of_any_sign = o.rescaled = o.energy_stays_below = true;
    o.untrimmed = {"self_attn.out_proj.weight"};
    o.masked_as_shift = {"class_embedding"};
    return o;
  }
};

enum class kind { linear, scale, shift, other };

inline bool ends_so(const std::string& name, const std::vector<std::string>& ends) {
  return std::any_of(ends.begin(), ends.end(),
                     [&](const auto& end) { return name.ends_with(end); });
}

inline kind kind_of(const std::string& name, const options& o) {
  if (ends_so(name, o.untrimmed)) return kind::other;
  if (ends_so(name, o.masked_as_shift)) return kind::shift;
  if (contains(name, "embed") || name == "visual_projection.weight") return kind::other;
  if (name.ends_with("bias")) return kind::shift;
  return contains(name, "norm") || contains(name, "layrnorm") ? kind::scale : kind::linear;
}

/// A file of features, read by hand: X^T X for linears, E[x^2] for scales, and the number of rows.
struct statistics {
  dense gram;
  values_t moment;
  double rows = 0;
};

inline statistics statistics_of(const table& file, std::string name) {
  const auto alias = file.metadata.find("alias:" + name);
  if (alias != file.metadata.end()) name = alias->second;
  statistics s;
  if (file.has(name)) {
    const auto& t = file.at(name);
    dense x(static_cast<std::size_t>(t.shape.at(0)), static_cast<std::size_t>(t.shape.at(1)));
    x.v = file.values(name);
    s.gram = times(transposed(x), x);
    s.rows = static_cast<double>(x.rows);
    s.moment.resize(x.columns);
    for (std::size_t j = 0; j < x.columns; ++j) s.moment[j] = s.gram(j, j) / s.rows;
    return s;
  }
  s.rows = std::stod(file.metadata.at("rows:" + name));
  if (file.has(name + "::second_moment")) {
    s.moment = file.values(name + "::second_moment");
    return s;
  }
  const auto& t = file.at(name + "::gram");
  s.gram = dense(static_cast<std::size_t>(t.shape.at(0)), static_cast<std::size_t>(t.shape.at(0)));
  s.gram.v = file.values(name + "::gram");
  return s;
}

/// One parameter's result, with what the report has to say.
struct result {
  values_t merged;
  kind what = kind::other;
  std::vector<values_t> eigenvalues;  // taken, per protected task
  std::vector<std::vector<std::size_t>> coordinates;
  dense before, after;  // ||Df(X_k; T_i)||^2
  values_t deviation, energy_removed;
  dense overlap;
  double smallest_gap = std::numeric_limits<double>::infinity();  // relative, where a basis ends
};

/// The smallest gap between the eigenvalues taken and the others, below which B is not unique.
inline std::size_t taken(const values_t& values, const options& o) {
  const double magnitude = std::max(std::fabs(values.front()), std::fabs(values.back()));
  const double zero =
      static_cast<double>(values.size()) * std::numeric_limits<double>::epsilon() * magnitude;
  std::size_t positive = 0;
  while (positive < values.size() && values[positive] > zero) ++positive;
  if (o.all_positive) return positive;
  if (o.energy) {
    double total = 0, sum = 0;
    for (std::size_t j = 0; j < positive; ++j) total += values[j] * values[j];
    for (std::size_t c = 0; c <= positive; ++c) {
      if (o.energy_stays_below) {
        if (c == positive || sum + values[c] * values[c] >= *o.energy * total) return c;
      } else if (sum >= *o.energy * total) {
        return c;
      }
      sum += values[c] * values[c];
    }
    return positive;
  }
  return std::min(o.rank, o.rank_of_any_sign ? values.size() : positive);
}

inline std::vector<std::size_t> best_positions(const values_t& score, std::size_t count,
                                               bool any_sign) {
  std::vector<std::size_t> order(score.size());
  for (std::size_t j = 0; j < order.size(); ++j) order[j] = j;
  std::stable_sort(order.begin(), order.end(), [&](auto i, auto j) { return score[i] > score[j]; });
  order.resize(std::min(count, order.size()));
  if (!any_sign) std::erase_if(order, [&](auto j) { return score[j] <= 0; });
  std::sort(order.begin(), order.end());
  return order;
}

/// features: a table per task, or none.
inline result merge_one(const std::string& name, const table& base,
                        const std::vector<table>& experts, const std::vector<table>& features,
                        const options& o) {
  const std::size_t tasks = experts.size();
  const values_t b = base.values(name);
  const auto& shape = base.at(name).shape;
  const std::size_t rows = shape.empty() ? 1 : static_cast<std::size_t>(shape[0]);
  result r;
  r.what = kind_of(name, o);
  std::vector<dense> t;
  for (const auto& e : experts) {
    t.emplace_back(rows, b.size() / rows);
    const values_t v = e.values(name);
    for (std::size_t j = 0; j < v.size(); ++j) t.back().v[j] = v[j] - b[j];
  }
  const std::vector<dense> untrimmed = t;
  std::vector<statistics> s;
  if (r.what == kind::linear || r.what == kind::scale)
    for (const auto& f : features) s.push_back(statistics_of(f, name));
  r.before = r.after = r.overlap = dense(tasks, tasks);
  r.deviation.assign(tasks, 0), r.energy_removed.assign(tasks, 0);
  const auto energy = [&](std::size_t k, const dense& v) {
    if (r.what == kind::linear) return shift_energy(v, s[k].gram);
    if (r.what == kind::shift) return energy_of(v);
    double sum = 0;
    for (std::size_t j = 0; j < v.v.size(); ++j) sum += s[k].moment[j] * v.v[j] * v.v[j];
    return s[k].rows * sum;
  };
  if (r.what == kind::linear) {
    std::vector<dense> bases;
    for (std::size_t k = 0; k < tasks; ++k) {
      dense g(rows, rows);
      for (std::size_t i = 0; i < tasks; ++i) {
        if (i == k) continue;
        dense m(t[i].columns, t[i].columns);
        add(m, o.mean_rows ? 1 / s[k].rows : 1, s[k].gram);
        add(m, -o.lambda * (o.mean_rows ? 1 / s[i].rows : 1), s[i].gram);
        add(g, 1, times(times(t[i], m), transposed(t[i])));
      }
      dense symmetric = transposed(g);
      add(symmetric, 1, g);
      for (double& x : symmetric.v) x /= 2;
      const eigen e = eigen_of(symmetric);
      const std::size_t c = taken(e.values, o);
      const double magnitude = std::max(std::fabs(e.values.front()), std::fabs(e.values.back()));
      if (c > 0 && c < rows && e.values[c - 1] - e.values[c] < r.smallest_gap * magnitude)
        r.smallest_gap = (e.values[c - 1] - e.values[c]) / magnitude;
      bases.push_back(first_columns(e.vectors, c));
      r.eigenvalues.emplace_back(e.values.begin(),
                                 e.values.begin() + static_cast<std::ptrdiff_t>(c));
    }
    for (std::size_t k = 0; k < tasks; ++k)
      for (std::size_t l = 0; l < tasks; ++l) {
        const auto narrow = std::min(bases[k].columns, bases[l].columns);
        if (narrow > 0)
          r.overlap(k, l) =
              energy_of(times(transposed(bases[k]), bases[l])) / static_cast<double>(narrow);
      }
    for (std::size_t i = 0; i < tasks; ++i) {
      const auto remove = [&](const dense& q) {
        add(t[i], -1, times(q, times(transposed(q), t[i])));
      };
      dense all(rows, rows);
      for (std::size_t k = 0; k < tasks; ++k) {
        if (k == i) continue;
        if (!o.joint) remove(bases[k]);
        add(all, 1, times(bases[k], transposed(bases[k])));
      }
      if (o.joint) {
        const eigen e = eigen_of(all);
        std::size_t c = 0;
        while (c < rows && e.values[c] > 1e-9) ++c;
        remove(first_columns(e.vectors, c));
      }
    }
  } else if (r.what != kind::other) {
    for (std::size_t k = 0; k < tasks; ++k) {
      values_t score(rows, 0);
      for (std::size_t i = 0; i < tasks; ++i)
        for (std::size_t j = 0; j < rows && i != k; ++j) {
          const double weight =
              r.what == kind::shift ? 1 : s[k].moment[j] - o.scale_lambda * s[i].moment[j];
          score[j] += weight * t[i].v[j] * t[i].v[j];
        }
      r.coordinates.push_back(r.what == kind::scale
                                  ? best_positions(score, o.scale_rank, o.scale_of_any_sign)
                                  : best_positions(score, o.shift_rank, false));
    }
    for (std::size_t k = 0; k < tasks; ++k) {
      for (std::size_t l = 0; l < tasks; ++l) {
        double both = 0;
        for (const auto j : r.coordinates[k])
          both +=
              static_cast<double>(std::count(r.coordinates[l].begin(), r.coordinates[l].end(), j));
        const auto narrow = std::min(r.coordinates[k].size(), r.coordinates[l].size());
        if (narrow > 0) r.overlap(k, l) = both / static_cast<double>(narrow);
      }
      for (std::size_t i = 0; i < tasks; ++i)
        for (const auto j : r.coordinates[k])
          if (i != k) t[i].v[j] = 0;
    }
  }
  if (r.what != kind::other)
    for (std::size_t i = 0; i < tasks; ++i) {
      const double was = energy_of(untrimmed[i]), is = energy_of(t[i]);
      r.energy_removed[i] = 1 - is / was;
      if (o.rescaled && is > 0 && r.what != kind::shift)
        for (double& x : t[i].v) x *= std::sqrt(was / is);
      for (std::size_t k = 0; k < tasks; ++k) {
        r.before(k, i) = energy(k, untrimmed[i]);
        r.after(k, i) = energy(k, t[i]);
      }
      dense lost = untrimmed[i];
      add(lost, -1, t[i]);
      r.deviation[i] = energy(i, lost);
    }
  r.merged = b;
  for (const auto& v : t)
    for (std::size_t j = 0; j < b.size(); ++j) r.merged[j] += o.alpha * v.v[j];
  return r;
}

}  // namespace harness_test::oracle
