// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/detail/conflict_gram.hpp>

namespace catmerge::detail {

/// Multiplies by G_k from the weights, T_i ((S_k - lambda S_i) (T_i^T v)), and forms no matrix: for
/// many rows, or for Gram matrices.
template <class Context>
class gram_by_weights final : public conflict_gram<Context> {
  using base = conflict_gram<Context>;
  using typename base::const_view;
  using typename base::matrix;
  using typename base::task_product;
  using typename base::view;

 public:
  /// Throws catmerge::error if a G_k leaves the range of double.
  gram_by_weights(Context& c, gram_problem<Context> problem) : base(c, std::move(problem)) {
    this->check_norms(set_scales());
  }

  /// Three rounds, each of which reads every T_i or every X_k once: d = x_k T_i and -lambda d S_i
  /// for all k at once; d S_k for all i at once; the sum times T_i^T for all k at once.
  void apply(const std::vector<task_product>& list, scalar_type arithmetic) override {
    const index_t n = std::ssize(list);
    bool first = false;  // true if a task's first block is here, which estimates terms()

    // The blocks lie one below the other. An expert's matrices hold every block but its own task's.
    std::vector<index_t> start{0}, own(vectors_.size(), n);
    for (index_t j = 0; j < n; ++j) {
      first = first || terms_[at(list[at(j)].task)] == 0;
      start.push_back(start.back() + c_.rows(list[at(j)].x));
      own[at(list[at(j)].task)] = j;
    }
    start.push_back(start.back());  // block n, of no rows, is the own block of a task without one
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
      down[at(i)] = c_.make(arithmetic, height(i), d_in());
      across[at(i)] = c_.make(arithmetic, height(i), d_in());
      c_.multiply(weight_scale_, x, op::none, vectors_[at(i)], op::none, 0, down[at(i)]);
      if (lambda_ != 0) images[at(i)] = add_gram(-lambda_, i, down[at(i)], across[at(i)]);
    });
    const double unscale = 1 / (weight_scale_ * row_scale_);
    c_.concurrently(n, [&](index_t j) {
      const index_t k = list[at(j)].task;
      auto x = c_.make(arithmetic, (tasks() - 1) * width(j), d_in());
      auto y = c_.make(arithmetic, (tasks() - 1) * width(j), d_in());
      const auto of_expert = [&](matrix& m, index_t i) {
        return c_.slice(view(m), (i < k ? i : i - 1) * width(j), width(j), 0, d_in());
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
        this->observe_block(k, width(j), unscale * unscale * energy_of(k, x, image),
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

  matrix dense(index_t k) override {
    // By products with the rows of the identity, some at a time.
    constexpr index_t width = 256;
    auto g = c_.make(scalar_type::f64, size(), size());
    terms_[at(k)] = 0;
    for (index_t j = 0; j < size(); j += width) {
      const index_t n = (std::min)(width, size() - j);
      auto unit = c_.make(scalar_type::f64, n, size());
      c_.from_host(small_matrix::Identity(n, n), c_.slice(view(unit), 0, n, j, n));
      apply({{k, unit, c_.slice(view(g), j, n, 0, size())}}, scalar_type::f64);
    }
    return g;
  }

  double shift_energy(index_t k, index_t i) override {
    return linear_energy(c_, statistics_[at(k)], vectors_[at(i)]);
  }

  bool stacked() const override { return false; }

 private:
  /// Sets the scales to powers of two near the inverse norms of weights and inputs. Products in
  /// float then neither overflow nor vanish, whatever the units. Returns a bound on each wanted
  /// G_k.
  std::vector<double> set_scales() {
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
    for (const index_t k : wanted_) {
      double bound = 0;
      for (index_t i = 0; i < tasks(); ++i)
        if (i != k)
          bound += weights[at(i)] *
                   (std::max)(weight_of(k) * inputs[at(k)], lambda_ * weight_of(i) * inputs[at(i)]);
      bounds.push_back(bound);
      // The four factors of a task may be smaller than the largest of all tasks. In float their
      // product still needs 24 bits above 2^-126. (Division by a number of rows takes at most
      // 2^40.)
      const double scaled = bound * std::pow(weight_scale_ * row_scale_, 2);
      single_ = single_ && (bound == 0 || scaled > 0x1p-60);
    }
    // Products in float round values stored in double to float before they are scaled.
    for (index_t i = 0; i < tasks(); ++i) {
      const auto& s = statistics_[at(i)];
      const double norm =
          s.form == statistics_form::gram ? inputs[at(i)] : std::sqrt(inputs[at(i)]);
      if (c_.type(s.data) == scalar_type::f64 && norm != 0)
        single_ = single_ && norm > static_cast<double>(d_in()) * 0x1p-126 && norm < 0x1p120;
    }
    return bounds;
  }

  /// y += a S_i x for the rows of x. Returns the image of x for energy_of.
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

  using base::at, base::d_in, base::input_energy, base::size, base::tasks, base::vector_energy,
      base::weight_of;
  using base::c_, base::lambda_, base::single_, base::statistics_, base::terms_, base::vectors_,
      base::wanted_;

  double weight_scale_ = 1, row_scale_ = 1;
};

}  // namespace catmerge::detail
