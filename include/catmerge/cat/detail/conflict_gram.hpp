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

namespace catmerge::detail {

/// One linear weight of all tasks, the input of the matrices G_k. Its views must outlive them.
template <class Context>
struct gram_problem {
  std::vector<typename Context::const_view> vectors;                  ///< T_i, each d_out x d_in
  std::vector<statistics_view<typename Context::domain>> statistics;  ///< one per task
  double lambda = 0;                       ///< the weight of the deviation
  row_weight weighting = row_weight::sum;  ///< of the rows in S_i
  std::vector<index_t> wanted{};           ///< the protected tasks k: one G_k for each
  std::vector<double> energies{};          ///< ||T_i||_F^2, if they are known
  std::string who = "conflict_gram";       ///< names the parameter in messages
};

/// True if feature shifts can be formed: all statistics are rows or a factor.
template <class Statistics>
bool has_rows(const std::vector<Statistics>& list) {
  for (const auto& s : list)
    if (s.form == statistics_form::gram) return false;
  return true;
}

/// The matrices G_k of one linear layer, whose leading eigenvectors are the removal bases. Eq. 8
/// for a projection Phi_k(T_i) = (I - B B^T) T_i is a constant minus tr(B^T G_k B) with, in the
/// stored layout (T_i d_out x d_in),
///
///     G_k = sum_{i != k} T_i (S_k - lambda S_i) T_i^T,   S_k = X_k^T X_k,
///
/// d_out x d_out, symmetric, indefinite. Only dense() forms it. Two classes multiply by it.
/// gram_by_shifts forms the feature shifts X_k T_i^T once: for few rows and many products.
/// gram_by_weights uses the T_i and S_i as they are: for many rows, or for Gram matrices. Both make
/// the products with several G_k together, since these share the T_i.
///
/// Entries of G_k are products of two features and two entries of weights. Products of floats are
/// made in float if float holds them (from some 1e-38 times extents to 1e36), else in double, which
/// holds them for all weights and features of float. A G_k outside double's range is an error.
template <class Context>
class conflict_gram {
 public:
  using matrix = typename Context::matrix;
  using view = typename Context::view;
  using const_view = typename Context::const_view;

  /// y = x G_k for blocks x and y, f64, b x d_out, every row a vector.
  struct task_product {
    index_t task;  ///< k, one of the protected
    const_view x;  ///< the block that is multiplied
    view y;        ///< the product
  };

  conflict_gram(const conflict_gram&) = delete;
  conflict_gram& operator=(const conflict_gram&) = delete;
  virtual ~conflict_gram() = default;

  /// The products of the list, each task at most once, made in f32 or f64.
  virtual void apply(const std::vector<task_product>& list, scalar_type arithmetic) = 0;

  /// G_k itself, f64, exactly symmetric up to rounding.
  virtual matrix dense(index_t k) = 0;

  /// ||X_k T_i^T||_F^2 for a protected k, summed over rows whatever the weighting.
  virtual double shift_energy(index_t k, index_t i) = 0;

  /// True if products are made from stacked feature shifts.
  virtual bool stacked() const = 0;

  /// The error of a zero eigenvalue by rounding, relative to the largest: eps of the type in which
  /// products are accumulated.
  virtual double rounding(scalar_type arithmetic) const {
    return arithmetic == scalar_type::f32
               ? static_cast<double>(std::numeric_limits<float>::epsilon())
               : std::numeric_limits<double>::epsilon();
  }

  /// d_out, the size of G_k.
  index_t size() const { return c_.rows(vectors_.front()); }

  /// The precision of G_k: f64 if a task vector is double, or if float does not hold the shifts.
  scalar_type type() const { return type_; }

  /// True if products in f32 keep float's precision: they neither overflow nor vanish.
  bool single() const { return single_; }

  /// True if searches for eigenvectors, which square residuals of 1e-8 ||G_k||, can be made in
  /// double. (The dense solver scales a matrix to the size of 1 first.)
  bool searchable() const { return searchable_; }

  /// G_k is a difference of two sums. This is the size of the larger one: trace / sqrt(d_out), at
  /// most its Frobenius norm. If the sums cancel, the remainder is small against this size, and
  /// noise. The first product with G_k estimates the trace (with an identity exactly, with a random
  /// block without bias); 0 before.
  double terms(index_t k) const { return terms_[at(k)]; }

 protected:
  using statistics = statistics_view<typename Context::domain>;

  conflict_gram(Context& c, gram_problem<Context> problem)
      : c_(c),
        vectors_(std::move(problem.vectors)),
        statistics_(std::move(problem.statistics)),
        lambda_(problem.lambda),
        weighting_(problem.weighting),
        wanted_(std::move(problem.wanted)),
        energies_(std::move(problem.energies)),
        terms_(vectors_.size(), 0),
        who_(std::move(problem.who)) {
    for (const auto& t : vectors_)
      if (c_.type(t) == scalar_type::f64) type_ = scalar_type::f64;
  }

  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  index_t tasks() const { return static_cast<index_t>(vectors_.size()); }
  index_t rows_of(index_t i) const { return c_.rows(statistics_[at(i)].data); }
  index_t d_in() const { return c_.columns(vectors_.front()); }

  /// ||T_i||_F^2.
  double vector_energy(index_t i) const {
    return energies_.empty() ? c_.squared_norm(vectors_[at(i)]) : energies_[at(i)];
  }
  /// A bound on ||S_i||: the squared norm of the rows.
  double input_energy(index_t i) const {
    const auto& s = statistics_[at(i)];
    const double squares = c_.squared_norm(s.data);
    return s.form == statistics_form::gram ? std::sqrt(squares) : squares;
  }
  /// The factor of S_i: 1, or 1/n for means (0 if there are no rows).
  double weight_of(index_t i) const {
    if (weighting_ == row_weight::sum) return 1;
    const double n = statistics_[at(i)].rows;
    return n > 0 ? 1 / n : 0;
  }

  /// Throws if a wanted G_k leaves double, or if its entries lose digits there. norms: those of the
  /// G_k, or somewhat more.
  void check_norms(const std::vector<double>& norms) {
    for (std::size_t j = 0; j < wanted_.size(); ++j) check_norm(wanted_[j], norms[j]);
  }

  /// Keeps the first estimate of the trace of the larger sum in G_k.
  void observe_trace(index_t k, double trace) {
    double& terms = terms_[at(k)];
    if (terms == 0) terms = trace / std::sqrt(static_cast<double>((std::max<index_t>)(size(), 1)));
  }
  /// Estimates that trace from a block x of `width` rows: gain and loss are tr(x A x^T) for the two
  /// sums A.
  void observe_block(index_t k, index_t width, double gain, double loss) {
    if (width == 0) return;
    observe_trace(
        k, (std::max)(gain, loss) * static_cast<double>(size()) / static_cast<double>(width));
  }

  Context& c_;
  std::vector<const_view> vectors_;
  std::vector<statistics> statistics_;
  double lambda_;
  row_weight weighting_;
  std::vector<index_t> wanted_;
  std::vector<double> energies_;  // of the vectors; empty if unknown
  std::vector<double> terms_;
  std::string who_;
  scalar_type type_ = scalar_type::f32;
  bool single_ = true, searchable_ = true;

 private:
  void check_norm(index_t k, double norm) {
    if (norm == 0) return;
    if (!(norm < 0x1p1000) || norm < 0x1p-960) {
      double weights = 0, inputs = 0;
      for (index_t i = 0; i < tasks(); ++i) {
        weights = (std::max)(weights, vector_energy(i));
        inputs = (std::max)(inputs, input_energy(i));
      }
      throw error(who_ + ": the matrix G_k of task " + std::to_string(k) +
                  (norm < 1 ? " vanishes in float64" : " overflows float64") +
                  ": its entries are products of two features and two entries of task vectors, "
                  "whose norms are " +
                  order_text(inputs) + " and " + order_text(weights) +
                  ": multiply the features of all tasks by one power of two, which changes no "
                  "direction");
    }
    // The range of squared residuals, 2^-54 of G_k's square, and of their sums over all extents.
    searchable_ = searchable_ && norm > 0x1p-450 && norm < 0x1p480;
  }

  /// The order of magnitude of the root of `squares`.
  static std::string order_text(double squares) {
    if (!std::isfinite(squares)) return "above 1e154";
    return squares > 0 ? "about 1e" + std::to_string(std::lround(std::log10(squares) / 2))
                       : "below 1e-154";
  }
};

}  // namespace catmerge::detail
