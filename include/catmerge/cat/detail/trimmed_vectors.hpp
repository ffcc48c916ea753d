// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/options.hpp>
#include <catmerge/merge/problem.hpp>
#include <cmath>
#include <limits>

namespace catmerge::detail {

/// The trim of one kind of parameter.
template <class Context>
class layer_trim {
 public:
  using view = typename Context::view;
  using const_view = typename Context::const_view;

  layer_trim() = default;
  layer_trim(const layer_trim&) = delete;
  layer_trim& operator=(const layer_trim&) = delete;
  virtual ~layer_trim() = default;

  /// Trims the vectors t of one part in place and reports the removals. energies: ||t_i||_F^2.
  virtual void trim(index_t part, const std::vector<view>& t,
                    const std::vector<double>& energies) = 0;
  /// ||Df(X_k; t)||^2.
  virtual double energy(index_t k, const const_view& t) = 0;
  /// The same for t_i, which has been trimmed and then multiplied by the root of `square`.
  virtual double energy_left(index_t k, index_t i, const const_view& t, double square) = 0;
  /// The number of rows that `energy` sums over.
  virtual double rows(index_t k) const = 0;
  /// The size of trimmed vectors.
  virtual rescale rescaling() const = 0;
};

/// The task vectors of one parameter during CAT, for any layer_trim.
template <class Context>
class trimmed_vectors {
  using view = typename Context::view;
  using const_view = typename Context::const_view;

 public:
  /// Measures the norms. run() trims the vectors in place; both write to report.trim.
  trimmed_vectors(Context& c, const layer_problem<Context>& p, const cat_options& options,
                  vector_list<Context> vectors, layer_report& report)
      : c_(c),
        p_(p),
        options_(options),
        tasks_(std::ssize(vectors)),
        vectors_(vectors),
        report_(report.trim.emplace()) {
    report.kind = p.kind;
    for (index_t i = 0; i < tasks_; ++i) {
      energies_.push_back(c.squared_norm(vectors_[at(i)]));
      report_.norm.push_back(std::sqrt(energies_.back()));
      if (!std::isfinite(report_.norm.back()))
        throw error(p.names.expert(i) +
                    ": the norm of its task vector overflows float64: divide base and experts by "
                    "one power of two, and multiply what is merged by it");
      if (energies_.back() < 0x1p-900 && vanishes(vectors_[at(i)]))
        throw error(p.names.expert(i) +
                    ": the square of its task vector vanishes in float64: multiply base and "
                    "experts by one power of two, and divide what is merged by it");
    }
  }

  /// Trims every vector to protect all the other tasks, part by part.
  void run(layer_trim<Context>& trim) {
    report_.overlap = square(0);
    report_.deviation.assign(vectors_.size(), 0);
    if (options_.diagnostics) report_.conflict_before = report_.conflict_after = square(0);
    for (index_t k = 0; k < tasks_; ++k) report_.rows.push_back(trim.rows(k));

    const index_t parts = options_.fused == fused_weights::split ? p_.parts : 1;
    const index_t height = c_.rows(p_.base) / parts;
    std::vector<double> left(vectors_.size(), 0);  // energy of the trimmed vectors before rescaling
    for (index_t part = 0; part < parts; ++part) trim_part(trim, part, height, left);
    for (index_t e = 0; e < report_.overlap.size(); ++e)
      report_.overlap.data()[e] /= static_cast<double>(parts);
    for (index_t i = 0; i < tasks_; ++i) {
      const double before = report_.norm[at(i)] * report_.norm[at(i)];
      report_.energy_removed.push_back(before > 0 ? (std::max)(0.0, 1 - left[at(i)] / before) : 0);
      if (before > 0 && left[at(i)] == 0) report_.emptied.push_back(i);
    }
    require_finite();
  }

 private:
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

  Eigen::MatrixXd square(double value) const {
    return Eigen::MatrixXd::Constant(tasks_, tasks_, value);
  }

  /// True if t is not zero, although its energy almost is. (Squares of floats are at least 1e-90.)
  bool vanishes(const const_view& t) {
    if (c_.type(t) != scalar_type::f64) return false;
    auto large = c_.make(scalar_type::f64, c_.rows(t), c_.columns(t));
    c_.axpy(0x1p600, t, large);
    return c_.squared_norm(large) > 0;
  }

  /// Throws if a number of the report is not finite.
  void require_finite() const {
    const auto finite = [](const auto& numbers) {
      bool all = true;
      for (index_t e = 0; e < static_cast<index_t>(numbers.size()); ++e)
        all = all && std::isfinite(numbers.data()[e]);
      return all;
    };
    if (!finite(report_.conflict_before) || !finite(report_.conflict_after) ||
        !finite(report_.deviation))
      throw error(p_.names.who() +
                  ": conflicts or deviations overflow float64: divide the features of all tasks by "
                  "one power of two, by whose square they are then smaller, or ask for no "
                  "diagnostics");
  }

  void trim_part(layer_trim<Context>& trim, index_t part, index_t height,
                 std::vector<double>& left) {
    const index_t row = part * height;
    std::vector<view> t;
    std::vector<double> before;
    for (index_t i = 0; i < tasks_; ++i) {
      t.push_back(c_.slice(vectors_[at(i)], row, height, 0, c_.columns(p_.base)));
      const bool whole = height == c_.rows(p_.base);
      before.push_back(whole ? energies_[at(i)] : c_.squared_norm(t.back()));
    }
    trim.trim(part, t, before);
    std::vector<double> squares;
    for (index_t i = 0; i < tasks_; ++i) {
      const double after = c_.squared_norm(t[at(i)]);
      squares.push_back(settle(t[at(i)], before[at(i)], after, trim.rescaling()));
      if (squares.back() > 0) left[at(i)] += after;
    }
    if (options_.diagnostics) measure(trim, t, squares, row);
  }

  /// Scales a trimmed vector to its final size; returns the square of the factor. before, after:
  /// its energy before and after the trim.
  double settle(const view& t, double before, double after, rescale size) {
    // A vector below 100 roundings of its first norm (one per trim and some more) is noise: zero.
    const double eps = c_.type(t) == scalar_type::f64
                           ? std::numeric_limits<double>::epsilon()
                           : static_cast<double>(std::numeric_limits<float>::epsilon());
    if (after <= before * 1e4 * eps * eps) {
      c_.scale(0, t);
      return 0;
    }
    if (size == rescale::none) return 1;
    c_.scale(std::sqrt(before / after), t);
    return before / after;
  }

  /// Measures conflict and deviation of the merged vectors: trimmed and rescaled.
  void measure(layer_trim<Context>& trim, const std::vector<view>& t,
               const std::vector<double>& squares, index_t row) {
    const index_t width = c_.columns(p_.base);
    c_.concurrently(tasks_ * (tasks_ + 1), [&](index_t p) {
      const index_t i = p / (tasks_ + 1), k = p % (tasks_ + 1), height = c_.rows(t[at(i)]);
      if (k < tasks_) {
        report_.conflict_after(k, i) += trim.energy_left(k, i, t[at(i)], squares[at(i)]);
        return;
      }
      auto lost = c_.make(c_.type(t[at(i)]), height, width);
      c_.subtract(c_.slice(p_.experts[at(i)], row, height, 0, width),
                  c_.slice(p_.base, row, height, 0, width), lost);
      c_.axpy(-1, t[at(i)], lost);
      report_.deviation[at(i)] += trim.energy(i, lost);
    });
  }

  Context& c_;
  const layer_problem<Context>& p_;
  const cat_options& options_;
  index_t tasks_;
  vector_list<Context> vectors_;
  std::vector<double> energies_;  // of the vectors before the trim
  trim_report& report_;
};

}  // namespace catmerge::detail
