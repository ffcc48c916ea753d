// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <doctest/doctest.h>

#include <Eigen/SVD>
#include <catmerge/catmerge.hpp>
#include <functional>
#include <type_traits>

#include "support/data.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

/// The public algorithms on one backend and one storage type: against the oracle, and against the
/// same call on Eigen's matrices. A backend B (tests/support/backends/) has
///   scalar                 the storage type S
///   same_bits              whether its results have the bits of Eigen's (context<host> computes
///                          both), or agree to rounding only
///   matrix(m), vector(v)   tensors that hold what Eigen's do; called on an object that outlives
///                          them, because tensors that own nothing need somebody who does
///   to_eigen(t)            what a tensor holds, in the compute type; a vector as one column
namespace test::suite {

using catmerge::basis_solver;
using catmerge::layer_kind;
using catmerge::statistics_form;
using oracle::real;

template <class B>
using compute = catmerge::compute_t<typename B::scalar>;
template <class B>
using matrix_type = decltype(std::declval<B&>().matrix(matrix_of<typename B::scalar>()));
template <class B>
using vector_type = decltype(std::declval<B&>().vector(vector_of<typename B::scalar>()));
template <class B>
using domain = catmerge::domain_t<matrix_type<B>>;

/// Ranges of tensors that may not be copied.
template <class B>
using references = std::vector<std::reference_wrapper<const matrix_type<B>>>;

inline double norm(const oracle::matrix& m) {
  return static_cast<double>(std::sqrt(oracle::energy(m)));
}

template <class M>
double distance(const M& found, const oracle::matrix& expected) {
  return norm(oracle::minus(oracle::exact(found), expected));
}

/// m in another type, value by value.
template <class To, class M>
matrix_of<To> as(const M& m) {
  matrix_of<To> r(m.rows(), m.cols());
  for (index_t j = 0; j < m.cols(); ++j)
    for (index_t i = 0; i < m.rows(); ++i)
      r(i, j) = static_cast<To>(static_cast<catmerge::compute_t<typename M::Scalar>>(m(i, j)));
  return r;
}

/// One parameter of several tasks on a backend, and the same numbers in Eigen's matrices.
template <class B, class Tensor, class EigenTensor>
struct given {
  layer<EigenTensor> host;
  Tensor base;
  std::vector<Tensor> experts, vectors;
  std::vector<matrix_type<B>> features;

  template <class Put>
  given(B& b, layer<EigenTensor> l, const Put& put) : host(std::move(l)), base(put(host.base)) {
    for (const auto& e : host.experts) experts.push_back(put(e));
    for (const auto& t : host.vectors) vectors.push_back(put(t));
    for (const auto& x : host.features) features.push_back(b.matrix(x));
  }

  std::vector<oracle::matrix> exact_vectors() const { return oracle::exact_all(host.vectors); }
  std::vector<oracle::matrix> exact_experts() const { return oracle::exact_all(host.experts); }
  std::vector<oracle::matrix> exact_features() const { return oracle::exact_all(host.features); }
  index_t tasks() const { return static_cast<index_t>(experts.size()); }

  /// The Frobenius norms of all task vectors, added.
  double size() const {
    double sum = 0;
    for (const auto& e : exact_experts()) sum += norm(oracle::minus(e, oracle::exact(host.base)));
    return sum;
  }

  /// Operands that were only read have not changed.
  void check_unchanged() const {
    CHECK(same_bits(B::to_eigen(base), as<compute<B>>(host.base)));
    for (std::size_t k = 0; k < experts.size(); ++k) {
      CHECK(same_bits(B::to_eigen(experts[k]), as<compute<B>>(host.experts[k])));
      CHECK(same_bits(B::to_eigen(vectors[k]), as<compute<B>>(host.vectors[k])));
      CHECK(same_bits(B::to_eigen(features[k]), as<compute<B>>(host.features[k])));
    }
  }
};

template <class B>
auto linear(B& b, std::uint64_t seed, index_t d_out, index_t d_in, std::vector<index_t> rows) {
  return given<B, matrix_type<B>, matrix_of<typename B::scalar>>(
      b, random_linear<typename B::scalar>(seed, d_out, d_in, rows),
      [&](const auto& m) { return b.matrix(m); });
}

template <class B>
auto vectors(B& b, std::uint64_t seed, index_t d, std::vector<index_t> rows) {
  return given<B, vector_type<B>, vector_of<typename B::scalar>>(
      b, random_vector<typename B::scalar>(seed, d, rows),
      [&](const auto& v) { return b.vector(v); });
}

/// A merged tensor is Eigen's: in every bit, or up to what rounding can do.
template <class B, class Tensor, class M>
void check_agrees(const Tensor& found, const M& on_eigen, double allowed) {
  const auto f = B::to_eigen(found);
  if (B::same_bits)
    CHECK(same_bits(f, as<compute<B>>(on_eigen)));
  else
    CHECK(distance(f, oracle::exact(on_eigen)) <= allowed);
}

template <class B>
void task_vectors() {
  using S = typename B::scalar;
  using C = compute<B>;
  B b;
  generator g(1);
  const matrix_of<S> base = g.matrix<S>(9, 7), expert = g.matrix<S>(9, 7);
  const matrix_of<C> c_base = as<C>(base), c_expert = as<C>(expert);
  const auto tensor = b.matrix(base);
  auto moved = b.matrix(expert);

  // Each entry is one or two operations of the compute type: there is one right answer.
  const auto t = catmerge::task_vector(tensor, moved);
  const matrix_of<C> difference = c_expert - c_base;
  CHECK(same_bits(B::to_eigen(t), difference));
  static_assert(std::is_same_v<decltype(t), const catmerge::result_t<matrix_type<B>>>);
  const matrix_of<C> half_way = c_base + C(0.5) * difference;
  CHECK(same_bits(B::to_eigen(catmerge::with_task_vector(tensor, t, 0.5)), half_way));

  // In place, in the storage type.
  catmerge::subtract_base(tensor, moved);
  const matrix_of<S> stored = as<S>(difference);
  CHECK(same_bits(B::to_eigen(moved), as<C>(stored)));
  catmerge::add_task_vector(moved, t, -2);
  const matrix_of<C> sum = as<C>(stored) - C(2) * difference;
  CHECK(same_bits(B::to_eigen(moved), as<C>(as<S>(sum))));
  CHECK(same_bits(B::to_eigen(tensor), c_base));

  // Vectors.
  const vector_of<S> short_base = g.vector<S>(11), short_expert = g.vector<S>(11);
  auto vector = b.vector(short_expert);
  const auto v = catmerge::task_vector(b.vector(short_base), vector);
  CHECK(same_bits(B::to_eigen(v), matrix_of<C>(as<C>(short_expert) - as<C>(short_base))));
  catmerge::subtract_base(b.vector(short_base), vector);
  CHECK(same_bits(B::to_eigen(vector),
                  as<C>(as<S>(matrix_of<C>(as<C>(short_expert) - as<C>(short_base))))));
}

template <class B>
void features_and_conflict() {
  using C = compute<B>;
  B b;
  const index_t d_in = 12;
  const auto l = linear(b, 2, 8, d_in, {5, 9, 30});  // the last: more rows than d_in
  const auto x = l.exact_features(), t = l.exact_vectors();
  const oracle::matrix nothing = oracle::matrix::Zero(8, d_in);
  const auto shifts = catmerge::conflict_matrix(layer_kind::linear, l.features, l.vectors);
  for (std::size_t k = 0; k < 3; ++k) {
    catmerge::feature_statistics<domain<B>> seen, twice;
    seen.update(l.features[k]);
    twice.combine(seen);
    twice.combine(seen);
    CHECK(seen.view().form == (k < 2 ? statistics_form::rows : statistics_form::gram));
    for (std::size_t i = 0; i < 3; ++i) {
      const double expected =
          static_cast<double>(oracle::feature_shift(oracle::kind::linear, x[k], nothing, t[i]));
      // Squares of sums of d_in products: their terms' sizes are bounded by norms.
      const double allowed = tolerance::energy<C>(static_cast<double>(d_in)) * norm(x[k]) *
                             norm(x[k]) * norm(t[i]) * norm(t[i]);
      CHECK(std::abs(shifts(static_cast<index_t>(k), static_cast<index_t>(i)) - expected) <=
            allowed);
      CHECK(std::abs(catmerge::feature_shift(layer_kind::linear, seen, l.vectors[i]) - expected) <=
            allowed);
      CHECK(std::abs(catmerge::feature_shift(layer_kind::linear, twice, l.vectors[i]) -
                     2 * expected) <= 2 * allowed);
    }
  }
  const Eigen::MatrixXd w = as<double>(l.host.base);
  const double largest = Eigen::JacobiSVD<Eigen::MatrixXd>(w).singularValues()(0);
  CHECK(std::abs(catmerge::spectral_norm(l.base) - largest) <= tolerance::spectral * largest);

  const auto v = vectors(b, 3, 10, {4, 20});
  const auto vx = v.exact_features(), vt = v.exact_vectors();
  const oracle::matrix none = oracle::matrix::Zero(10, 1);
  for (std::size_t k = 0; k < 2; ++k) {
    catmerge::moment_statistics<domain<B>> moments;
    moments.update(v.features[k]);
    const double scale =
        static_cast<double>(oracle::feature_shift(oracle::kind::scale, vx[k], none, vt[1]));
    const double shift =
        static_cast<double>(oracle::feature_shift(oracle::kind::shift, vx[k], none, vt[1]));
    CHECK(catmerge::feature_shift(layer_kind::scale, moments, v.vectors[1]) ==
          doctest::Approx(scale).epsilon(tolerance::reordered));
    CHECK(catmerge::feature_shift(layer_kind::scale, v.features[k], v.vectors[1]) ==
          doctest::Approx(scale).epsilon(tolerance::reordered));
    CHECK(catmerge::feature_shift(layer_kind::shift, v.features[k], v.vectors[1]) ==
          doctest::Approx(shift).epsilon(tolerance::reordered));
  }
  l.check_unchanged();
  v.check_unchanged();
}

template <class B>
void projections() {
  using C = compute<B>;
  B b;
  const auto l = linear(b, 4, 14, 11, {4, 6, 15});
  const auto x = l.exact_features(), t = l.exact_vectors();
  for (index_t k = 0; k < 3; ++k) {
    const auto spectrum = oracle::decompose(oracle::gram(k, t, x, real(0.5)));
    const double magnitude = static_cast<double>(
        std::max(std::abs(spectrum.values.front()), std::abs(spectrum.values.back())));
    const oracle::matrix best = oracle::leading(spectrum, 3);
    for (const auto way : {basis_solver::dense, basis_solver::shifts, basis_solver::weights}) {
      catmerge::projection_options o;
      o.directions = catmerge::largest{3};
      o.lambda = 0.5;
      o.solver = way;
      const auto found = catmerge::removal_basis(k, l.vectors, l.features, o);
      const auto basis = B::to_eigen(found.basis);
      REQUIRE(basis.cols() == best.cols());
      const Eigen::MatrixXd gram = as<double>(basis).transpose() * as<double>(basis);
      CHECK((gram - Eigen::MatrixXd::Identity(gram.rows(), gram.cols())).cwiseAbs().maxCoeff() <=
            tolerance::orthonormal<C>);
      // No basis removes more of Eq. 8 than the oracle's, and this one as much.
      const double allowed =
          (tolerance::objective + tolerance::gram<C>(11) + 2 * tolerance::orthonormal<C>)*3 *
          magnitude;
      CHECK(std::abs(
                static_cast<double>(oracle::eq8_of_basis(k, t, x, real(0.5), oracle::exact(basis)) -
                                    oracle::eq8_of_basis(k, t, x, real(0.5), best))) <= allowed);
      for (std::size_t j = 0; j < found.eigenvalues.size(); ++j)
        CHECK(std::abs(found.eigenvalues[j] - static_cast<double>(spectrum.values[j])) <= allowed);

      auto trimmed = b.matrix(l.host.vectors[0]);
      catmerge::project_out(found.basis, trimmed);
      const oracle::matrix expected = oracle::times(oracle::projector(oracle::exact(basis)), t[0]);
      // c + 2 roundings each way, and one into the storage type.
      CHECK(distance(B::to_eigen(trimmed), expected) <=
            (tolerance::idempotent<C> + tolerance::eps<typename B::scalar>)*norm(t[0]));
    }
  }
  l.check_unchanged();
}

template <class B>
void masks() {
  B b;
  const auto v = vectors(b, 5, 16, {4, 7, 9});
  const auto x = v.exact_features(), t = v.exact_vectors();
  for (index_t k = 0; k < 3; ++k) {
    catmerge::scale_mask_options o;
    o.lambda = 0.7;
    const auto scale = catmerge::scale_mask(k, v.vectors, v.features, o);
    CHECK(scale == oracle::take(oracle::scale_scores(k, t, x, real(0.7)), 4, true));
    const auto shift = catmerge::shift_mask(k, v.vectors);
    CHECK(shift == oracle::take(oracle::shift_scores(k, t), 4, true));
    auto masked = b.vector(v.host.vectors[0]);
    catmerge::mask_out(shift, masked);
    auto expected = as<compute<B>>(v.host.vectors[0]);
    for (const index_t j : shift) expected(j, 0) = 0;
    CHECK(same_bits(B::to_eigen(masked), expected));
  }
  v.check_unchanged();
}

template <class B>
void cat_of_linears() {
  using C = compute<B>;
  B b;
  const auto l = linear(b, 6, 14, 11, {4, 6, 15});
  catmerge::cat_options o;
  o.linear.directions = catmerge::largest{2};
  o.linear.lambda = 0.5;
  oracle::options choices;
  choices.rank = 2;
  choices.lambda = real(0.5);
  for (const bool joint : {false, true}) {
    o.linear.order = joint ? catmerge::trim_order::joint : catmerge::trim_order::sequential;
    choices.joint = joint;
    const auto expected = oracle::cat_linear(oracle::exact(l.host.base), l.exact_experts(),
                                             l.exact_features(), choices);
    REQUIRE(expected.gap > 1e-3);
    const double allowed = tolerance::merged<C>(expected.gap) * l.size();
    const auto on_eigen = catmerge::cat_linear(l.host.base, l.host.experts, l.host.features, o);
    const auto [merged, report] = catmerge::cat_linear(l.base, l.experts, l.features, o);
    CHECK(distance(B::to_eigen(merged), expected.merged) <= allowed);
    check_agrees<B>(merged, on_eigen.merged, 2 * allowed);
    CHECK(report.trim.has_value());
    for (index_t k = 0; k < l.tasks(); ++k)
      for (index_t i = 0; i < l.tasks(); ++i)
        CHECK(std::abs(std::sqrt(report.trim->conflict_after(k, i)) -
                       std::sqrt(on_eigen.report.trim->conflict_after(k, i))) <=
              (B::same_bits ? 0
                            : allowed / l.size() * 10 *
                                  std::sqrt(on_eigen.report.trim->conflict_before(k, i))));
  }

  // Statistics instead of rows, and a group.
  std::vector<catmerge::feature_statistics<domain<B>>> seen(l.features.size());
  for (std::size_t k = 0; k < seen.size(); ++k) seen[k].update(l.features[k]);
  const references<B> bases{l.base, l.base};
  std::vector<references<B>> experts;
  for (const auto& e : l.experts) experts.push_back({e, l.base});
  const auto group = catmerge::cat_group(bases, experts, seen, o);
  REQUIRE(group.size() == 2);
  const auto alone = catmerge::cat_linear(l.base, l.experts, seen, o).merged;
  CHECK(same_bits(B::to_eigen(group[0].merged), B::to_eigen(alone)));
  CHECK(same_bits(B::to_eigen(group[1].merged), as<C>(l.host.base)));
  l.check_unchanged();
}

template <class B>
void cat_of_scales_and_shifts() {
  using C = compute<B>;
  B b;
  const auto v = vectors(b, 7, 16, {4, 7, 9});
  const auto base = oracle::exact(v.host.base);
  std::vector<oracle::matrix> t;
  for (const auto& e : v.exact_experts()) t.push_back(oracle::minus(e, base));
  // Three roundings per task and entry, and the last two.
  const double allowed = (3 * 3 + 2) * tolerance::eps<C> * (norm(base) + v.size());
  std::vector<std::vector<oracle::size>> scales, shifts;
  for (index_t k = 0; k < v.tasks(); ++k) {
    scales.push_back(
        oracle::take(oracle::scale_scores(k, t, v.exact_features(), real(0.7)), 4, true));
    REQUIRE(!scales.back().empty());
    shifts.push_back(oracle::take(oracle::shift_scores(k, t), 4, true));
  }
  catmerge::cat_options o;
  o.scale.lambda = 0.7;
  const auto scale = catmerge::cat_scale(v.base, v.experts, v.features, o).merged;
  CHECK(distance(B::to_eigen(scale),
                 oracle::combine(base, real(0.4), oracle::trim_masked(t, scales, false))) <=
        allowed);
  check_agrees<B>(scale,
                  catmerge::cat_scale(v.host.base, v.host.experts, v.host.features, o).merged,
                  2 * allowed);
  const auto shift = catmerge::cat_shift(v.base, v.experts).merged;
  CHECK(distance(B::to_eigen(shift),
                 oracle::combine(base, real(0.4), oracle::trim_masked(t, shifts, false))) <=
        allowed);
  check_agrees<B>(shift, catmerge::cat_shift(v.host.base, v.host.experts).merged, 2 * allowed);
  v.check_unchanged();
}

template <class B>
void methods() {
  using C = compute<B>;
  B b;
  const auto l = linear(b, 8, 6, 5, {3, 3, 3});
  const auto base = oracle::exact(l.host.base);
  std::vector<oracle::matrix> t;
  for (const auto& e : l.exact_experts()) t.push_back(oracle::minus(e, base));
  const double allowed = (2 * 3 + 2) * tolerance::eps<C> * (norm(base) + l.size());
  const auto sum = catmerge::task_arithmetic(l.base, l.experts, 0.3).merged;
  CHECK(distance(B::to_eigen(sum), oracle::combine(base, real(0.3), t)) <= allowed);
  check_agrees<B>(sum, catmerge::task_arithmetic(l.host.base, l.host.experts, 0.3).merged,
                  2 * allowed);
  const auto mean = catmerge::weight_average(l.base, l.experts).merged;
  CHECK(distance(B::to_eigen(mean), oracle::combine(base, real(1) / 3, t)) <= allowed);
  check_agrees<B>(mean, catmerge::weight_average(l.host.base, l.host.experts).merged, 2 * allowed);
  l.check_unchanged();
}

/// A network of one linear layer and one table whose tensors a source hands out.
template <class B>
struct network {
  using parameter_info = catmerge::parameter_info;
  using given_type = given<B, matrix_type<B>, matrix_of<typename B::scalar>>;
  const given_type& layer;
  index_t released = 0;
  std::vector<std::string> names{};
  std::vector<catmerge::result_t<matrix_type<B>>> merged{};

  std::vector<std::string> tasks() const { return {"a", "b", "c"}; }
  std::vector<catmerge::parameter_group> groups() const {
    return {{{"weight", layer_kind::linear}}, {{"table", layer_kind::other}}};
  }
  const matrix_type<B>& base(const parameter_info&) const { return layer.base; }
  const matrix_type<B>& expert(index_t k, const parameter_info&) const {
    return layer.experts[at(k)];
  }
  std::optional<catmerge::statistics_view<domain<B>>> get(index_t k, const parameter_info&) const {
    return catmerge::statistics_of(layer.features[at(k)]);
  }
  void put(const parameter_info& p, catmerge::result_t<matrix_type<B>> t) {
    names.push_back(p.name);
    merged.push_back(std::move(t));
  }
  void release(const catmerge::parameter_group&) { ++released; }
};

template <class B>
void streams() {
  B b;
  const auto l = linear(b, 9, 8, 6, {4, 5, 9});
  network<B> n{l};
  auto c = catmerge::detail::context_of(l.base);
  const auto reports = catmerge::merge_stream(catmerge::cat_method{}, n, n, n, c);
  REQUIRE(n.merged.size() == 2);
  CHECK(n.names == std::vector<std::string>{"weight", "table"});
  CHECK(n.released == 4);
  CHECK(reports[0].layer.trim.has_value());
  CHECK(same_bits(B::to_eigen(n.merged[0]),
                  B::to_eigen(catmerge::cat_linear(l.base, l.experts, l.features).merged)));
  CHECK(same_bits(B::to_eigen(n.merged[1]),
                  B::to_eigen(catmerge::task_arithmetic(l.base, l.experts, 0.4).merged)));
  l.check_unchanged();
}

/// Bad input is an error with a sentence on every backend.
template <class B>
void errors() {
  using S = typename B::scalar;
  B b;
  const auto l = linear(b, 10, 6, 5, {3, 3});
  const auto wide = b.matrix(generator(1).matrix<S>(6, 7));
  CHECK_THROWS_WITH_AS(catmerge::task_vector(l.base, wide),
                       "task_vector: expert: expected 6 x 5, found 6 x 7", catmerge::error);
  const references<B> features{l.features[0], wide};
  CHECK_THROWS_AS(catmerge::cat_linear(l.base, l.experts, features), catmerge::error);
  matrix_of<S> poisoned = l.host.experts[1];
  poisoned(3, 2) = std::numeric_limits<S>::quiet_NaN();
  const auto bad = b.matrix(poisoned);
  const references<B> experts{l.experts[0], bad};
  CHECK_THROWS_WITH_AS(catmerge::cat_linear(l.base, experts, l.features),
                       "the parameter: expert 'task 1' holds a value that is not finite",
                       catmerge::error);
  // Extents of none.
  const auto none = b.matrix(matrix_of<S>(0, 5));
  CHECK(B::to_eigen(catmerge::task_vector(none, none)).size() == 0);
}

/// All of it.
template <class B>
void everything() {
  SUBCASE("task vectors") {
    task_vectors<B>();
  }
  SUBCASE("features and conflict") {
    features_and_conflict<B>();
  }
  SUBCASE("projections") {
    projections<B>();
  }
  SUBCASE("masks") {
    masks<B>();
  }
  SUBCASE("CAT of linears") {
    cat_of_linears<B>();
  }
  SUBCASE("CAT of scales and shifts") {
    cat_of_scales_and_shifts<B>();
  }
  SUBCASE("methods") {
    methods<B>();
  }
  SUBCASE("streams") {
    streams<B>();
  }
  SUBCASE("errors") {
    errors<B>();
  }
}

}  // namespace test::suite
