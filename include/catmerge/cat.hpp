// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/mask.hpp>
#include <catmerge/methods/task_arithmetic.hpp>

/// CAT Merging: Sun, Li, Geng, Li, "CAT Merging: A Training-Free Approach for Resolving Conflicts
/// in Model Merging", ICML 2025 (PMLR 267:57523-57543, arXiv 2505.06977).
///
///     theta = theta_0 + alpha sum_i T_i',   T_i' = T_i trimmed to protect every other task k != i
namespace catmerge {

/// What is done with weights that hold several linears one above the other (q, k, v).
enum class fused_weights {
  split,  ///< each is a linear with directions of its own
  whole   ///< one matrix, as a derivative of the authors' code has it
};

/// Every choice that the paper and the authors' code leave open or make differently. Defaults are
/// the paper's.
struct cat_options {
  double alpha = 0.4;
  projection_options linear{};
  scale_mask_options scale{};
  shift_mask_options shift{};
  fused_weights fused = fused_weights::split;
  /// Conflicts after the trim and deviations: they cost about as much as the bases.
  bool diagnostics = true;

  static cat_options paper() { return {}; }

  /// What a port of the authors' code to language models does: trimmed vectors are scaled back to
  /// their norm, ranks are taken whatever the sign of the eigenvalue or score, fused weights are
  /// one matrix. (It also takes X_k from the network theta_0 + alpha T_k: that is for whoever
  /// records the features. It takes the *smallest* eigenvalues, which raises Eq. 8 above not
  /// trimming at all: that is not copied.)
  static cat_options port() {
    cat_options o;
    o.linear.directions = top{4, false};
    o.linear.size = rescale::frobenius;
    o.scale.coordinates.positive_only = false;
    o.scale.size = rescale::frobenius;
    o.fused = fused_weights::whole;
    return o;
  }
};

inline void validate(const cat_options& options) {
  detail::validate(options.linear);
  detail::validate(options.scale);
  detail::validate(options.shift);
  if (!std::isfinite(options.alpha)) throw error("alpha must be a finite number");
}

namespace detail {

/// One parameter of every task on its way through CAT: vectors, trims, report.
template <class Context>
class cat_trim {
  using matrix = typename Context::matrix;
  using view = typename Context::view;
  using const_view = typename Context::const_view;

 public:
  cat_trim(Context& c, const layer_problem<Context>& p, const cat_options& options)
      : c_(c), p_(p), options_(options), tasks_(std::ssize(p.experts)) {
    report_.kind = p.kind;
    const bool any_double = c.type(p.base) == scalar_type::f64;
    for (index_t i = 0; i < tasks_; ++i) {
      const auto type = any_double ? scalar_type::f64 : compute_type(c.type(p.experts[at(i)]));
      auto t = c.make(type, c.rows(p.base), c.columns(p.base));
      c.subtract(p.experts[at(i)], p.base, t);
      report_.norm.push_back(std::sqrt(c.squared_norm(t)));
      if (!std::isfinite(report_.norm.back())) {
        check_finite(c, p, t);
        throw error(p.names.expert(i) + ": the norm of its task vector overflows float64");
      }
      vectors_.push_back(std::move(t));
    }
  }

  /// Trims every vector by the bases or masks of all the other tasks.
  void run() {
    report_.trimmed = true;
    report_.overlap = Eigen::MatrixXd::Zero(tasks_, tasks_);
    report_.deviation.assign(vectors_.size(), 0);
    if (options_.diagnostics) report_.conflict_before = report_.conflict_after = report_.overlap;
    for (index_t k = 0; k < tasks_; ++k)
      report_.rows.push_back(p_.kind == layer_kind::shift ? 1 : p_.statistics[at(k)].rows);
    if (p_.kind == layer_kind::scale)
      for (const auto& s : p_.statistics) moments_.push_back(second_moment(c_, s));

    const index_t parts = options_.fused == fused_weights::split ? p_.parts : 1;
    const index_t height = c_.rows(p_.base) / parts;
    std::vector<double> left(vectors_.size(), 0);  // energy of the trimmed vectors before rescaling
    for (index_t part = 0; part < parts; ++part) trim_part(part, part * height, height, left);
    report_.overlap /= static_cast<double>(parts);
    for (index_t i = 0; i < tasks_; ++i) {
      const double before = report_.norm[at(i)] * report_.norm[at(i)];
      report_.energy_removed.push_back(before > 0 ? std::max(0.0, 1 - left[at(i)] / before) : 0);
      if (before > 0 && left[at(i)] == 0) report_.emptied.push_back(i);
    }
  }

  /// out = base + alpha sum_i T_i', added in the order of the tasks.
  void combine(double alpha, view out) {
    auto sum = c_.make(compute_type(c_.type(out)), c_.rows(out), c_.columns(out));
    for (const auto& t : vectors_) c_.axpy(1, t, sum);
    c_.assign(p_.base, out);
    c_.axpy(alpha, sum, out);
    check_finite(c_, p_, out);
  }

  layer_report report() && { return std::move(report_); }

 private:
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

  void trim_part(index_t part, index_t row, index_t height, std::vector<double>& left) {
    std::vector<view> t;
    std::vector<double> before;
    for (auto& v : vectors_) {
      t.push_back(c_.slice(view(v), row, height, 0, c_.columns(p_.base)));
      before.push_back(c_.squared_norm(t.back()));
    }
    if (p_.kind == layer_kind::linear)
      trim_linear(part, t);
    else
      trim_masked(part, t);

    const auto size = p_.kind == layer_kind::linear  ? options_.linear.size
                      : p_.kind == layer_kind::scale ? options_.scale.size
                                                     : rescale::none;
    for (index_t i = 0; i < tasks_; ++i) {
      double after = c_.squared_norm(t[at(i)]);
      // Below 100 roundings of its norm (one per trim and then some) a vector is noise: it is zero.
      const double eps = c_.type(t[at(i)]) == scalar_type::f64
                             ? std::numeric_limits<double>::epsilon()
                             : std::numeric_limits<float>::epsilon();
      if (after <= before[at(i)] * 1e4 * eps * eps) {
        c_.scale(0, t[at(i)]);
        after = 0;
      }
      if (size == rescale::frobenius && after > 0)
        c_.scale(std::sqrt(before[at(i)] / after), t[at(i)]);
      left[at(i)] += after;
    }
    if (options_.diagnostics) measure(t, row, height);
  }

  void trim_linear(index_t part, const std::vector<view>& t) {
    std::vector<matrix> bases;
    {
      auto [gram, way] = make_gram(c_, std::vector<const_view>(t.begin(), t.end()), p_.statistics,
                                   options_.linear);
      for (index_t k = 0; k < tasks_; ++k) {
        gram.protect(k);
        if (options_.diagnostics)
          for (index_t i = 0; i < tasks_; ++i)
            report_.conflict_before(k, i) += gram.shift_energy(i);
        auto found = find_basis(c_, gram, options_.linear, way);
        protection taken;
        taken.part = part;
        taken.task = k;
        taken.eigenvalues = std::move(found.eigenvalues);
        taken.magnitude = found.magnitude;
        taken.residual = found.residual;
        taken.positive = found.positive;
        taken.way = found.way;
        report_.protections.push_back(std::move(taken));
        bases.push_back(std::move(found.basis));
      }
    }
    for (index_t k = 0; k < tasks_; ++k)
      for (index_t l = 0; l < tasks_; ++l) {
        const index_t narrow = std::min(c_.columns(bases[at(k)]), c_.columns(bases[at(l)]));
        if (narrow > 0)
          report_.overlap(k, l) += small_product(c_, bases[at(k)], bases[at(l)]).squaredNorm() /
                                   static_cast<double>(narrow);
      }
    for (index_t i = 0; i < tasks_; ++i) {
      if (options_.linear.order == trim_order::sequential) {
        for (index_t k = 0; k < tasks_; ++k)
          if (k != i) remove_directions(c_, bases[at(k)], t[at(i)]);
      } else {
        std::vector<const_view> others;
        for (index_t k = 0; k < tasks_; ++k)
          if (k != i) others.push_back(bases[at(k)]);
        remove_directions(c_, joint_basis(c_, others, c_.rows(t[at(i)])), t[at(i)]);
      }
    }
  }

  void trim_masked(index_t part, const std::vector<view>& t) {
    const std::vector<const_view> vectors(t.begin(), t.end());
    if (options_.diagnostics)
      for (index_t k = 0; k < tasks_; ++k)
        for (index_t i = 0; i < tasks_; ++i)
          report_.conflict_before(k, i) += energy(k, vectors[at(i)]);
    std::vector<std::vector<index_t>> masks;
    const std::vector<const_view> moments(moments_.begin(), moments_.end());
    for (index_t k = 0; k < tasks_; ++k) {
      if (p_.kind == layer_kind::scale)
        masks.push_back(
            largest_positions(scale_scores(c_, k, vectors, moments, options_.scale.lambda),
                              options_.scale.coordinates));
      else
        masks.push_back(
            largest_positions(shift_scores(c_, k, vectors), top{options_.shift.count, true}));
    }
    for (index_t k = 0; k < tasks_; ++k) {
      for (index_t l = 0; l < tasks_; ++l) {
        std::vector<index_t> both;
        std::set_intersection(masks[at(k)].begin(), masks[at(k)].end(), masks[at(l)].begin(),
                              masks[at(l)].end(), std::back_inserter(both));
        const auto narrow = std::min(masks[at(k)].size(), masks[at(l)].size());
        if (narrow > 0)
          report_.overlap(k, l) += static_cast<double>(both.size()) / static_cast<double>(narrow);
      }
      for (index_t i = 0; i < tasks_; ++i)
        if (i != k) c_.zero_rows(masks[at(k)], t[at(i)]);
      protection taken;
      taken.part = part;
      taken.task = k;
      taken.coordinates = masks[at(k)];
      report_.protections.push_back(std::move(taken));
    }
  }

  /// Conflict and deviation of what is really merged: the trimmed, rescaled vectors.
  void measure(const std::vector<view>& t, index_t row, index_t height) {
    const index_t width = c_.columns(p_.base);
    for (index_t i = 0; i < tasks_; ++i) {
      for (index_t k = 0; k < tasks_; ++k) report_.conflict_after(k, i) += energy(k, t[at(i)]);
      auto lost = c_.make(c_.type(t[at(i)]), height, width);
      c_.subtract(c_.slice(p_.experts[at(i)], row, height, 0, width),
                  c_.slice(p_.base, row, height, 0, width), lost);
      c_.axpy(-1, t[at(i)], lost);
      report_.deviation[at(i)] += energy(i, lost);
    }
  }

  /// ||Df(X_k; t)||^2 of a part of a vector.
  double energy(index_t k, const_view t) {
    if (p_.kind == layer_kind::linear) return linear_energy(c_, p_.statistics[at(k)], t);
    if (p_.kind == layer_kind::scale)
      return scale_energy(c_, moments_[at(k)], p_.statistics[at(k)].rows, t);
    return c_.squared_norm(t);
  }

  Context& c_;
  const layer_problem<Context>& p_;
  const cat_options& options_;
  index_t tasks_;
  std::vector<matrix> vectors_, moments_;
  layer_report report_;
};

}  // namespace detail

/// CAT Merging as a method (method.hpp): trims what has statistics, then sums. Parameters of kind
/// `other`, and linears and scales without statistics, become theta_0 + alpha sum_i T_i, and their
/// report says trimmed = false.
struct cat_method {
  cat_options options{};

  static constexpr bool needs_statistics(layer_kind kind) {
    return kind == layer_kind::linear || kind == layer_kind::scale;
  }

  template <class Context>
  layer_report merge(Context& c, const layer_problem<Context>& p,
                     typename Context::view out) const {
    const bool needs = needs_statistics(p.kind);
    if (p.kind == layer_kind::other || (needs && p.statistics.empty()))
      return task_arithmetic_method{options.alpha}.merge(c, p, out);
    if (p.kind == layer_kind::scale && p.parts != 1)
      throw error(p.names.who() + ": scales are never fused");
    if (needs) detail::check_finite_statistics(c, p);
    detail::cat_trim<Context> work(c, p, options);
    work.run();
    work.combine(options.alpha, out);
    return std::move(work).report();
  }
};

namespace detail {

/// cat_linear, cat_scale and cat_shift differ in the kind alone.
template <layer_kind Kind>
struct cat_fn {
  template <class Base, class Experts, class Features, class Context>
  auto operator()(const Base& base, const Experts& experts, const Features& features,
                  const cat_options& options, Context& c) const {
    static_assert(require_parameters<Base, Experts>());
    if constexpr (Kind == layer_kind::linear)
      static_assert(require_matrix<Base>());
    else if constexpr (tensor<Base>)
      static_assert(vector<Base>, "catmerge: a scale or a shift is a vector of d entries");
    validate(options);
    layer_problem<Context> problem;
    problem.kind = Kind;
    problem.statistics = as_statistics_list(features);
    return merge_one(c, cat_method{options}, std::move(problem), base, experts);
  }

  template <class Base, class Experts, class Features>
  requires(Kind != layer_kind::shift) auto operator()(const Base& base, const Experts& experts,
                                                      const Features& features,
                                                      const cat_options& options = {}) const {
    static_assert(require_parameters<Base, Experts>());
    context<domain_t<Base>> c;
    return (*this)(base, experts, features, options, c);
  }

  template <class Base, class Experts>
  requires(Kind == layer_kind::shift) auto operator()(const Base& base, const Experts& experts,
                                                      const cat_options& options = {}) const {
    static_assert(require_parameters<Base, Experts>());
    context<domain_t<Base>> c;
    return (*this)(base, experts, std::vector<statistics_view<domain_t<Base>>>{}, options, c);
  }
};

struct cat_group_fn {
  template <class Bases, class Experts, class Features, class Context>
  auto operator()(const Bases& bases, const Experts& experts, const Features& features,
                  const cat_options& options, Context& c) const {
    using Base = element_t<Bases>;
    std::vector<merge_result<result_t<Base>>> results;
    std::vector<std::vector<std::reference_wrapper<const element_t<element_t<Experts>>>>> by_weight;
    for (const auto& expert : experts) {
      std::size_t p = 0;
      for (const auto& weight : unwrap(expert)) {
        if (p == by_weight.size()) by_weight.emplace_back();
        by_weight[p++].push_back(std::cref(unwrap(weight)));
      }
    }
    std::size_t p = 0;
    for (const auto& base : bases) {
      if (p == by_weight.size())
        throw error("cat_group: the experts hold fewer weights than the base");
      results.push_back(
          cat_fn<layer_kind::linear>{}(unwrap(base), by_weight[p++], features, options, c));
    }
    if (p != by_weight.size())
      throw error("cat_group: the experts hold more weights than the base");
    return results;
  }

  template <class Bases, class Experts, class Features>
  auto operator()(const Bases& bases, const Experts& experts, const Features& features,
                  const cat_options& options = {}) const {
    static_assert(
        require_parameters<element_t<Bases>, std::vector<element_t<element_t<Experts>>>>());
    context<domain_t<element_t<Bases>>> c;
    return (*this)(bases, experts, features, options, c);
  }
};

}  // namespace detail

/// cat_linear(base, experts, features, options = paper): one linear weight, d_out x d_in.
///   experts   a range of K weights, d_out x d_in, of base's domain (std::reference_wrapper is
///   fine) features  a range of K: rows X_k, n_k x d_in, as they enter the layer, or their
///   statistics
/// Returns { merged, report }. Throws catmerge::error where shapes do not fit or a value is not
/// finite.
///
///     auto [merged, report] = catmerge::cat_linear(w0, std::vector{w1, w2}, std::vector{x1, x2});
inline constexpr detail::cat_fn<layer_kind::linear> cat_linear{};

/// cat_group(bases, experts, features, options = paper): linear weights that share their input,
/// such as q, k and v. bases: P weights; experts: for each of K tasks its P weights; features: one
/// entry per task, as for cat_linear. Returns one { merged, report } per weight.
inline constexpr detail::cat_group_fn cat_group{};

/// cat_scale(base, experts, features, options = paper): the scale of a normalisation, d entries;
/// features: rows n x d of the *normalised* input, or second moments.
inline constexpr detail::cat_fn<layer_kind::scale> cat_scale{};

/// cat_shift(base, experts, options = paper): a bias, d entries.
inline constexpr detail::cat_fn<layer_kind::shift> cat_shift{};

}  // namespace catmerge
