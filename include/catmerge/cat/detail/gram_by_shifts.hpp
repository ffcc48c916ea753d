// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/detail/conflict_gram.hpp>

namespace catmerge::detail {

/// Multiplies by G_k from the stacked feature shifts X_i T_i^T, rows of d_out entries: for few rows
/// and many products.
template <class Context>
class gram_by_shifts final : public conflict_gram<Context> {
  using base = conflict_gram<Context>;
  using typename base::const_view;
  using typename base::matrix;
  using typename base::task_product;
  using typename base::view;

 public:
  /// Forms the shifts. Throws catmerge::error for a Gram matrix among the statistics, and if a G_k
  /// leaves the range of double.
  gram_by_shifts(Context& c, gram_problem<Context> problem) : base(c, std::move(problem)) {
    if (!has_rows(statistics_))
      throw error("conflict_gram: feature shifts cannot be formed from a Gram matrix");
    this->check_norms(form_shifts());
  }

  void apply(const std::vector<task_product>& list, scalar_type arithmetic) override {
    c_.concurrently(std::ssize(list), [&](index_t j) {
      const auto& [k, given, result] = list[at(j)];
      auto x = c_.make(arithmetic, c_.rows(given), size());
      auto y = c_.make(arithmetic, c_.rows(given), size());
      c_.assign(given, x);
      const double gain = add_energy(1, shifts_by_others_[at(k)], x, y);
      const auto [before, after] = own_shifts_without(k);
      const double loss = add_energy(-lambda_, before, x, y) + add_energy(-lambda_, after, x, y);
      c_.assign(y, result);
      this->observe_block(k, c_.rows(given), gain, loss);
    });
  }

  matrix dense(index_t k) override {
    auto g = c_.make(scalar_type::f64, size(), size());
    const auto& others = shifts_by_others_[at(k)];
    c_.multiply(1, others, op::transpose, others, op::none, 0, g);
    double gain = c_.squared_norm(others), loss = 0;
    const auto [before, after] = own_shifts_without(k);
    for (const const_view& part : {before, after}) {
      c_.multiply(-lambda_, part, op::transpose, part, op::none, 1, g);
      loss += lambda_ * c_.squared_norm(part);
    }
    this->observe_trace(k, (std::max)(gain, loss));
    return g;
  }

  /// Costs no product if float holds the shifts.
  double shift_energy(index_t k, index_t i) override {
    const double weight = weight_of(k);
    if (weight == 0 || (!energies_.empty() && energies_[at(i)] == 0)) return 0;
    const double energy = i == k ? own_energy(k) : c_.squared_norm(shifts_of(k, i));
    if (type_ == scalar_type::f32 && !float_holds(energy, rows_of(k) * size(), d_in()))
      return linear_energy(c_, statistics_[at(k)], vectors_[at(i)]);
    return energy / weight;
  }

  bool stacked() const override { return true; }

  /// Shifts formed in float have errors of eps of float, which enter squared (1.4e-14, 64 times eps
  /// of double).
  double rounding(scalar_type arithmetic) const override {
    constexpr auto single = static_cast<double>(std::numeric_limits<float>::epsilon());
    if (arithmetic == scalar_type::f64 && type_ == scalar_type::f32) return single * single;
    return base::rounding(arithmetic);
  }

 private:
  /// sqrt(weight) X_{from} T_i^T, in the type of the weights. Only sums of its squares cancel
  /// later; these may be in double.
  void form_shift(index_t from, index_t i, const view& part) {
    c_.multiply(std::sqrt(weight_of(from)), statistics_[at(from)].data, op::none, vectors_[at(i)],
                op::transpose, 0, part);
  }

  /// Forms the shifts, in double if float does not hold them. Each wanted G_k is a difference of
  /// two sums: returns the size of the larger one.
  std::vector<double> form_shifts() {
    auto sizes = fill_shifts();
    if (type_ == scalar_type::f64) return sizes;
    std::vector<std::size_t> lost;  // positions in wanted_
    for (std::size_t j = 0; j < wanted_.size(); ++j)
      if (const index_t rows = c_.rows(own_shifts_) + c_.rows(shifts_by_others_[at(wanted_[j])]);
          !float_holds(sizes[j], rows * size(), d_in()) && !is_zero(wanted_[j]))
        lost.push_back(j);
    if (!lost.empty()) {
      type_ = scalar_type::f64;
      sizes = fill_shifts();
      if (std::all_of(lost.begin(), lost.end(), [&](std::size_t j) { return sizes[j] == 0; })) {
        type_ = scalar_type::f32;  // these shifts are zero in double, too: float was right
        sizes = fill_shifts();
      }
    }
    // In float, y += (x Y^T) Y squares the n shifts of Y and overflows above 2^128. Below 2^-126
    // each of n products has an error of 2^-150, and x G_k one of n sqrt(d_out) 2^-150. The size of
    // x G_k is that of the squared shifts over n. The error is below 2^-24 of this size above
    // `least`.
    for (std::size_t j = 0; j < wanted_.size(); ++j) {
      const auto n =
          static_cast<double>(c_.rows(own_shifts_) + c_.rows(shifts_by_others_[at(wanted_[j])]));
      const double least = n * n * std::sqrt(static_cast<double>(size())) * 0x1p-126;
      single_ = single_ && (sizes[j] == 0 || (sizes[j] > least && sizes[j] < 0x1p120));
    }
    return sizes;
  }

  /// True if G_k is zero because vectors or features are zero.
  bool is_zero(index_t k) const {
    for (index_t i = 0; i < tasks(); ++i)
      if (i != k && vector_energy(i) > 0 &&
          (input_energy(k) > 0 || (lambda_ > 0 && input_energy(i) > 0)))
        return false;
    return true;
  }

  /// Forms all shifts in type(). Returns the sizes of form_shifts.
  std::vector<double> fill_shifts() {
    own_shifts_ = c_.make(type(), first_row(tasks()), size());
    shifts_by_others_.resize(vectors_.size());
    for (const index_t k : wanted_)
      shifts_by_others_[at(k)] = c_.make(type(), (tasks() - 1) * rows_of(k), size());
    // In the order of experts: consecutive products find a weight in the cache.
    const index_t each = std::ssize(wanted_) + 1;
    c_.concurrently(tasks() * each, [&](index_t p) {
      const index_t i = p / each, k = p % each == 0 ? i : wanted_[at(p % each - 1)];
      if (p % each == 0)
        form_shift(i, i, c_.slice(view(own_shifts_), first_row(i), rows_of(i), 0, size()));
      else if (k != i)
        form_shift(k, i, shifts_of(k, i));
    });
    std::vector<double> own, sizes;
    for (index_t i = 0; i < tasks(); ++i) own.push_back(own_energy(i));
    for (const index_t k : wanted_) {
      double loss = 0;
      for (index_t i = 0; i < tasks(); ++i)
        if (i != k) loss += lambda_ * own[at(i)];  // 0 times infinity is NaN, as in G_k
      const double gain = c_.squared_norm(shifts_by_others_[at(k)]);
      sizes.push_back(gain < loss ? loss : gain + 0 * loss);
    }
    return sizes;
  }

  /// The weighted energy of task i's shifts of its own features.
  double own_energy(index_t i) {
    return c_.squared_norm(c_.slice(const_view(own_shifts_), first_row(i), rows_of(i), 0, size()));
  }

  /// The place of X_k T_i^T in shifts_by_others_[k].
  view shifts_of(index_t k, index_t i) {
    const index_t n = rows_of(k);
    return c_.slice(view(shifts_by_others_[at(k)]), (i < k ? i : i - 1) * n, n, 0, size());
  }

  index_t first_row(index_t k) const {
    index_t row = 0;
    for (index_t i = 0; i < k; ++i) row += rows_of(i);
    return row;
  }

  /// The rows X_i T_i^T of the tasks before and after k.
  std::pair<const_view, const_view> own_shifts_without(index_t k) {
    const index_t start = first_row(k), n = rows_of(k), all = c_.rows(own_shifts_);
    return {c_.slice(const_view(own_shifts_), 0, start, 0, size()),
            c_.slice(const_view(own_shifts_), start + n, all - start - n, 0, size())};
  }

  /// y += a (x Y^T) Y; returns |a| ||x Y^T||^2.
  double add_energy(double a, const const_view& rows, const const_view& x, const view& y) {
    if (c_.rows(rows) == 0 || a == 0) return 0;
    auto image = c_.make(c_.type(y), c_.rows(x), c_.rows(rows));
    c_.multiply(1, x, op::none, rows, op::transpose, 0, image);
    c_.multiply(a, image, op::none, rows, op::none, 1, y);
    return std::abs(a) * c_.squared_norm(image);
  }

  using base::at, base::d_in, base::input_energy, base::rows_of, base::size, base::tasks,
      base::type, base::vector_energy, base::weight_of;
  using base::c_, base::energies_, base::lambda_, base::single_, base::statistics_, base::type_,
      base::vectors_, base::wanted_;

  matrix own_shifts_;                     // X_i T_i^T of all i, one below the other
  std::vector<matrix> shifts_by_others_;  // of task k: X_k T_i^T of all i but k
};

}  // namespace catmerge::detail
