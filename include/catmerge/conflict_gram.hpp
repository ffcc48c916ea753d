// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/conflict.hpp>
#include <limits>
#include <optional>
#include <vector>

namespace catmerge {

/// How the rows of different tasks are weighed in G_k.
enum class row_weight {
  sum,  ///< X^T X as it is: a task with more rows weighs more
  mean  ///< X^T X / n
};

/// The matrices G_k of one linear layer, whose leading eigenvectors are the removal bases. Eq. 8
/// for a projection Phi_k(T_i) = (I - B B^T) T_i is a constant minus tr(B^T G_k B) with, in the
/// stored layout (T_i d_out x d_in),
///
///     G_k = sum_{i != k} T_i (S_k - lambda S_i) T_i^T,   S_k = X_k^T X_k,
///
/// d_out x d_out, symmetric, indefinite. It is never formed unless dense() is asked for. Two ways
/// of multiplying by it:
/// - `shifts`: from the stacked feature shifts X_k T_i^T, rows of d_out entries, formed once per k;
///   for few rows and many products;
/// - `weights`: T_i ((S_k - lambda S_i) (T_i^T v)), nothing formed; for many rows, or where there
///   are only Gram matrices.
template <class Context>
class conflict_gram {
  using matrix = typename Context::matrix;
  using view = typename Context::view;
  using const_view = typename Context::const_view;
  using statistics = statistics_view<typename Context::domain>;

 public:
  /// How products with G_k are made, see above.
  enum class way { shifts, weights };

  /// vectors: T_i, each d_out x d_in. list: statistics, one per task, fitting d_in. What both look
  /// at must outlive this. Throws catmerge::error where shifts are to be formed from a Gram matrix.
  conflict_gram(Context& c, std::vector<const_view> vectors, std::vector<statistics> list,
                double lambda, row_weight weight, way how)
      : c_(c),
        vectors_(std::move(vectors)),
        statistics_(std::move(list)),
        lambda_(lambda),
        weight_(weight),
        way_(how) {
    if (way_ == way::shifts && !has_rows(statistics_))
      throw error("conflict_gram: feature shifts cannot be formed from a Gram matrix");
    if (way_ == way::shifts)
      own_ = stack([](index_t) { return true; }, [](index_t i) { return i; });
  }

  /// Whether feature shifts can be formed: rows or a factor for every task.
  static bool has_rows(const std::vector<statistics>& list) {
    for (const auto& s : list)
      if (s.form == statistics_form::gram) return false;
    return true;
  }

  /// d_out, the size of G_k.
  index_t size() const { return c_.rows(vectors_.front()); }

  /// What rounding leaves of G_k, relative to its largest eigenvalue, where it should be zero: eps
  /// of double, in which it is accumulated. Shifts that were formed in float are off by eps of
  /// float each, and enter squared (1.4e-14, 64 times as much).
  double rounding() const {
    constexpr double single = std::numeric_limits<float>::epsilon();
    if (way_ == way::shifts)
      for (const auto& t : vectors_)
        if (compute_type(c_.type(t)) == scalar_type::f32) return single * single;
    return std::numeric_limits<double>::epsilon();
  }

  /// The size of the larger of the two sums of which G_k is the difference: trace / sqrt(d_out), at
  /// most its Frobenius norm. Where the sums cancel, what is left is small against this, and noise.
  /// The trace is estimated by the first block that G_k is multiplied with (exactly, where that is
  /// an identity; without bias, where it is random); 0 before.
  double terms() const { return terms_; }

  /// Chooses the task to protect. Until the next call everything below is about this k.
  void protect(index_t k) {
    k_ = k;
    terms_ = 0;
    if (way_ == way::shifts)
      others_ = stack([k](index_t i) { return i != k; }, [k](index_t) { return k; });
  }

  /// y = G_k x for f64 blocks of d_out x b.
  void apply(const_view x, view y) {
    c_.assign(c_.make(scalar_type::f64, size(), c_.columns(x)), y);  // zeros, whatever y held
    double gain = 0, loss = 0;
    if (way_ == way::weights) {
      apply_weights(x, y, gain, loss);
    } else {
      gain = add_energy(1, *others_, x, y);
      const auto [before, after] = own_without_k();
      loss = add_energy(-lambda_, before, x, y) + add_energy(-lambda_, after, x, y);
    }
    if (c_.columns(x) > 0)
      see_terms(std::max(gain, loss) * static_cast<double>(size()) /
                static_cast<double>(c_.columns(x)));
  }

  /// G_k itself, f64, exactly symmetric up to rounding.
  matrix dense() {
    auto g = c_.make(scalar_type::f64, size(), size());
    if (way_ == way::weights) {
      // By products with the columns of the identity, some at a time.
      constexpr index_t width = 256;
      for (index_t j = 0; j < size(); j += width) {
        const index_t n = std::min(width, size() - j);
        auto unit = c_.make(scalar_type::f64, size(), n);
        c_.from_host(Eigen::MatrixXd::Identity(n, n), c_.slice(view(unit), j, n, 0, n));
        apply(unit, c_.slice(view(g), 0, size(), j, n));
      }
      return g;
    }
    c_.multiply(1, *others_, op::transpose, *others_, op::none, 0, g);
    double gain = c_.squared_norm(*others_), loss = 0;
    const auto [before, after] = own_without_k();
    for (const const_view& part : {before, after}) {
      c_.multiply(-lambda_, part, op::transpose, part, op::none, 1, g);
      loss += lambda_ * c_.squared_norm(part);
    }
    see_terms(std::max(gain, loss));
    return g;
  }

  /// ||X_k T_i^T||_F^2, summed over rows whatever row_weight says. For i != k, k the task
  /// protected, and for i == k it costs no product where shifts are formed.
  double shift_energy(index_t i) {
    const auto& s = statistics_[at(k_)];
    if (way_ == way::weights) return detail::linear_energy(c_, s, vectors_[at(i)]);
    const double weight = weight_of(k_);
    if (weight == 0) return 0;
    const index_t n = c_.rows(s.data);
    if (i == k_)
      return c_.squared_norm(c_.slice(const_view(*own_), own_start(k_), n, 0, size())) / weight;
    return c_.squared_norm(c_.slice(const_view(*others_), (i < k_ ? i : i - 1) * n, n, 0, size())) /
           weight;
  }

 private:
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  index_t tasks() const { return static_cast<index_t>(vectors_.size()); }

  /// The factor of S_i: 1, or 1/n for means (0 where there are no rows).
  double weight_of(index_t i) const {
    if (weight_ == row_weight::sum) return 1;
    const double n = statistics_[at(i)].rows;
    return n > 0 ? 1 / n : 0;
  }

  /// sqrt(weight) X_{from(i)} T_i^T stacked over the tasks i that are chosen, f64. The products are
  /// made in the type of the weights; what cancels later, sums of their squares, is in double.
  template <class Chosen, class From>
  matrix stack(const Chosen& chosen, const From& from) {
    index_t total = 0;
    for (index_t i = 0; i < tasks(); ++i)
      if (chosen(i)) total += c_.rows(statistics_[at(from(i))].data);
    auto all = c_.make(scalar_type::f64, total, size());
    index_t row = 0;
    for (index_t i = 0; i < tasks(); ++i) {
      if (!chosen(i)) continue;
      const auto& x = statistics_[at(from(i))].data;
      const index_t n = c_.rows(x);
      const view part = c_.slice(view(all), row, n, 0, size());
      auto shifts = c_.make(compute_type(c_.type(vectors_[at(i)])), n, size());
      c_.multiply(1, x, op::none, vectors_[at(i)], op::transpose, 0, shifts);
      c_.assign(shifts, part);
      const double weight = weight_of(from(i));
      if (weight != 1) c_.scale(std::sqrt(weight), part);
      row += n;
    }
    return all;
  }

  index_t own_start(index_t k) const {
    index_t row = 0;
    for (index_t i = 0; i < k; ++i) row += c_.rows(statistics_[at(i)].data);
    return row;
  }

  /// The rows X_i T_i^T of the tasks before and after k.
  std::pair<const_view, const_view> own_without_k() {
    const index_t start = own_start(k_), n = c_.rows(statistics_[at(k_)].data),
                  all = c_.rows(*own_);
    return {c_.slice(const_view(*own_), 0, start, 0, size()),
            c_.slice(const_view(*own_), start + n, all - start - n, 0, size())};
  }

  void see_terms(double trace) {
    if (terms_ == 0) terms_ = trace / std::sqrt(static_cast<double>(std::max<index_t>(size(), 1)));
  }

  /// y += a Y^T (Y x); returns |a| tr(x^T Y^T Y x).
  double add_energy(double a, const_view rows, const_view x, view y) {
    if (c_.rows(rows) == 0 || a == 0) return 0;
    auto image = c_.make(scalar_type::f64, c_.rows(rows), c_.columns(x));
    c_.multiply(1, rows, op::none, x, op::none, 0, image);
    c_.multiply(a, rows, op::transpose, image, op::none, 1, y);
    return std::abs(a) * c_.squared_norm(image);
  }

  /// y += a S_i x for x of d_in x b; returns |a| tr(x^T S_i x).
  double add_gram(double a, index_t i, const_view x, view y) {
    const auto& s = statistics_[at(i)];
    a *= weight_of(i);
    if (a == 0) return 0;
    if (s.form != statistics_form::gram) return add_energy(a, s.data, x, y);
    auto image = c_.make(scalar_type::f64, c_.rows(x), c_.columns(x));
    c_.multiply(a, s.data, op::none, x, op::none, 0, image);
    c_.axpy(1, image, y);
    return std::abs(c_.dot(x, image));
  }

  void apply_weights(const_view x, view y, double& gain, double& loss) {
    for (index_t i = 0; i < tasks(); ++i) {
      if (i == k_) continue;
      const const_view t = vectors_[at(i)];
      auto down = c_.make(scalar_type::f64, c_.columns(t), c_.columns(x));
      auto across = c_.make(scalar_type::f64, c_.columns(t), c_.columns(x));
      c_.multiply(1, t, op::transpose, x, op::none, 0, down);
      gain += add_gram(1, k_, down, across);
      loss += add_gram(-lambda_, i, down, across);
      c_.multiply(1, t, op::none, across, op::none, 1, y);
    }
  }

  Context& c_;
  std::vector<const_view> vectors_;
  std::vector<statistics> statistics_;
  double lambda_;
  row_weight weight_;
  way way_;
  index_t k_ = -1;
  double terms_ = 0;
  std::optional<matrix> own_, others_;
};

}  // namespace catmerge
