// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/cat/options.hpp>
#include <catmerge/features/shift_energy.hpp>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace catmerge {

/// The matrices G_k of one linear layer, whose leading eigenvectors are the removal bases. Eq. 8
/// for a projection Phi_k(T_i) = (I - B B^T) T_i is a constant minus tr(B^T G_k B) with, in the
/// stored layout (T_i d_out x d_in),
///
///     G_k = sum_{i != k} T_i (S_k - lambda S_i) T_i^T,   S_k = X_k^T X_k,
///
/// d_out x d_out, symmetric, indefinite. It is never formed unless dense() is asked for. Two ways
/// of multiplying by it:
/// - `shifts`: from the stacked feature shifts X_k T_i^T, rows of d_out entries, formed once;
///   for few rows and many products;
/// - `weights`: T_i ((S_k - lambda S_i) (T_i^T v)), nothing formed; for many rows, or where there
///   are only Gram matrices.
///
/// Products with the G_k of several tasks are made together, since they share the T_i.
///
/// Entries of G_k have two features and two entries of weights as factors. Shifts of floats, and
/// products with them, are made in float while float holds them (from some 1e-38 times extents to
/// 1e36: see form_shifts and set_scales), and in double outside of that, which holds them for all
/// weights and features of float. A G_k that leaves double is an error.
template <class Context>
class conflict_gram {
  using matrix = typename Context::matrix;
  using view = typename Context::view;
  using const_view = typename Context::const_view;
  using statistics = statistics_view<typename Context::domain>;

 public:
  /// How products with G_k are made, see above.
  enum class way { shifts, weights };

  /// y = x G_k for blocks x and y, f64, b x d_out, every row a vector.
  struct task_product {
    index_t task;  ///< k, one of the protected
    const_view x;  ///< what is multiplied
    view y;        ///< where the product goes
  };

  /// vectors: T_i, each d_out x d_in. list: statistics, one per task, fitting d_in. What both look
  /// at must outlive this. wanted: the k whose G_k are asked for. energies: ||T_i||_F^2, if they
  /// are known. who: names the parameter in messages. Throws catmerge::error where shifts are to be
  /// formed from a Gram matrix, and where a G_k leaves the range of double.
  conflict_gram(Context& c, std::vector<const_view> vectors, std::vector<statistics> list,
                double lambda, row_weight weight, way how, const std::vector<index_t>& wanted,
                std::vector<double> energies = {}, const std::string& who = "conflict_gram")
      : c_(c),
        vectors_(std::move(vectors)),
        statistics_(std::move(list)),
        lambda_(lambda),
        weight_(weight),
        way_(how),
        energies_(std::move(energies)),
        terms_(vectors_.size(), 0) {
    for (const auto& t : vectors_)
      if (c_.type(t) == scalar_type::f64) type_ = scalar_type::f64;
    if (way_ == way::shifts && !has_rows(statistics_))
      throw error("conflict_gram: feature shifts cannot be formed from a Gram matrix");
    const auto sizes = way_ == way::shifts ? form_shifts(wanted) : set_scales(wanted);
    for (std::size_t j = 0; j < wanted.size(); ++j) look_at_size(wanted[j], sizes[j], who);
  }

  /// Whether feature shifts can be formed: rows or a factor for every task.
  static bool has_rows(const std::vector<statistics>& list) {
    for (const auto& s : list)
      if (s.form == statistics_form::gram) return false;
    return true;
  }

  /// Whether products are made from stacked feature shifts.
  bool stacked() const { return way_ == way::shifts; }

  /// d_out, the size of G_k.
  index_t size() const { return c_.rows(vectors_.front()); }

  /// f64 if a task vector is, or where float does not hold the shifts: what G_k is worth computing
  /// in.
  scalar_type type() const { return type_; }

  /// Whether products made in f32 keep what float holds of them.
  bool single() const { return single_; }

  /// Whether searches for eigenvectors, which square residuals of 1e-8 ||G_k||, can be made in
  /// double. (The dense solver brings a matrix to the size of 1 first.)
  bool searchable() const { return searchable_; }

  /// What rounding leaves of G_k, relative to its largest eigenvalue, where it should be zero: eps
  /// of what products are accumulated in. Shifts that were formed in float are off by eps of float
  /// each, and enter squared (1.4e-14, 64 times eps of double).
  double rounding(scalar_type arithmetic) const {
    constexpr double single = static_cast<double>(std::numeric_limits<float>::epsilon());
    if (arithmetic == scalar_type::f32) return single;
    if (way_ == way::shifts && type() == scalar_type::f32) return single * single;
    return std::numeric_limits<double>::epsilon();
  }

  /// The size of the larger of the two sums of which G_k is the difference: trace / sqrt(d_out), at
  /// most its Frobenius norm. Where the sums cancel, what is left is small against this, and noise.
  /// The trace is estimated by the first block that G_k is multiplied with (exactly, where that is
  /// an identity; without bias, where it is random); 0 before.
  double terms(index_t k) const { return terms_[at(k)]; }

  /// The products of the list, each task at most once, made in f32 or f64.
  void apply(const std::vector<task_product>& list, scalar_type arithmetic) {
    way_ == way::shifts ? apply_shifts(list, arithmetic) : apply_weights(list, arithmetic);
  }

  /// G_k itself, f64, exactly symmetric up to rounding.
  matrix dense(index_t k) {
    auto g = c_.make(scalar_type::f64, size(), size());
    if (way_ == way::weights) {
      // By products with the rows of the identity, some at a time.
      constexpr index_t width = 256;
      terms_[at(k)] = 0;
      for (index_t j = 0; j < size(); j += width) {
        const index_t n = (std::min)(width, size() - j);
        auto unit = c_.make(scalar_type::f64, n, size());
        c_.from_host(small_matrix::Identity(n, n), c_.slice(view(unit), 0, n, j, n));
        apply({{k, unit, c_.slice(view(g), j, n, 0, size())}}, scalar_type::f64);
      }
      return g;
    }
    const auto& others = others_[at(k)];
    c_.multiply(1, others, op::transpose, others, op::none, 0, g);
    double gain = c_.squared_norm(others), loss = 0;
    const auto [before, after] = own_without(k);
    for (const const_view& part : {before, after}) {
      c_.multiply(-lambda_, part, op::transpose, part, op::none, 1, g);
      loss += lambda_ * c_.squared_norm(part);
    }
    see_terms(k, (std::max)(gain, loss));
    return g;
  }

  /// ||X_k T_i^T||_F^2 for a protected k, summed over rows whatever row_weight says. Costs no
  /// product where shifts are formed.
  double shift_energy(index_t k, index_t i) {
    const auto& s = statistics_[at(k)];
    if (way_ == way::weights) return detail::linear_energy(c_, s, vectors_[at(i)]);
    const double weight = weight_of(k);
    if (weight == 0 || (!energies_.empty() && energies_[at(i)] == 0)) return 0;
    const double energy = i == k ? own_energy(k) : c_.squared_norm(shifts_of(k, i));
    if (type_ == scalar_type::f32 && !detail::float_holds(energy, rows_of(k) * size(), d_in()))
      return detail::linear_energy(c_, s, vectors_[at(i)]);
    return energy / weight;
  }

 private:
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  index_t tasks() const { return static_cast<index_t>(vectors_.size()); }
  index_t rows_of(index_t i) const { return c_.rows(statistics_[at(i)].data); }
  index_t d_in() const { return c_.columns(vectors_.front()); }

  double vector_energy(index_t i) const {
    return energies_.empty() ? c_.squared_norm(vectors_[at(i)]) : energies_[at(i)];
  }
  /// ||S_i||, at most: the squared norm of the rows.
  double input_energy(index_t i) const {
    const auto& s = statistics_[at(i)];
    const double squares = c_.squared_norm(s.data);
    return s.form == statistics_form::gram ? std::sqrt(squares) : squares;
  }

  /// Notes what can be done with a G_k of this norm, or somewhat less. Throws where it leaves
  /// double, or its entries lose digits there.
  void look_at_size(index_t k, double norm, const std::string& who) {
    if (norm == 0) return;
    if (!(norm < 0x1p1000) || norm < 0x1p-960) {
      double weights = 0, inputs = 0;
      for (index_t i = 0; i < tasks(); ++i) {
        weights = (std::max)(weights, vector_energy(i));
        inputs = (std::max)(inputs, input_energy(i));
      }
      throw error(who + ": the matrix G_k of task " + std::to_string(k) +
                  (norm < 1 ? " vanishes in float64" : " overflows float64") +
                  ": its entries are products of two features and two entries of task vectors, "
                  "whose norms are " +
                  order_text(inputs) + " and " + order_text(weights) +
                  ": multiply the features of all tasks by one power of two, which changes no "
                  "direction");
    }
    // The squares of residuals, 2^-54 of G_k's square, and sums of such over all extents.
    searchable_ = searchable_ && norm > 0x1p-450 && norm < 0x1p480;
  }

  /// The order of magnitude of a root.
  static std::string order_text(double squares) {
    if (!std::isfinite(squares)) return "above 1e154";
    return squares > 0 ? "about 1e" + std::to_string(std::lround(std::log10(squares) / 2))
                       : "below 1e-154";
  }

  /// The factor of S_i: 1, or 1/n for means (0 where there are no rows).
  double weight_of(index_t i) const {
    if (weight_ == row_weight::sum) return 1;
    const double n = statistics_[at(i)].rows;
    return n > 0 ? 1 / n : 0;
  }

  void see_terms(index_t k, double trace) {
    double& terms = terms_[at(k)];
    if (terms == 0) terms = trace / std::sqrt(static_cast<double>((std::max<index_t>)(size(), 1)));
  }

  // --- shifts

  /// sqrt(weight) X_{from} T_i^T, in the type of the weights: what cancels later, sums of their
  /// squares, may be in double.
  void form(index_t from, index_t i, const view& part) {
    c_.multiply(std::sqrt(weight_of(from)), statistics_[at(from)].data, op::none, vectors_[at(i)],
                op::transpose, 0, part);
  }

  /// Forms the shifts, in double where float does not hold them. Returns the size of each wanted
  /// G_k: of the larger of the two sums that it is the difference of.
  std::vector<double> form_shifts(const std::vector<index_t>& wanted) {
    auto sizes = fill_shifts(wanted);
    if (type_ == scalar_type::f64) return sizes;
    std::vector<std::size_t> lost;  // positions in wanted
    for (std::size_t j = 0; j < wanted.size(); ++j)
      if (const index_t rows = c_.rows(own_) + c_.rows(others_[at(wanted[j])]);
          !detail::float_holds(sizes[j], rows * size(), d_in()) && !is_zero(wanted[j]))
        lost.push_back(j);
    if (!lost.empty()) {
      type_ = scalar_type::f64;
      sizes = fill_shifts(wanted);
      if (std::all_of(lost.begin(), lost.end(), [&](std::size_t j) { return sizes[j] == 0; })) {
        type_ = scalar_type::f32;  // vectors and features that never meet: float was right
        sizes = fill_shifts(wanted);
      }
    }
    // Squares of shifts, in float, for n sums of n products, y += (x Y^T) Y: infinite above 2^128.
    // Below 2^-126 each of n products is off by 2^-150, an x G_k by sqrt(d_out) times n of that,
    // while its size is that of the shifts, squared, over their number: small against 2^-24 of
    // that above the least.
    for (std::size_t j = 0; j < wanted.size(); ++j) {
      const auto n = static_cast<double>(c_.rows(own_) + c_.rows(others_[at(wanted[j])]));
      const double least = n * n * std::sqrt(static_cast<double>(size())) * 0x1p-126;
      single_ = single_ && (sizes[j] == 0 || (sizes[j] > least && sizes[j] < 0x1p120));
    }
    return sizes;
  }

  /// Whether G_k is zero because vectors or features are.
  bool is_zero(index_t k) const {
    for (index_t i = 0; i < tasks(); ++i)
      if (i != k && vector_energy(i) > 0 &&
          (input_energy(k) > 0 || (lambda_ > 0 && input_energy(i) > 0)))
        return false;
    return true;
  }

  /// own_: X_i T_i^T of all i; others_[k]: X_k T_i^T of all i but k.
  std::vector<double> fill_shifts(const std::vector<index_t>& wanted) {
    own_ = c_.make(type(), own_start(tasks()), size());
    others_.resize(vectors_.size());
    for (const index_t k : wanted)
      others_[at(k)] = c_.make(type(), (tasks() - 1) * rows_of(k), size());
    // By experts: what one thread reads of a weight the next product finds in a cache.
    const index_t each = std::ssize(wanted) + 1;
    c_.concurrently(tasks() * each, [&](index_t p) {
      const index_t i = p / each, k = p % each == 0 ? i : wanted[at(p % each - 1)];
      if (p % each == 0)
        form(i, i, c_.slice(view(own_), own_start(i), rows_of(i), 0, size()));
      else if (k != i)
        form(k, i, shifts_of(k, i));
    });
    std::vector<double> own, sizes;
    for (index_t i = 0; i < tasks(); ++i) own.push_back(own_energy(i));
    for (const index_t k : wanted) {
      double loss = 0;
      for (index_t i = 0; i < tasks(); ++i)
        if (i != k) loss += lambda_ * own[at(i)];  // 0 times infinity is no number, nor is G_k
      const double gain = c_.squared_norm(others_[at(k)]);
      sizes.push_back(gain < loss ? loss : gain + 0 * loss);
    }
    return sizes;
  }

  /// The energy of what own_ has of task i, weighted.
  double own_energy(index_t i) {
    return c_.squared_norm(c_.slice(const_view(own_), own_start(i), rows_of(i), 0, size()));
  }

  /// Where others_[k] has X_k T_i^T.
  view shifts_of(index_t k, index_t i) {
    const index_t n = rows_of(k);
    return c_.slice(view(others_[at(k)]), (i < k ? i : i - 1) * n, n, 0, size());
  }

  index_t own_start(index_t k) const {
    index_t row = 0;
    for (index_t i = 0; i < k; ++i) row += rows_of(i);
    return row;
  }

  /// The rows X_i T_i^T of the tasks before and after k.
  std::pair<const_view, const_view> own_without(index_t k) {
    const index_t start = own_start(k), n = rows_of(k), all = c_.rows(own_);
    return {c_.slice(const_view(own_), 0, start, 0, size()),
            c_.slice(const_view(own_), start + n, all - start - n, 0, size())};
  }

  /// y += a (x Y^T) Y; returns |a| ||x Y^T||^2.
  double add_energy(double a, const const_view& rows, const const_view& x, const view& y) {
    if (c_.rows(rows) == 0 || a == 0) return 0;
    auto image = c_.make(c_.type(y), c_.rows(x), c_.rows(rows));
    c_.multiply(1, x, op::none, rows, op::transpose, 0, image);
    c_.multiply(a, image, op::none, rows, op::none, 1, y);
    return std::abs(a) * c_.squared_norm(image);
  }

  void apply_shifts(const std::vector<task_product>& list, scalar_type arithmetic) {
    c_.concurrently(std::ssize(list), [&](index_t j) {
      const auto& [k, given, result] = list[at(j)];
      auto x = c_.make(arithmetic, c_.rows(given), size());
      auto y = c_.make(arithmetic, c_.rows(given), size());
      c_.assign(given, x);
      const double gain = add_energy(1, others_[at(k)], x, y);
      const auto [before, after] = own_without(k);
      const double loss = add_energy(-lambda_, before, x, y) + add_energy(-lambda_, after, x, y);
      c_.assign(y, result);
      see_block(k, c_.rows(given), gain, loss);
    });
  }

  void see_block(index_t k, index_t width, double gain, double loss) {
    if (width > 0)
      see_terms(k,
                (std::max)(gain, loss) * static_cast<double>(size()) / static_cast<double>(width));
  }

  // --- weights

  /// Powers of two near the inverse norms of weights and inputs: products in float then neither
  /// overflow nor vanish, however the units were chosen. Returns a bound on each wanted G_k.
  std::vector<double> set_scales(const std::vector<index_t>& wanted) {
    const auto inverse = [](double squares) {
      return squares > 0 && std::isfinite(squares) ? std::exp2(-std::ilogb(squares) / 2) : 1.0;
    };
    std::vector<double> weights, inputs;
    double largest = 0, rows = 0;
    for (index_t i = 0; i < tasks(); ++i) {
      weights.push_back(vector_energy(i));
      inputs.push_back(input_energy(i));
      largest = (std::max)(largest, weights.back());
      rows = (std::max)(rows, inputs.back());
    }
    weight_scale_ = inverse(largest);
    row_scale_ = inverse(rows);

    std::vector<double> bounds;
    for (const index_t k : wanted) {
      double bound = 0;
      for (index_t i = 0; i < tasks(); ++i)
        if (i != k)
          bound += weights[at(i)] *
                   (std::max)(weight_of(k) * inputs[at(k)], lambda_ * weight_of(i) * inputs[at(i)]);
      bounds.push_back(bound);
      // In float four factors of one task, smaller than the largest of all tasks together, still
      // need 24 bits above 2^-126. (A number of rows to divide by takes no more than 2^40.)
      const double scaled = bound * std::pow(weight_scale_ * row_scale_, 2);
      single_ = single_ && (bound == 0 || scaled > 0x1p-60);
    }
    // What is stored in double is rounded to float by products in float, before it is scaled.
    for (index_t i = 0; i < tasks(); ++i) {
      const auto& s = statistics_[at(i)];
      const double size =
          s.form == statistics_form::gram ? inputs[at(i)] : std::sqrt(inputs[at(i)]);
      if (c_.type(s.data) == scalar_type::f64 && size != 0)
        single_ = single_ && size > static_cast<double>(d_in()) * 0x1p-126 && size < 0x1p120;
    }
    return bounds;
  }

  /// y += a S_i x for the rows of x. Returns what energy_of needs of it.
  matrix add_gram(double a, index_t i, const const_view& x, const view& y) {
    const auto& s = statistics_[at(i)];
    const double factor = a * weight_of(i), r = row_scale_;
    auto image = c_.make(c_.type(y), c_.rows(x), c_.rows(s.data));
    if (s.form == statistics_form::gram) {
      c_.multiply(r * r, x, op::none, s.data, op::none, 0, image);
      c_.axpy(factor, image, y);
    } else {
      c_.multiply(r, x, op::none, s.data, op::transpose, 0, image);
      c_.multiply(factor * r, image, op::none, s.data, op::none, 1, y);
    }
    return image;
  }

  /// tr(x S_i x^T) for some rows of an x and its image.
  double energy_of(index_t i, const const_view& x, const const_view& image) {
    const bool gram = statistics_[at(i)].form == statistics_form::gram;
    return weight_of(i) * (gram ? std::abs(c_.dot(x, image)) : c_.squared_norm(image));
  }

  /// In three rounds, of which each reads every T_i or every X_k once: x_k T_i for all k at once;
  /// S_k of what came of it for all i at once; that T_i^T for all k at once.
  void apply_weights(const std::vector<task_product>& list, scalar_type arithmetic) {
    const index_t d_in = this->d_in(), n = std::ssize(list);
    bool first = false;  // a block of every task is looked at for the size of its terms

    // The blocks one below the other. Every expert's matrices have all but its own task's.
    std::vector<index_t> start{0}, own(vectors_.size(), n);
    for (index_t j = 0; j < n; ++j) {
      first = first || terms_[at(list[at(j)].task)] == 0;
      start.push_back(start.back() + c_.rows(list[at(j)].x));
      own[at(list[at(j)].task)] = j;
    }
    start.push_back(start.back());  // an expert whose task has no block has block n, of no rows
    const auto width = [&](index_t j) { return start[at(j + 1)] - start[at(j)]; };
    const auto height = [&](index_t i) { return start.back() - width(own[at(i)]); };
    const auto block = [&](matrix& m, index_t i, index_t j) {  // block j in a matrix of expert i
      const index_t row = start[at(j)] - (own[at(i)] < j ? width(own[at(i)]) : 0);
      return c_.slice(view(m), row, width(j), 0, c_.columns(view(m)));
    };

    const std::size_t experts = vectors_.size();
    std::vector<matrix> down(experts), across(experts), images(experts), up(experts);
    c_.concurrently(tasks(), [&](index_t i) {
      auto x = c_.make(arithmetic, height(i), size());
      for (index_t j = 0; j < n; ++j)
        if (j != own[at(i)]) c_.assign(list[at(j)].x, block(x, i, j));
      down[at(i)] = c_.make(arithmetic, height(i), d_in);
      across[at(i)] = c_.make(arithmetic, height(i), d_in);
      c_.multiply(weight_scale_, x, op::none, vectors_[at(i)], op::none, 0, down[at(i)]);
      if (lambda_ != 0) images[at(i)] = add_gram(-lambda_, i, down[at(i)], across[at(i)]);
    });
    const double unscale = 1 / (weight_scale_ * row_scale_);
    c_.concurrently(n, [&](index_t j) {
      const index_t k = list[at(j)].task;
      auto x = c_.make(arithmetic, (tasks() - 1) * width(j), d_in);
      auto y = c_.make(arithmetic, (tasks() - 1) * width(j), d_in);
      const auto of_expert = [&](matrix& m, index_t i) {
        return c_.slice(view(m), (i < k ? i : i - 1) * width(j), width(j), 0, d_in);
      };
      double loss = 0;
      for (index_t i = 0; i < tasks(); ++i)
        if (i != k) {
          const auto mine = block(down[at(i)], i, j);
          c_.assign(mine, of_expert(x, i));
          if (first && lambda_ != 0) loss += energy_of(i, mine, block(images[at(i)], i, j));
        }
      const auto image = add_gram(1, k, x, y);
      for (index_t i = 0; i < tasks(); ++i)
        if (i != k) c_.axpy(1, of_expert(y, i), block(across[at(i)], i, j));
      if (first)
        see_block(k, width(j), unscale * unscale * energy_of(k, x, image),
                  unscale * unscale * lambda_ * loss);
    });
    c_.concurrently(tasks(), [&](index_t i) {
      up[at(i)] = c_.make(arithmetic, height(i), size());
      c_.multiply(weight_scale_, across[at(i)], op::none, vectors_[at(i)], op::transpose, 0,
                  up[at(i)]);
    });
    c_.concurrently(n, [&](index_t j) {
      const auto& [k, x, y] = list[at(j)];
      c_.scale(0, y);
      for (index_t i = 0; i < tasks(); ++i)
        if (i != k) c_.axpy(1, block(up[at(i)], i, j), y);
      c_.scale(unscale * unscale, y);
    });
  }

  Context& c_;
  std::vector<const_view> vectors_;
  std::vector<statistics> statistics_;
  double lambda_;
  row_weight weight_;
  way way_;
  std::vector<double> energies_;  // of the vectors; empty where they are not known
  std::vector<double> terms_;
  scalar_type type_ = scalar_type::f32;
  bool single_ = true, searchable_ = true;
  matrix own_;                               // of the way of shifts
  std::vector<matrix> others_;               // likewise, one per task
  double weight_scale_ = 1, row_scale_ = 1;  // of the way of weights
};

}  // namespace catmerge
