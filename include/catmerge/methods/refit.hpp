// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <catmerge/merge/call.hpp>
#include <catmerge/numeric/diagonal.hpp>
#include <catmerge/numeric/gram_eigen.hpp>
#include <catmerge/numeric/positive_solve.hpp>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace catmerge {

/// The weight w_k of a task in a refit.
enum class refit_weighting {
  shift,  ///< 1 / ||X_k T_k^T||_F^2: the shift of every task counts alike
  rows    ///< 1: a task with more rows weighs more
};

/// Settings of a refit.
struct refit_options {
  /// mu relative to the mean eigenvalue of S, tr(S) / d_in: 0 is plain least squares.
  double anchor = 1;
  double own = 0.5;  ///< the share of the experts' own outputs in the target
  refit_weighting weighting = refit_weighting::shift;  ///< w_k
};

/// Throws catmerge::error for an anchor that is negative or not finite, and for a share outside
/// [0, 1].
inline void validate(const refit_options& options) {
  if (!(options.anchor >= 0) || !std::isfinite(options.anchor))
    throw error("refit: anchor must be a finite number that is not negative");
  if (!(options.own >= 0 && options.own <= 1)) throw error("refit: own must be from 0 to 1");
}

/// The rows of one task at a linear layer. Z_k and Y_k are of the same samples.
template <class Context>
struct refit_rows {
  typename Context::const_view inputs;    ///< Z_k, n_k x d_in: inputs in the network being merged
  typename Context::const_view outputs;   ///< Y_k, n_k x d_out: outputs of expert k, bias included
  typename Context::const_view features;  ///< X_k, any rows x d_in: inputs in expert k
};

/// A linear layer to refit.
template <class Context>
struct refit_problem {
  typename Context::const_view base;                  ///< W_0, d_out x d_in
  std::vector<typename Context::const_view> vectors;  ///< T_k, d_out x d_in, K of them
  std::vector<refit_rows<Context>> rows;              ///< one per task
  std::optional<typename Context::const_view> prior;  ///< tau_0, d_out x d_in; nothing: zero
  std::optional<typename Context::const_view> bias;   ///< b, d_out entries; nothing: zero
  /// ||X_k T_k^T||_F^2 of each task, if the caller has them; features are then not read.
  std::vector<double> energies{};
  std::string name = "refit";  ///< of the weight, in errors
};

namespace detail {

/// The least squares of one layer: the change of the prior, in double.
template <class Context>
class refit_solver {
  using matrix = typename Context::matrix;
  using view = typename Context::view;
  using const_view = typename Context::const_view;

 public:
  refit_solver(Context& c, const refit_problem<Context>& p, const refit_options& options)
      : c_(c),
        p_(p),
        options_(options),
        d_out_(c.rows(p.base)),
        d_in_(c.columns(p.base)),
        weights_(p.rows.size(), 1) {
    check();
    if (options.weighting == refit_weighting::shift) weigh();
  }

  /// Adds (C - tau_0 S)(S + mu I)^+ to tau. For fewer rows than d_in the equations are those of the
  /// weighted rows' products, Z Z^T in place of S = Z^T Z: Z (Z^T Z + mu I)^-1 = (Z Z^T + mu I)^-1
  /// Z.
  void add_to(const view& tau) {
    index_t all = 0;
    for (const auto& r : p_.rows) all += c_.rows(r.inputs);
    common_ = make(d_out_, d_in_);
    c_.axpy(-options_.own, p_.base, common_);
    if (p_.prior) c_.axpy(-1, *p_.prior, common_);
    const matrix change = all < d_in_ ? solve_rows(all) : solve_gram();
    c_.axpy(1, change, tau);
  }

 private:
  matrix make(index_t rows, index_t columns) { return c_.make(scalar_type::f64, rows, columns); }

  void check() {
    const auto need = [&](const const_view& v, index_t rows, index_t columns,
                          const std::string& what) {
      require_shape(c_, v, rows, columns, p_.name + ": " + what);
      if (!c_.all_finite(v)) throw error(p_.name + ": " + what + ": a value is not finite");
    };
    if (p_.vectors.empty()) throw error(p_.name + ": there are no task vectors");
    if (!p_.energies.empty() && p_.energies.size() != p_.vectors.size())
      throw error(p_.name + ": energies of " + std::to_string(p_.energies.size()) + " tasks for " +
                  std::to_string(p_.vectors.size()) + " task vectors");
    if (p_.rows.size() != p_.vectors.size())
      throw error(p_.name + ": rows of " + std::to_string(p_.rows.size()) + " tasks for " +
                  std::to_string(p_.vectors.size()) + " task vectors");
    for (std::size_t k = 0; k < p_.rows.size(); ++k) {
      const auto& r = p_.rows[k];
      const std::string of = " of task " + std::to_string(k);
      need(p_.vectors[k], d_out_, d_in_, "the task vector" + of);
      need(r.inputs, c_.rows(r.inputs), d_in_, "inputs" + of);
      if (options_.own > 0) need(r.outputs, c_.rows(r.inputs), d_out_, "outputs" + of);
      if (options_.weighting == refit_weighting::shift && p_.energies.empty())
        need(r.features, c_.rows(r.features), d_in_, "features" + of);
    }
    if (p_.prior) need(*p_.prior, d_out_, d_in_, "the prior");
    if (p_.bias) need(*p_.bias, d_out_, 1, "the bias");
  }

  /// w_k = min_i E_i / E_k, E_k = ||X_k T_k^T||^2: a common factor changes nothing. A task whose
  /// vector shifts nothing has no say.
  void weigh() {
    std::vector<double> energies = p_.energies;
    if (energies.empty())
      for (std::size_t k = 0; k < weights_.size(); ++k) energies.push_back(energy_of(k));
    double least = 0;
    for (const double energy : energies) {
      if (!std::isfinite(energy)) throw error(p_.name + ": a shift overflows float64");
      if (energy > 0 && (least == 0 || energy < least)) least = energy;
    }
    for (std::size_t k = 0; k < weights_.size(); ++k)
      weights_[k] = energies[k] > 0 ? least / energies[k] : 0;
  }

  double energy_of(std::size_t k) {
    const const_view x = p_.rows[k].features;
    auto shift = make(c_.rows(x), d_out_);
    c_.multiply(1, x, op::none, p_.vectors[k], op::transpose, 0, shift);
    return c_.squared_norm(shift);
  }

  /// R_k - Z_k tau_0^T with R_k = own (Y_k - 1 b^T - Z_k W_0^T) + (1 - own) Z_k T_k^T.
  void residual(std::size_t k, const view& r) {
    const auto& rows = p_.rows[k];
    c_.multiply(1, rows.inputs, op::none, common_, op::transpose, 0, r);
    if (options_.own < 1)
      c_.multiply(1 - options_.own, rows.inputs, op::none, p_.vectors[k], op::transpose, 1, r);
    if (options_.own == 0) return;
    c_.axpy(options_.own, rows.outputs, r);
    if (!p_.bias) return;
    auto ones = make(c_.rows(r), 1);
    c_.map(entry_function::at_least, 1, ones, ones);
    c_.multiply(-options_.own, ones, op::none, *p_.bias, op::transpose, 1, r);
  }

  /// y = y (gram + mu I)^-1, mu from the trace of S; for mu = 0 the pseudo-inverse. gram is
  /// overwritten.
  void divide(matrix& gram, double trace, const view& y) {
    const index_t n = c_.rows(gram);
    const double mu = options_.anchor * trace / static_cast<double>(d_in_);
    // The condition is at most d_in / anchor: with 1e-6 nine digits are left of a factorisation,
    // which takes a fifth of the time of eigenvalues.
    if (options_.anchor >= 1e-6) {
      auto shifted = make(n, n);
      c_.assign(gram, shifted);
      add_to_diagonal<Context>(c_, std::vector<double>(static_cast<std::size_t>(n), mu), shifted);
      if (divide_by_positive(c_, shifted, y)) return;
    }
    const auto pairs = eigen_of_gram(c_, gram, d_in_, c_.rows(gram));
    const index_t kept = std::ssize(pairs.values);
    if (kept == 0) return c_.scale(0, y);
    std::vector<double> values = pairs.values;
    for (double& l : values) l += mu;
    const view vectors = c_.slice(view(gram), 0, n, pairs.first, kept);
    c_.scale_columns(inverse_roots(values), vectors);
    auto along = make(c_.rows(y), kept);
    c_.multiply(1, y, op::none, vectors, op::none, 0, along);
    c_.multiply(1, along, op::none, vectors, op::transpose, 0, y);
  }

  matrix solve_rows(index_t all) {
    auto z = make(all, d_in_), r = make(all, d_out_), gram = make(all, all);
    index_t row = 0;
    for (std::size_t k = 0; k < p_.rows.size(); ++k) {
      const index_t n = c_.rows(p_.rows[k].inputs);
      const view mine = c_.slice(view(z), row, n, 0, d_in_),
                 target = c_.slice(view(r), row, n, 0, d_out_);
      c_.assign(p_.rows[k].inputs, mine);
      residual(k, target);
      c_.scale(std::sqrt(weights_[k]), mine);
      c_.scale(std::sqrt(weights_[k]), target);
      row += n;
    }
    common_ = {};
    const double trace = c_.squared_norm(z);
    if (trace == 0) return make(d_out_, d_in_);
    c_.multiply(1, z, op::none, z, op::transpose, 0, gram);
    auto back = make(d_out_, all);
    c_.transpose(r, back);
    r = {};
    divide(gram, trace, back);
    auto change = make(d_out_, d_in_);
    c_.multiply(1, back, op::none, z, op::none, 0, change);
    return change;
  }

  matrix solve_gram() {
    auto gram = make(d_in_, d_in_), target = make(d_out_, d_in_);
    double trace = 0;
    for (std::size_t k = 0; k < p_.rows.size(); ++k) {
      const const_view z = p_.rows[k].inputs;
      auto r = make(c_.rows(z), d_out_);
      residual(k, r);
      c_.multiply(weights_[k], z, op::transpose, z, op::none, 1, gram);
      c_.multiply(weights_[k], r, op::transpose, z, op::none, 1, target);
      trace += weights_[k] * c_.squared_norm(z);
    }
    common_ = {};
    if (trace > 0) divide(gram, trace, target);
    return target;
  }

  Context& c_;
  const refit_problem<Context>& p_;
  refit_options options_;
  index_t d_out_, d_in_;
  std::vector<double> weights_;
  matrix common_;  ///< -own W_0 - tau_0
};

}  // namespace detail

/// Refits one linear layer of a network that is being merged: the task vector near a prior by which
/// the layer, on the inputs that reach it there, does for every task what the expert's layer does.
/// With Z_k the inputs, Y_k the expert's outputs on the same samples, X_k the expert's inputs:
///
///     tau = argmin sum_k w_k ||Z_k tau^T - R_k||_F^2 + mu ||tau - tau_0||_F^2
///         = (C + mu tau_0)(S + mu I)^-1,   S = sum_k w_k Z_k^T Z_k,   C = sum_k w_k R_k^T Z_k
///     R_k = own (Y_k - 1 b^T - Z_k W_0^T) + (1 - own) Z_k T_k^T
///     w_k = 1 / ||X_k T_k^T||_F^2, or 1;   mu = anchor tr(S) / d_in
///
/// and theta = theta_0 + tau. For anchor = 0 it is the solution nearest to tau_0; gram_cut
/// (gram_eigen.hpp) decides which eigenvalues of S are zero. Published rules are settings:
///
/// - RegMean++ (Nguyen et al., 2025, arXiv 2508.03121): own = 0, anchor = 0, weights by rows, no
///   prior. Its S_k are means over rows: for tasks of unequal n_k divide Z_k by sqrt(n_k). Its code
///   also multiplies the entries of S_k off the diagonal by 0.95, for which there is no setting.
/// - LOT without a ridge (lot.hpp): the same with Z_k = X_k.
/// - FeatCal's weights (arXiv 2605.13030): own = a, and the prior rho (W_M - W_0) of another merge
///   W_M; weights by rows, and anchor = lambda d_in / tr(S) so that mu = lambda. Y_k = X_k W_k^T
///   has no bias. Divide Z_k and Y_k by the root of ||Z_k^T Z_k||_F.
///
/// This is the call for code that walks through a network: it takes handles of a context, and task
/// vectors that were formed before. refit() below takes tensors of any library.
///
/// Writes tau, d_out x d_in. Computes in double. Throws catmerge::error if shapes do not match, if
/// a value is not finite, and for options that validate refuses.
template <class Context>
void refit_linear(Context& c, const refit_problem<Context>& problem, const refit_options& options,
                  const typename Context::view& tau) {
  validate(options);
  detail::require_shape(c, tau, c.rows(problem.base), c.columns(problem.base),
                        problem.name + ": tau");
  detail::refit_solver<Context> solver(c, problem, options);
  if (problem.prior)
    c.assign(*problem.prior, tau);
  else
    c.assign(c.make(c.type(tau), c.rows(tau), c.columns(tau)), tau);
  solver.add_to(tau);
  if (!c.all_finite(tau)) throw error(problem.name + ": the refitted vector is not finite");
}

/// The rows, prior and bias of a call of refit(). It refers to tensors and copies none.
/// @code
/// refit_data{inputs, outputs, features}              // ranges, such as std::vector
/// refit_data{inputs, outputs, features, &prior}      // and a prior
/// refit_data{inputs, outputs, features, nullptr, &bias}
/// @endcode
/// (xtensor's views overload the operator &: take std::addressof.)
template <class Inputs, class Outputs, class Features, class Prior = void, class Bias = void>
struct refit_data {
  const Inputs& inputs;          ///< a range of K matrices Z_k, n_k x d_in
  const Outputs& outputs;        ///< a range of K, Y_k, n_k x d_out; for own = 0 not read, or empty
  const Features& features;      ///< a range of K, X_k, rows x d_in; by rows not read, or empty
  const Prior* prior = nullptr;  ///< tau_0, d_out x d_in; nothing: zero
  const Bias* bias = nullptr;    ///< b, d_out entries; nothing: zero
};
/// refit_data{...} without naming types.
template <class Inputs, class Outputs, class Features>
refit_data(const Inputs&, const Outputs&, const Features&) -> refit_data<Inputs, Outputs, Features>;
/// Likewise, with a prior.
template <class Inputs, class Outputs, class Features, class Prior>
refit_data(const Inputs&, const Outputs&, const Features&, const Prior*)
    -> refit_data<Inputs, Outputs, Features, Prior>;
/// Likewise, with a prior and a bias.
template <class Inputs, class Outputs, class Features, class Prior, class Bias>
refit_data(const Inputs&, const Outputs&, const Features&, const Prior*, const Bias*)
    -> refit_data<Inputs, Outputs, Features, Prior, Bias>;
/// Likewise, with a bias alone.
template <class Inputs, class Outputs, class Features, class Bias>
refit_data(const Inputs&, const Outputs&, const Features&, std::nullptr_t, const Bias*)
    -> refit_data<Inputs, Outputs, Features, void, Bias>;

namespace detail {

template <class Data>
inline constexpr bool is_refit_data = false;
template <class... Parts>
inline constexpr bool is_refit_data<refit_data<Parts...>> = true;

template <class Range, class Base>
constexpr bool require_rows() {
  static_assert(require_tensors<Range>());
  static_assert(require_matrix<element_t<Range>>());
  static_assert(require_same_domain<Base, element_t<Range>>());
  return true;
}

template <class Base, class Inputs, class Outputs, class Features, class Prior, class Bias>
constexpr bool require_parts(const refit_data<Inputs, Outputs, Features, Prior, Bias>*) {
  static_assert(require_rows<Inputs, Base>());
  static_assert(require_rows<Outputs, Base>());
  static_assert(require_rows<Features, Base>());
  if constexpr (!std::is_void_v<Prior>) {
    static_assert(require_matrix<Prior>());
    static_assert(require_same_domain<Base, Prior>());
  }
  if constexpr (!std::is_void_v<Bias>) {
    static_assert(require_vector<Bias>());
    static_assert(require_same_domain<Base, Bias>());
  }
  return true;
}

/// Stops compilation, with a sentence, for a call without rows or with rows of a wrong type.
template <class Data, class Base>
constexpr bool require_refit_data() {
  static_assert(is_refit_data<Data>,
                "catmerge: the rows are missing: (base, experts, refit_data{inputs, outputs, "
                "features}), three ranges with a matrix per task, n_k x d_in, n_k x d_out and rows "
                "x d_in, in the order of the experts");
  if constexpr (is_refit_data<Data>)
    static_assert(require_parts<Base>(static_cast<const Data*>(nullptr)));
  return true;
}

/// The refit as a method, for merge_one.
template <class Context>
struct refit_method {
  refit_problem<Context> given;  ///< without base and vectors
  refit_options options;

  static constexpr double factor() { return 1; }

  void combine(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
               const typename Context::view& tau, layer_report&) const {
    refit_problem<Context> problem = given;
    problem.base = p.base;
    problem.vectors.assign(vectors.begin(), vectors.end());
    refit_linear(c, problem, options, tau);
  }
};

struct refit_fn : braced_experts {
  using braced_experts::operator();

  template <class Base, class Experts, class Data, class Context>
  auto operator()(const Base& base, const Experts& experts, const Data& data,
                  const refit_options& options, Context& c) const {
    static_assert(require_call<layer_kind::linear, Base, Experts>());
    static_assert(require_refit_data<Data, Base>());
    static_assert(require_context_for<Context, Base>());
    refit_method<Context> method{
        given_of<Context>(data, read_all<Context>(experts).size(), options), options};
    layer_problem<Context> problem;
    problem.kind = layer_kind::linear;
    return merge_one(c, method, std::move(problem), base, experts);
  }

  template <class Base, class Experts, class Data>
  auto operator()(const Base& base, const Experts& experts, const Data& data,
                  const refit_options& options = {}) const {
    static_assert(require_call<layer_kind::linear, Base, Experts>());
    static_assert(require_refit_data<Data, Base>());
    auto c = context_of(base);
    return (*this)(base, experts, data, options, c);
  }

  template <class Base, class Experts>
  void operator()(const Base&, const Experts&) const {
    static_assert(require_refit_data<void, Base>());
  }

 private:
  template <class Context, class Inputs, class Outputs, class Features, class Prior, class Bias>
  static refit_problem<Context> given_of(
      const refit_data<Inputs, Outputs, Features, Prior, Bias>& data, std::size_t tasks,
      const refit_options& options) {
    validate(options);
    refit_problem<Context> p;
    const auto views = [&](const auto& range, const char* what) {
      auto list = read_all<Context>(range);
      if (list.size() != tasks)
        throw error(p.name + ": " + what + " of " + std::to_string(list.size()) + " tasks for " +
                    std::to_string(tasks) + " experts");
      return list;
    };
    for (const auto& z : views(data.inputs, "inputs")) p.rows.push_back({z, {}, {}});
    if (options.own > 0) {
      const auto outputs = views(data.outputs, "outputs");
      for (std::size_t k = 0; k < tasks; ++k) p.rows[k].outputs = outputs[k];
    }
    if (options.weighting == refit_weighting::shift) {
      const auto features = views(data.features, "features");
      for (std::size_t k = 0; k < tasks; ++k) p.rows[k].features = features[k];
    }
    if constexpr (!std::is_void_v<Prior>)
      if (data.prior != nullptr) p.prior = const_view_of(*data.prior);
    if constexpr (!std::is_void_v<Bias>)
      if (data.bias != nullptr) p.bias = const_view_of(*data.bias);
    return p;
  }
};

}  // namespace detail

/// The refit of one linear weight from tensors, as refit_linear: for code that has a matrix of its
/// own and no walk through a network.
/// @code
/// auto [merged, report] = refit(base, experts, refit_data{inputs, outputs, features});
/// refit(base, experts, refit_data{inputs, outputs, features, &prior, &bias}, options, context);
/// refit(base, experts, refit_data{inputs, none, none}, {0, 0, refit_weighting::rows});  //
/// RegMean++
/// @endcode
/// base: d_out x d_in; experts: a range of K of its shape; data: ranges of K matrices, Z_k n_k x
/// d_in, Y_k n_k x d_out and X_k any rows x d_in, in the order of the experts, and pointers to a
/// prior, d_out x d_in, and a bias, d_out entries; all in base's domain. Rows that the options do
/// not need (outputs for own = 0, features for weights by rows) may be an empty range.
///
/// Returns a merge_result, `merged` = theta_0 + tau, of base's family and compute type. Throws
/// catmerge::error if there are no experts, tasks or extents do not match, a value is not finite,
/// and for options as validate says.
inline constexpr detail::refit_fn refit{};

}  // namespace catmerge
