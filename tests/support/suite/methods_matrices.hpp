// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Cholesky>
#include <Eigen/QR>
#include <Eigen/SVD>
#include <algorithm>
#include <catmerge/methods/dc_merge.hpp>
#include <catmerge/methods/iso.hpp>
#include <catmerge/methods/lot.hpp>
#include <catmerge/methods/lot_around.hpp>
#include <catmerge/methods/refit.hpp>
#include <catmerge/methods/regmean.hpp>
#include <catmerge/methods/svc.hpp>
#include <catmerge/methods/task_arithmetic.hpp>
#include <catmerge/methods/tsv_m.hpp>
#include <catmerge/methods/wudi.hpp>
#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "support/suite/algorithms.hpp"

/// The methods on matrices, LOT, the refit, RegMean, TSV-M, Iso-C, Iso-CTS, WUDI, SWUDI, ASWUDI,
/// ACTMat, SVC and DC-Merge, written a second time: by least squares and singular value
/// decompositions, where the library has eigenvectors of Gram matrices.
namespace test::matrices {

using dense = Eigen::MatrixXd;
using list = std::vector<dense>;

/// A merged task vector, and how far rounding in double may move it (its Frobenius norm).
struct expected {
  dense tau;
  double slack = 0;
};

inline dense sum_of(const list& t) {
  dense sum = dense::Zero(t[0].rows(), t[0].cols());
  for (const auto& x : t) sum += x;
  return sum;
}

/// The smallest w that minimises sum_k ||A_k (w - w_k)^T||^2, all A_k and their right-hand sides
/// one above the other. Normal equations M S^+, as the library has them, are off by d eps (||dM||
/// ||S^+|| + ||w|| cond(S)) where the terms of M are as large as ||w_k|| ||A_k||^2; what a kept
/// direction is must be clear: singular values below 1e-6 of the largest count as zero here.
inline expected least_squares(const list& a, const list& w) {
  index_t rows = 0;
  for (const auto& x : a) rows += x.rows();
  dense left(rows, w[0].cols()), right(rows, w[0].rows());
  double terms = 0;
  for (std::size_t k = 0, row = 0; k < a.size(); row += static_cast<std::size_t>(a[k++].rows())) {
    left.middleRows(static_cast<index_t>(row), a[k].rows()) = a[k];
    right.middleRows(static_cast<index_t>(row), a[k].rows()) = a[k] * w[k].transpose();
    terms += w[k].norm() * a[k].squaredNorm();
  }
  Eigen::JacobiSVD<dense> svd(left, Eigen::ComputeThinU | Eigen::ComputeThinV);
  svd.setThreshold(1e-6);
  const auto& s = svd.singularValues();
  const double smallest = s(svd.rank() - 1) * s(svd.rank() - 1), largest = s(0) * s(0);
  expected e{svd.solve(right).transpose(), 0};
  e.slack = static_cast<double>(w[0].cols()) * tolerance::eps<double> *
            (terms / smallest + e.tau.norm() * largest / smallest);
  return e;
}

/// LOT's ridge: (sum_k T_k S_k + mu P)(sum_k S_k + mu I)^-1, mu = share tr(sum_k S_k) / d_in,
/// formed and solved in long double. The library's rounding grows by the condition of sum_k S_k +
/// mu I.
inline expected ridged(const list& grams, const list& t, const dense& prior, double share) {
  using exact = oracle::matrix;
  const index_t d = prior.cols();
  exact sum = exact::Zero(d, d), weighted = exact::Zero(prior.rows(), d);
  double terms = 0;
  for (std::size_t k = 0; k < t.size(); ++k) {
    const exact s = oracle::exact(grams[k]);
    sum += s;
    weighted += oracle::exact(t[k]) * s;
    terms += (t[k] - prior).norm() * grams[k].norm();
  }
  const oracle::real mu = static_cast<oracle::real>(share) * sum.trace() / static_cast<double>(d);
  sum.diagonal().array() += mu;
  weighted += mu * oracle::exact(prior);
  const exact solved = sum.ldlt().solve(weighted.transpose()).transpose();
  const double least = static_cast<double>(mu), largest = static_cast<double>(sum.norm());
  expected e{solved.cast<double>(), 0};
  e.slack = static_cast<double>(d) * tolerance::eps<double> *
            (terms / least + (e.tau.norm() + prior.norm()) * largest / least);
  return e;
}

/// The refit: (sum_k w_k R_k^T Z_k + mu P)(sum_k w_k Z_k^T Z_k + mu I)^-1 with
/// mu = anchor tr(sum_k w_k Z_k^T Z_k) / d_in, of targets R_k, n_k x d_out, and weights w_k = 1 /
/// ||X_k T_k^T||_F^2, formed and solved in long double. In the library weights have the rounding of
/// a sum of d_in products in S; the rest grows by the condition, as ridged.
template <class S>
expected refitted(const list& z, const list& r, const list& x, const list& t, const dense& prior,
                  double anchor) {
  using exact = oracle::matrix;
  const index_t d = prior.cols();
  exact sum = exact::Zero(d, d), weighted = exact::Zero(prior.rows(), d);
  double terms = 0;
  for (std::size_t k = 0; k < z.size(); ++k) {
    const exact rows = oracle::exact(z[k]);
    const double weight = 1 / (x[k] * t[k].transpose()).squaredNorm();
    sum += weight * rows.transpose() * rows;
    weighted += weight * oracle::exact(r[k]).transpose() * rows;
    terms += weight * z[k].norm() * (r[k] - z[k] * prior.transpose()).norm();
  }
  const oracle::real mu = static_cast<oracle::real>(anchor) * sum.trace() / static_cast<double>(d);
  sum.diagonal().array() += mu;
  weighted += mu * oracle::exact(prior);
  const exact solved = sum.ldlt().solve(weighted.transpose()).transpose();
  expected e{solved.cast<double>(), 0};
  e.slack = (static_cast<double>(d) * tolerance::eps<double> +
             tolerance::energy<S>(static_cast<double>(d))) *
            terms / static_cast<double>(mu);
  return e;
}

/// RegMean's weights: S_k is the Gram matrix of the rows of X_k and of a diagonal matrix.
inline expected regmean(const list& w, const list& x, double a) {
  list rows;
  for (const auto& features : x) {
    const double n = static_cast<double>(features.rows());
    dense all(features.rows() + features.cols(), features.cols());
    all.setZero();
    all.topRows(features.rows()) = features * std::sqrt(a / n);
    for (index_t j = 0; j < features.cols(); ++j)
      all(features.rows() + j, j) = std::sqrt((1 - a) / n) * features.col(j).norm();
    rows.push_back(all);
  }
  return least_squares(rows, w);
}

/// WUDI's: the rows of T_k / ||T_k|| stand in for inputs.
inline expected wudi(const list& t) {
  list rows;
  for (const auto& x : t) rows.push_back(x / x.norm());
  return least_squares(rows, t);
}

/// ACTMat's: the rows of T_k stand in for inputs.
inline expected actmat(const list& t) {
  return least_squares(t, t);
}

/// SWUDI's or ASWUDI's, by the singular values of the rows T_k / ||T_k||: `shares` gives f of their
/// squares, descending. The error of a direction that the filter tells from its neighbour grows by
/// the gap between them.
inline expected filtered_wudi(
    const list& t, const std::function<Eigen::VectorXd(const Eigen::VectorXd&)>& shares) {
  const dense sum = sum_of(t);
  list rows, rest;
  for (const auto& x : t) rows.push_back(x / x.norm()), rest.push_back(x - sum);
  dense stacked(static_cast<index_t>(t.size()) * sum.rows(), sum.cols());
  dense pull = dense::Zero(sum.rows(), sum.cols());
  for (std::size_t k = 0; k < t.size(); ++k) {
    stacked.middleRows(static_cast<index_t>(k) * sum.rows(), sum.rows()) = rows[k];
    pull += rest[k] * rows[k].transpose() * rows[k];
  }
  const Eigen::JacobiSVD<dense> svd(stacked, Eigen::ComputeThinU | Eigen::ComputeThinV);
  index_t rank = 0;
  while (rank < svd.singularValues().size() &&
         svd.singularValues()(rank) > 1e-6 * svd.singularValues()(0))
    ++rank;
  const Eigen::VectorXd l = svd.singularValues().head(rank).cwiseAbs2();
  const Eigen::VectorXd f = shares(l);
  expected e{sum, 0};
  double growth = 1;
  for (index_t j = 0; j < rank; ++j) {
    const dense v = svd.matrixV().col(j);
    e.tau += pull * v * v.transpose() * (f(j) / l(j));
    if (j > 0 && f(j) == 0 && f(j - 1) > 0) growth = l(0) / (l(j - 1) - l(j));
  }
  // The slack of the whole way, from the sum in place of zero.
  const double start = sum.norm() * l(0) / l(rank - 1);
  e.slack = growth * (least_squares(rows, t).slack +
                      static_cast<double>(sum.cols()) * tolerance::eps<double> * start);
  return e;
}

inline expected swudi(const list& t, double time, index_t largest) {
  return filtered_wudi(t, [&](const Eigen::VectorXd& l) {
    Eigen::VectorXd f = 1 - (-time * l.array()).exp();
    if (largest < f.size()) f.tail(f.size() - largest).setZero();
    return f;
  });
}

inline expected aswudi(const list& t) {
  return filtered_wudi(t, [](const Eigen::VectorXd& l) {
    const double roots = l.cwiseSqrt().sum();
    Eigen::VectorXd f = Eigen::VectorXd::Zero(l.size());
    for (index_t j = 0; static_cast<double>(j) < roots * roots / l.sum() && j < f.size(); ++j)
      f(j) = 1;
    return f;
  });
}

/// A U V^T, and how much an error in what it is made of grows in it: relative to the smallest
/// singular value that is not zero, squared because the library's comes from a Gram matrix.
struct factor {
  dense polar;
  double condition;
};
inline factor polar_of(const dense& m) {
  const Eigen::JacobiSVD<dense> svd(m, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const auto& s = svd.singularValues();
  index_t rank = 0;
  while (rank < s.size() && s(rank) > 1e-6 * s(0)) ++rank;
  const double condition = rank > 0 ? s(0) / s(rank - 1) : 1;
  return {svd.matrixU().leftCols(rank) * svd.matrixV().leftCols(rank).transpose(),
          condition * condition};
}

/// Singular triplets beside each other, and the factor of the error of their vectors: the largest
/// squared singular value over the gap below the last that is taken, and over its own square.
struct triplets {
  dense u, v;
  std::vector<double> s;
  double growth = 1;

  triplets(index_t rows, index_t columns) : u(rows, 0), v(columns, 0) {}

  void append(const dense& a, index_t count) {
    const Eigen::JacobiSVD<dense> svd(a, Eigen::ComputeThinU | Eigen::ComputeThinV);
    const auto& values = svd.singularValues();
    u.conservativeResize(Eigen::NoChange, u.cols() + count);
    v.conservativeResize(Eigen::NoChange, v.cols() + count);
    u.rightCols(count) = svd.matrixU().leftCols(count);
    v.rightCols(count) = svd.matrixV().leftCols(count);
    for (index_t j = 0; j < count; ++j) s.push_back(values(j));
    if (count == 0) return;
    const double last = values(count - 1) * values(count - 1);
    const double next = count < values.size() ? values(count) * values(count) : 0;
    growth = std::max(growth, values(0) * values(0) / (last - next));
  }

  /// polar(U) diag(values) polar(V)^T. Angles are off by d eps times their growth, the polar factor
  /// by that times its own (both factors, hence 2), and each column enters with its value.
  expected sum(const std::vector<double>& values) const {
    const factor left = polar_of(u), right = polar_of(v);
    dense scaled = left.polar;
    double size = 0;
    for (index_t j = 0; j < scaled.cols(); ++j) {
      scaled.col(j) *= values[at(j)];
      size += values[at(j)] * values[at(j)];
    }
    const double d = static_cast<double>(std::max(u.rows(), v.rows()));
    return {scaled * right.polar.transpose(), 2 * d * tolerance::eps<double> * std::sqrt(size) *
                                                  growth *
                                                  std::max(left.condition, right.condition)};
  }
};

inline expected tsv_m(const list& t) {
  triplets all(t[0].rows(), t[0].cols());
  for (const auto& x : t)
    all.append(x, std::min(x.rows(), x.cols()) / static_cast<index_t>(t.size()));
  return all.sum(all.s);
}

/// Iso-CTS with `own` directions for each task; with none Iso-C.
inline expected iso(const list& t, index_t own) {
  const index_t r = std::min(t[0].rows(), t[0].cols()),
                common = r - own * static_cast<index_t>(t.size());
  triplets shared(t[0].rows(), t[0].cols()), all = shared;
  shared.append(sum_of(t), common);
  for (const auto& x : t) all.append(x - shared.u * shared.u.transpose() * x, own);
  all.append(sum_of(t), common);
  double mean = 0;
  for (const double s : all.s) mean += s / static_cast<double>(r);
  return all.sum(std::vector<double>(all.s.size(), mean));
}

/// SVC of tau. Its vectors grow errors by the gaps between singular values, and its factors are
/// quotients of what they project.
inline expected svc(const dense& tau, const list& t, double floor) {
  const Eigen::JacobiSVD<dense> svd(tau, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const auto& s = svd.singularValues();
  expected e{dense::Zero(tau.rows(), tau.cols()), 0};
  double largest = 0, gap = s(0) * s(0);
  for (index_t r = 0; r < s.size() && s(r) > 1e-6 * s(0); ++r) {
    const dense u = svd.matrixU().col(r), v = svd.matrixV().col(r);
    double sum = 0;
    for (const auto& x : t) {
      const dense response = u.transpose() * x;
      sum += std::max(floor, s(r) * (response * v)(0, 0) / response.squaredNorm());
      largest = std::max(largest, tau.squaredNorm() / response.squaredNorm());
    }
    const double gamma = static_cast<double>(t.size()) / sum;
    e.tau += gamma * s(r) * u * v.transpose();
    gap = std::min(gap, s(r) * s(r));
    if (r > 0) gap = std::min(gap, s(r - 1) * s(r - 1) - s(r) * s(r));
  }
  e.slack = static_cast<double>(std::max(tau.rows(), tau.cols())) * tolerance::eps<double> *
            (s(0) * s(0) / gap) * largest * e.tau.norm() / floor;
  return e;
}

/// DC-Merge: each task keeps its `count` largest entries.
inline expected dc_merge(const list& t, index_t count) {
  const index_t tasks = static_cast<index_t>(t.size()),
                n = std::min(t[0].rows(), t[0].cols()) / tasks;
  triplets all(t[0].rows(), t[0].cols());
  list cut;
  for (const auto& x : t) {
    const Eigen::JacobiSVD<dense> svd(x, Eigen::ComputeThinU | Eigen::ComputeThinV);
    cut.push_back(svd.matrixU().leftCols(n) * svd.singularValues().head(n).asDiagonal() *
                  svd.matrixV().leftCols(n).transpose());
    all.append(x, n);
  }
  const factor left = polar_of(all.u), right = polar_of(all.v);
  list cores;
  for (const auto& x : cut) {
    cores.push_back(left.polar.transpose() * x * right.polar);
    std::vector<double> sizes(cores.back().data(), cores.back().data() + cores.back().size());
    for (double& s : sizes) s = std::abs(s);
    std::sort(sizes.rbegin(), sizes.rend());
    const double least = sizes[at(count - 1)] * (1 - 1e-9);
    cores.back() = (cores.back().array().abs() >= least).select(cores.back(), 0);
  }
  dense core = dense::Zero(n * tasks, n * tasks);
  for (index_t i = 0; i < core.rows(); ++i)
    for (index_t j = 0; j < core.cols(); ++j) {
      if (i / n != j / n) continue;
      double sum = 0, total = 0, agreeing = 0;
      for (const auto& m : cores) sum += m(i, j);
      for (const auto& m : cores)
        if (m(i, j) * sum > 0) total += m(i, j), ++agreeing;
      core(i, j) = agreeing > 0 ? total / agreeing : 0;
    }
  expected e{left.polar * core * right.polar.transpose(), 0};
  e.slack = all.sum(all.s).slack;
  return e;
}

}  // namespace test::matrices

namespace test::suite {

/// One call of each method, against formulas and against the same call on Eigen's matrices.
template <class B>
void matrix_methods() {
  using C = compute<B>;
  B b;
  const auto l = linear(b, 11, 9, 7, {3, 5, 4});
  const auto base = as<double>(l.host.base);
  matrices::list t, x, weights;
  for (std::size_t k = 0; k < l.host.experts.size(); ++k) {
    // As the library forms them: one subtraction in the compute type.
    const matrix_of<C> difference = as<C>(l.host.experts[k]) - as<C>(l.host.base);
    t.push_back(as<double>(difference));
    weights.push_back(base + t.back());
    x.push_back(as<double>(l.host.features[k]));
  }
  const auto check = [&](const auto& found, const auto& on_eigen, const matrices::dense& tau,
                         double slack) {
    // tau is rounded to the compute type, or summed in it (r + 2 terms), and added to the base.
    const double allowed =
        slack + 10 * tolerance::eps<C> * tau.norm() + tolerance::eps<C> * (base + tau).norm();
    CHECK(distance(B::to_eigen(found.merged), oracle::exact(matrices::dense(base + tau))) <=
          allowed);
    CHECK(found.report.fallback == catmerge::fallback_rule::none);
    check_agrees<B>(found.merged, on_eigen.merged, 2 * allowed);
  };
  const auto& e = l.host.experts;
  const auto& f = l.host.features;

  const catmerge::lot_options published{1, 0};
  const auto lot = matrices::least_squares(x, t);
  check(catmerge::lot_linear(l.base, l.experts, l.features, published),
        catmerge::lot_linear(l.host.base, e, f, published), lot.tau, lot.slack);
  matrices::list grams;
  for (const auto& rows : x) grams.push_back(rows.transpose() * rows);
  const auto ridged = matrices::ridged(
      grams, t, matrices::sum_of(t) / static_cast<double>(t.size()), catmerge::lot_options{}.ridge);
  check(catmerge::lot_linear(l.base, l.experts, l.features),
        catmerge::lot_linear(l.host.base, e, f), ridged.tau, ridged.slack);
  // Priors of a method's and of the caller's, and rows of another network.
  const catmerge::lot_around around{catmerge::task_arithmetic_method{0.3}, {2, 0.5}};
  matrices::list shifts;
  for (std::size_t k = 0; k < t.size(); ++k) shifts.push_back(x[k] * t[k].transpose());
  const auto lot_around =
      matrices::refitted<C>(x, shifts, x, t, 2 * 0.3 * matrices::sum_of(t), 0.5);
  check(catmerge::merge_parameter(around, layer_kind::linear, l.base, l.experts, l.features),
        catmerge::merge_parameter(around, layer_kind::linear, l.host.base, e, f), lot_around.tau,
        lot_around.slack);
  using S = typename B::scalar;
  generator g(13);
  const matrix_of<S> prior = g.matrix<S>(9, 7, 0.1);
  const vector_of<S> bias = g.vector<S>(9);
  std::vector<matrix_of<S>> inputs, outputs;
  std::vector<matrix_type<B>> own_inputs, own_outputs;
  matrices::list z, targets;
  for (std::size_t k = 0; k < t.size(); ++k) {
    inputs.push_back(g.matrix<S>(4, 7)), outputs.push_back(g.matrix<S>(4, 9));
    own_inputs.push_back(b.matrix(inputs.back()));
    own_outputs.push_back(b.matrix(outputs.back()));
    z.push_back(as<double>(inputs.back()));
    const matrices::dense own =
        (as<double>(outputs.back()) - z.back() * base.transpose()).rowwise() -
        as<double>(bias).col(0).transpose();
    targets.push_back(0.4 * own + 0.6 * z.back() * t[k].transpose());
  }
  // (xtensor's views overload the operator &.)
  const auto own_prior = b.matrix(prior);
  const auto own_bias = b.vector(bias);
  const auto refit = matrices::refitted<C>(z, targets, x, t, as<double>(prior), 0.5);
  check(catmerge::refit(l.base, l.experts,
                        catmerge::refit_data{own_inputs, own_outputs, l.features,
                                             std::addressof(own_prior), std::addressof(own_bias)},
                        {0.5, 0.4}),
        catmerge::refit(l.host.base, e, catmerge::refit_data{inputs, outputs, f, &prior, &bias},
                        {0.5, 0.4}),
        refit.tau, refit.slack);
  const auto regmean = matrices::regmean(weights, x, 0.9);
  check(catmerge::regmean_linear(l.base, l.experts, l.features),
        catmerge::regmean_linear(l.host.base, e, f), regmean.tau - base, regmean.slack);
  const auto tsv_m = matrices::tsv_m(t);
  check(catmerge::tsv_m(l.base, l.experts), catmerge::tsv_m(l.host.base, e), tsv_m.tau,
        tsv_m.slack);
  catmerge::iso_options both;
  both.variant = catmerge::iso_variant::cts;
  both.common = 0.4;  // round((7 - 2) / 3) = 2, at most 7 / 3
  const auto iso = matrices::iso(t, 2);
  check(catmerge::iso(l.base, l.experts, both), catmerge::iso(l.host.base, e, both), iso.tau,
        iso.slack);
  const auto wudi = matrices::wudi(t);
  check(catmerge::wudi(l.base, l.experts), catmerge::wudi(l.host.base, e), wudi.tau, wudi.slack);
  catmerge::wudi_options filter;
  filter.variant = catmerge::wudi_variant::swudi;
  filter.time = 5;
  filter.share = 0.5;  // four of seven directions
  const auto swudi = matrices::swudi(t, 5, 4);
  check(catmerge::wudi(l.base, l.experts, filter), catmerge::wudi(l.host.base, e, filter),
        swudi.tau, swudi.slack);
  filter.variant = catmerge::wudi_variant::aswudi;
  const auto aswudi = matrices::aswudi(t);
  check(catmerge::wudi(l.base, l.experts, filter), catmerge::wudi(l.host.base, e, filter),
        aswudi.tau, aswudi.slack);
  filter.variant = catmerge::wudi_variant::actmat;
  const auto actmat = matrices::actmat(t);
  check(catmerge::wudi(l.base, l.experts, filter), catmerge::wudi(l.host.base, e, filter),
        actmat.tau, actmat.slack);
  const auto dc_merge = matrices::dc_merge(t, 9);  // floor(0.2 * 7 * 7)
  check(catmerge::dc_merge(l.base, l.experts, {1, 0.2}),
        catmerge::dc_merge(l.host.base, e, {1, 0.2}), dc_merge.tau, dc_merge.slack);
  // The sum is rounded to the compute type before it is calibrated.
  const catmerge::then calibrated{catmerge::task_arithmetic_method{1}, catmerge::svc_transform{}};
  matrix_of<C> sum_in_type = matrix_of<C>::Zero(9, 7);
  for (const auto& v : t) sum_in_type += as<C>(v);
  const auto svc = matrices::svc(as<double>(sum_in_type), t, 0.1);
  check(catmerge::merge_parameter(calibrated, catmerge::layer_kind::linear, l.base, l.experts),
        catmerge::merge_parameter(calibrated, catmerge::layer_kind::linear, l.host.base, e),
        svc.tau, svc.slack);
  l.check_unchanged();

  const auto v = vectors(b, 12, 10, {4, 6});
  matrices::dense sum = matrices::dense::Zero(10, 1), total = sum;
  for (std::size_t k = 0; k < v.host.experts.size(); ++k) {
    const matrix_of<C> difference = as<C>(v.host.experts[k]) - as<C>(v.host.base);
    const matrices::dense q = as<double>(v.host.features[k]).colwise().squaredNorm().transpose();
    sum += q.cwiseProduct(as<double>(difference));
    total += q;
  }
  const matrices::dense tau = sum.cwiseQuotient(total);
  const auto scale = catmerge::lot_scale(v.base, v.experts, v.features);
  const double allowed = tolerance::eps<C> * (tau.norm() + as<double>(v.host.base).norm());
  CHECK(distance(B::to_eigen(scale.merged),
                 oracle::exact(matrices::dense(as<double>(v.host.base) + tau))) <= 2 * allowed);
  check_agrees<B>(scale.merged,
                  catmerge::lot_scale(v.host.base, v.host.experts, v.host.features).merged,
                  2 * allowed);
  v.check_unchanged();
}

}  // namespace test::suite
