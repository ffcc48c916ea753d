// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/options.hpp>
#include <catmerge/merge/method.hpp>
#include <iterator>

/// CAT Merging's work on one parameter: task vectors, trims, report.
namespace catmerge::detail {

/// The task vectors of one parameter on their way through CAT, whatever trims them.
template <class Context>
class trimmed_vectors {
  using view = typename Context::view;
  using const_view = typename Context::const_view;

 public:
  /// Trims what `vectors` refer to, and says in `report` what it did.
  trimmed_vectors(Context& c, const layer_problem<Context>& p, const cat_options& options,
                  vector_list<Context> vectors, layer_report& report)
      : c_(c),
        p_(p),
        options_(options),
        tasks_(std::ssize(vectors)),
        vectors_(vectors),
        report_(report) {
    report_.kind = p.kind;
    report_.norm.clear();  // of a trim before this one
    report_.rows.clear();
    report_.energy_removed.clear();
    report_.emptied.clear();
    report_.protections.clear();
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

  /// Trims every vector to protect all the other tasks, part by part. A Trim has
  ///   trim(part, t, energies)   trims the vectors t of one part, of these energies, in place and
  ///                     reports what it took
  ///   energy(k, t)      ||Df(X_k; t)||^2
  ///   energy_left(k, i, t, square)   the same for t_i, which has been trimmed and then multiplied
  ///                     by the root of `square`
  ///   rows(k)           how many rows that sums over
  ///   size()            whether trimmed vectors are rescaled
  template <class Trim>
  void run() {
    Trim trim(c_, p_, options_, report_);
    report_.trimmed = true;
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

  /// Whether t, whose energy is next to nothing, is no zero. (Squares of floats are at least
  /// 1e-90.)
  bool vanishes(const const_view& t) {
    if (c_.type(t) != scalar_type::f64) return false;
    auto large = c_.make(scalar_type::f64, c_.rows(t), c_.columns(t));
    c_.axpy(0x1p600, t, large);
    return c_.squared_norm(large) > 0;
  }

  /// Throws where a number of the report left double.
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

  template <class Trim>
  void trim_part(Trim& trim, index_t part, index_t height, std::vector<double>& left) {
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
      squares.push_back(settle(t[at(i)], before[at(i)], after, trim.size()));
      if (squares.back() > 0) left[at(i)] += after;
    }
    if (options_.diagnostics) measure(trim, t, squares, row);
  }

  /// Gives a trimmed vector its final size; returns the square of what that multiplied it with.
  /// before, after: its energy before the trim and now.
  double settle(const view& t, double before, double after, rescale size) {
    // Below 100 roundings of its norm (one per trim and then some) a vector is noise: it is zero.
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

  /// Conflict and deviation of what is really merged: the trimmed, rescaled vectors.
  template <class Trim>
  void measure(Trim& trim, const std::vector<view>& t, const std::vector<double>& squares,
               index_t row) {
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
  layer_report& report_;
};

/// The trim of linear weights: by projection.
template <class Context>
class linear_trim {
  using matrix = typename Context::matrix;
  using view = typename Context::view;
  using const_view = typename Context::const_view;

 public:
  linear_trim(Context& c, const layer_problem<Context>& p, const cat_options& options,
              layer_report& report)
      : c_(c),
        p_(p),
        options_(options.linear),
        diagnostics_(options.diagnostics),
        report_(report) {}

  rescale size() const { return options_.size; }
  double rows(index_t k) const { return p_.statistics[at(k)].rows; }
  double energy(index_t k, const const_view& t) {
    return linear_energy(c_, p_.statistics[at(k)], t);
  }

  /// From what the trim took, V C, and the energy before it: with T' = T - V C,
  ///     ||X T'^T||^2 = ||X T^T||^2 - <X C^T, X (T + T')^T V>,
  /// products of a few rows. Where little is left, so that rounding would show, it is measured.
  double energy_left(index_t k, index_t i, const const_view& t, double square) {
    const double before = before_(k, i);
    const auto& [taken, sums] = taken_[at(i)];
    const double left = before - linear_product(c_, p_.statistics[at(k)], taken, sums);
    return left >= 0.1 * before ? square * left : energy(k, t);
  }

  void trim(index_t part, const std::vector<view>& t, const std::vector<double>& energies) {
    const auto bases = bases_of(part, t, energies);
    const index_t tasks = std::ssize(t);
    for (index_t k = 0; k < tasks; ++k)
      for (index_t l = 0; l < tasks; ++l) {
        const index_t narrow = (std::min)(c_.columns(bases[at(k)]), c_.columns(bases[at(l)]));
        if (narrow == 0) continue;
        auto product =
            c_.make(scalar_type::f64, c_.columns(bases[at(k)]), c_.columns(bases[at(l)]));
        c_.multiply(1, bases[at(k)], op::transpose, bases[at(l)], op::none, 0, product);
        const small_matrix cosines = c_.to_host(product);
        double squares = 0;
        for (index_t e = 0; e < cosines.size(); ++e)
          squares += cosines.data()[e] * cosines.data()[e];
        report_.overlap(k, l) += squares / static_cast<double>(narrow);
      }
    taken_ = std::vector<taken_part>(t.size());
    c_.concurrently(tasks, [&](index_t i) {
      std::vector<const_view> others;
      for (index_t k = 0; k < tasks; ++k)
        if (k != i) others.push_back(bases[at(k)]);
      const index_t size = c_.rows(t[at(i)]);
      if (options_.order == trim_order::sequential) {
        const compact_trim<Context> all(c_, others, size);
        take(all.v, all.u, i, t[at(i)]);
      } else {
        const auto joint = joint_basis(c_, others, size);
        take(joint, joint, i, t[at(i)]);
      }
    });
  }

 private:
  /// What a trim took of a vector T: T - V C.
  struct taken_part {
    matrix coefficients;  ///< C, m x d_in
    matrix sums;          ///< V^T (T + T'), likewise
  };

  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

  /// T_i -= V (U^T T_i); notes what diagnostics need.
  void take(const const_view& v, const const_view& u, index_t i, const view& t) {
    if (!diagnostics_) {
      remove_directions(c_, v, u, t);
      return;
    }
    auto& [coefficients, sums] = taken_[at(i)];
    sums = c_.make(compute_type(c_.type(t)), c_.columns(v), c_.columns(t));
    c_.multiply(1, v, op::transpose, t, op::none, 0, sums);
    coefficients = remove_directions(c_, v, u, t);
    c_.multiply(1, v, op::transpose, t, op::none, 1, sums);
  }

  /// B_k of every task, from the untrimmed vectors.
  std::vector<matrix> bases_of(index_t part, const std::vector<view>& t,
                               const std::vector<double>& energies) {
    std::vector<index_t> tasks;
    for (index_t k = 0; k < std::ssize(t); ++k) tasks.push_back(k);
    auto [gram, plan] = make_gram(c_, std::vector<const_view>(t.begin(), t.end()), p_.statistics,
                                  tasks, options_, energies, p_.names.who());
    if (diagnostics_) {
      before_ = Eigen::MatrixXd(std::ssize(t), std::ssize(t));
      c_.concurrently(std::ssize(t) * std::ssize(t), [&, &g = gram](index_t p) {
        const index_t i = p / std::ssize(t), k = p % std::ssize(t);
        before_(k, i) = g.shift_energy(k, i);
        report_.conflict_before(k, i) += before_(k, i);
      });
    }
    auto all = find_bases(c_, gram, tasks, options_, plan);
    std::vector<matrix> bases;
    for (const index_t k : tasks) {
      auto& found = all[at(k)];
      protection& taken = report_.protections.emplace_back();
      taken.part = part;
      taken.task = k;
      taken.eigenvalues = std::move(found.eigenvalues);
      taken.spectrum = std::move(found.spectrum);
      taken.magnitude = found.magnitude;
      taken.residual = found.residual;
      taken.positive = found.positive;
      taken.products = found.products;
      taken.way = found.way;
      bases.push_back(std::move(found.basis));
    }
    return bases;
  }

  Context& c_;
  const layer_problem<Context>& p_;
  const projection_options& options_;
  bool diagnostics_;
  layer_report& report_;
  Eigen::MatrixXd before_;         // ||X_k T_i^T||^2 of this part, untrimmed; for diagnostics
  std::vector<taken_part> taken_;  // from each vector of this part, likewise
};

/// The trim of scales and shifts: by masks.
template <class Context>
class mask_trim {
  using view = typename Context::view;
  using const_view = typename Context::const_view;

 public:
  mask_trim(Context& c, const layer_problem<Context>& p, const cat_options& options,
            layer_report& report)
      : c_(c), p_(p), options_(options), report_(report) {
    if (scale())
      for (const auto& s : p.statistics) moments_.push_back(second_moment(c, s));
    for (index_t k = 0; k < std::ssize(moments_); ++k)
      if (!c.all_finite(moments_[at(k)]))
        throw error(p.names.features(k) +
                    ": their squares overflow float64: divide the features of all tasks by one "
                    "power of two, which changes no mask");
  }

  rescale size() const { return scale() ? options_.scale.size : rescale::none; }
  double rows(index_t k) const { return scale() ? p_.statistics[at(k)].rows : 1; }
  double energy(index_t k, const const_view& t) {
    if (!scale()) return c_.squared_norm(t);
    return scale_energy(c_, moments_[at(k)], p_.statistics[at(k)].rows, t);
  }
  double energy_left(index_t k, index_t, const const_view& t, double) { return energy(k, t); }

  void trim(index_t part, const std::vector<view>& t, const std::vector<double>&) {
    const index_t tasks = std::ssize(t);
    const std::vector<const_view> vectors(t.begin(), t.end());
    if (options_.diagnostics)
      for (index_t k = 0; k < tasks; ++k)
        for (index_t i = 0; i < tasks; ++i)
          report_.conflict_before(k, i) += energy(k, vectors[at(i)]);
    std::vector<std::vector<index_t>> masks;  // all from the untrimmed vectors
    for (index_t k = 0; k < tasks; ++k) masks.push_back(mask(k, vectors));
    for (index_t k = 0; k < tasks; ++k) {
      const auto& mine = masks[at(k)];
      for (index_t l = 0; l < tasks; ++l) {
        std::vector<index_t> both;
        std::set_intersection(mine.begin(), mine.end(), masks[at(l)].begin(), masks[at(l)].end(),
                              std::back_inserter(both));
        const auto narrow = (std::min)(mine.size(), masks[at(l)].size());
        if (narrow > 0)
          report_.overlap(k, l) += static_cast<double>(both.size()) / static_cast<double>(narrow);
      }
      for (index_t i = 0; i < tasks; ++i)
        if (i != k) c_.zero_rows(mine, t[at(i)]);
      protection& taken = report_.protections.emplace_back();
      taken.part = part;
      taken.task = k;
      taken.coordinates = mine;
    }
  }

 private:
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  bool scale() const { return p_.kind == layer_kind::scale; }

  std::vector<index_t> mask(index_t k, const std::vector<const_view>& vectors) {
    if (!scale())
      return largest_positions(shift_scores(c_, k, vectors), top{options_.shift.count, true});
    const std::vector<const_view> moments(moments_.begin(), moments_.end());
    const auto scores = scale_scores(c_, k, vectors, moments, options_.scale.lambda);
    for (const double s : scores)
      if (!std::isfinite(s))
        throw error(p_.names.who() +
                    ": the scores of its coordinates overflow float64: divide the features of all "
                    "tasks by one power of two, which changes no mask");
    return largest_positions(scores, options_.scale.coordinates);
  }

  Context& c_;
  const layer_problem<Context>& p_;
  const cat_options& options_;
  layer_report& report_;
  std::vector<typename Context::matrix> moments_;
};

}  // namespace catmerge::detail
