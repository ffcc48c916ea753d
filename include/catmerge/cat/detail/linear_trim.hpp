// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/detail/trimmed_vectors.hpp>
#include <catmerge/cat/projection.hpp>
#include <catmerge/merge/problem.hpp>

namespace catmerge::detail {

/// The trim of linear weights: by projection, off the bases that a rule finds.
template <class Context, class Bases>
class linear_trim final : public layer_trim<Context> {
  using matrix = typename Context::matrix;
  using view = typename Context::view;
  using const_view = typename Context::const_view;

 public:
  linear_trim(Context& c, const layer_problem<Context>& p, const cat_options& options,
              const Bases& rule, trim_report& report)
      : c_(c),
        p_(p),
        options_(options.linear),
        rule_(rule),
        diagnostics_(options.diagnostics),
        report_(report) {}

  rescale rescaling() const override { return options_.rescaling; }
  double rows(index_t k) const override { return p_.statistics[at(k)].rows; }
  double energy(index_t k, const const_view& t) override {
    return linear_energy(c_, p_.statistics[at(k)], t);
  }

  /// From the removed part V C and the energy before the trim: with T' = T - V C,
  ///     ||X T'^T||^2 = ||X T^T||^2 - <X C^T, X (T + T')^T V>,
  /// products of a few rows. If little energy is left, rounding would show, so it is measured.
  double energy_left(index_t k, index_t i, const const_view& t, double square) override {
    const double before = before_(k, i);
    const auto& [taken, sums] = taken_[at(i)];
    const double left = before - linear_product(c_, p_.statistics[at(k)], taken, sums);
    return left >= 0.1 * before ? square * left : energy(k, t);
  }

  void trim(index_t part, const std::vector<view>& t,
            const std::vector<double>& energies) override {
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
      project_off_all(c_, others, c_.rows(t[at(i)]), options_.order,
                      [&](const const_view& v, const const_view& u) { take(v, u, i, t[at(i)]); });
    });
  }

 private:
  /// The change of a vector T by one trim: T - V C.
  struct taken_part {
    matrix coefficients;  ///< C, m x d_in
    matrix sums;          ///< V^T (T + T'), m x d_in
  };

  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

  /// T_i -= V (U^T T_i); with diagnostics, keeps taken_[i].
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
    auto found = rule_(
        c_,
        removal_problem<Context>{
            {t.begin(), t.end()}, p_.statistics, energies, options_, diagnostics_, p_.names.who()});
    require_bases(found, c_.rows(t.front()), std::ssize(t));
    if (diagnostics_) {
      before_ = std::move(found.shifts);
      if (before_.size() == 0) before_ = measured_shifts(t);
      report_.conflict_before += before_;
    }
    std::vector<matrix> bases;
    for (index_t k = 0; k < std::ssize(t); ++k) {
      auto& result = found.of_task[at(k)];
      protection& taken = report_.protections.emplace_back();
      taken.part = part;
      taken.task = k;
      taken.eigenvalues = std::move(result.eigenvalues);
      taken.spectrum = std::move(result.spectrum);
      taken.magnitude = result.magnitude;
      taken.residual = result.residual;
      taken.positive = result.positive;
      taken.products = result.products;
      taken.solver = result.solver;
      taken.angle = result.angle;
      bases.push_back(std::move(result.basis));
    }
    return bases;
  }

  /// Entry (k, i): ||X_k T_i^T||^2.
  Eigen::MatrixXd measured_shifts(const std::vector<view>& t) {
    const index_t tasks = std::ssize(t);
    Eigen::MatrixXd shifts(tasks, tasks);
    c_.concurrently(tasks * tasks, [&](index_t p) {
      const index_t i = p / tasks, k = p % tasks;
      shifts(k, i) = energy(k, t[at(i)]);
    });
    return shifts;
  }

  /// Throws unless a rule has found one basis of d_out rows for every task.
  void require_bases(const removal_bases<Context>& found, index_t d_out, index_t tasks) {
    if (std::ssize(found.of_task) != tasks)
      throw error(p_.names.who() + ": the rule for removal bases found " +
                  std::to_string(found.of_task.size()) + " for " + std::to_string(tasks) +
                  " tasks");
    for (index_t k = 0; k < tasks; ++k) {
      const const_view basis = found.of_task[at(k)].basis;
      require_shape(c_, basis, d_out, c_.columns(basis),
                    p_.names.who() + ": the removal basis of '" + p_.names.task(k) + "'");
    }
  }

  Context& c_;
  const layer_problem<Context>& p_;
  const projection_options& options_;
  const Bases& rule_;
  bool diagnostics_;
  trim_report& report_;
  Eigen::MatrixXd before_;         // ||X_k T_i^T||^2 of this part, untrimmed; for diagnostics
  std::vector<taken_part> taken_;  // the change of each vector; for diagnostics
};

}  // namespace catmerge::detail
