// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <Eigen/Cholesky>
#include <Eigen/QR>
#include <catmerge/catmerge.hpp>
#include <catmerge/methods/lot.hpp>
#include <catmerge/methods/refit.hpp>
#include <limits>
#include <vector>

#include "support/data.hpp"
#include "support/executor.hpp"
#include "support/fake_device.hpp"

// The refit of a linear layer, against least squares by an orthogonal decomposition.

using namespace test;
using catmerge::const_view_of;
using catmerge::index_t;
using catmerge::refit_options;
using catmerge::refit_weighting;
using catmerge::view_of;

namespace {

using host = catmerge::context<catmerge::host>;
using exact = Eigen::Matrix<long double, Eigen::Dynamic, Eigen::Dynamic>;

template <class S>
struct refit_case {
  using matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>;
  matrix base, prior, bias;
  std::vector<matrix> vectors, inputs, outputs, features;

  refit_case(std::uint64_t seed, index_t d_out, index_t d_in, const std::vector<index_t>& rows) {
    generator g(seed);
    base = g.matrix<S>(d_out, d_in);
    prior = g.matrix<S>(d_out, d_in);
    bias = g.matrix<S>(d_out, 1);
    for (const index_t n : rows) {
      vectors.push_back(g.matrix<S>(d_out, d_in));
      inputs.push_back(g.matrix<S>(n, d_in));
      outputs.push_back(g.matrix<S>(n, d_out));
      features.push_back(g.matrix<S>(n + 1, d_in));
    }
  }

  catmerge::refit_problem<host> problem(bool with_prior = true, bool with_bias = true) const {
    catmerge::refit_problem<host> p;
    p.base = const_view_of(base);
    for (std::size_t k = 0; k < vectors.size(); ++k) {
      p.vectors.push_back(const_view_of(vectors[k]));
      p.rows.push_back(
          {const_view_of(inputs[k]), const_view_of(outputs[k]), const_view_of(features[k])});
    }
    if (with_prior) p.prior = const_view_of(prior);
    if (with_bias) p.bias = const_view_of(bias);
    return p;
  }
};

template <class S>
Eigen::MatrixXd refitted(const catmerge::refit_problem<host>& p, const refit_options& o) {
  host c;
  typename refit_case<S>::matrix tau =
      refit_case<S>::matrix::Constant(c.rows(p.base), c.columns(p.base), 7);
  catmerge::refit_linear(c, p, o, view_of(tau));
  return tau.template cast<double>();
}

/// argmin sum_k w_k ||Z_k tau^T - R_k||^2 + mu ||tau - tau_0||^2 as one system of equations, one
/// above the other; for mu = 0 the solution nearest to tau_0.
template <class S>
exact oracle(const refit_case<S>& l, const refit_options& o, bool with_prior, bool with_bias) {
  const exact base = l.base.template cast<long double>();
  exact prior = l.prior.template cast<long double>(), bias = l.bias.template cast<long double>();
  if (!with_prior) prior.setZero();
  if (!with_bias) bias.setZero();
  const index_t d_in = base.cols(), d_out = base.rows();
  index_t all = 0;
  for (const auto& z : l.inputs) all += z.rows();
  exact system = exact::Zero(all + d_in, d_in), target = exact::Zero(all + d_in, d_out);
  long double trace = 0;
  index_t row = 0;
  std::vector<long double> weights;
  for (std::size_t k = 0; k < l.vectors.size(); ++k) {
    const exact t = l.vectors[k].template cast<long double>(),
                x = l.features[k].template cast<long double>();
    weights.push_back(o.weighting == refit_weighting::shift ? 1 / (x * t.transpose()).squaredNorm()
                                                            : 1);
  }
  for (std::size_t k = 0; k < l.vectors.size(); ++k) {
    const exact z = l.inputs[k].template cast<long double>(),
                t = l.vectors[k].template cast<long double>(),
                y = l.outputs[k].template cast<long double>();
    const exact own = (y - z * base.transpose()).rowwise() - bias.col(0).transpose();
    const exact r = o.own * own + (1 - o.own) * z * t.transpose();
    const long double root = std::sqrt(weights[k]);
    system.middleRows(row, z.rows()) = root * z;
    target.middleRows(row, z.rows()) = root * (r - z * prior.transpose());
    trace += weights[k] * z.squaredNorm();
    row += z.rows();
  }
  const long double mu = o.anchor * trace / static_cast<long double>(d_in);
  system.bottomRows(d_in).diagonal().setConstant(std::sqrt(mu));
  const exact change = system.completeOrthogonalDecomposition().solve(target);
  return prior + change.transpose();
}

}  // namespace

TEST_CASE_TEMPLATE("refit: least squares around a prior", S, double, float) {
  const struct {
    index_t d_out, d_in;
    std::vector<index_t> rows;
  } shapes[] = {
      {5, 9, {2, 3}}, {7, 6, {5, 4, 8}}, {4, 12, {12}}, {3, 8, {1, 1, 1}}, {1, 1, {3, 2}}};
  for (const auto& shape : shapes)
    for (const auto seed : seeds)
      for (const double anchor : {0.0, 0.05, 1.0, 20.0})
        for (const double own : {0.0, 0.5, 1.0})
          for (const auto weighting : {refit_weighting::shift, refit_weighting::rows})
            for (const bool whole : {true, false}) {
              const refit_case<S> l(seed, shape.d_out, shape.d_in, shape.rows);
              const refit_options o{anchor, own, weighting};
              CAPTURE(shape.d_in);
              CAPTURE(anchor);
              CAPTURE(own);
              const Eigen::MatrixXd expected = oracle(l, o, whole, !whole).template cast<double>();
              const Eigen::MatrixXd found = refitted<S>(l.problem(whole, !whole), o);
              // Solved in double by a Gram matrix, whose condition is the square of the rows'
              // (below 1e4 here), and rounded to S.
              CHECK((found - expected).norm() <=
                    (1e-7 + 2 * static_cast<double>(std::numeric_limits<S>::epsilon())) *
                        (1 + expected.norm()));
            }
}

TEST_CASE("refit: the prior is the limit of a large anchor, and stays where no row reaches") {
  const refit_case<double> l(1, 6, 10, {2, 2});
  const Eigen::MatrixXd far = refitted<double>(l.problem(), {1e9});
  CHECK((far - l.prior).norm() <= 1e-7 * l.prior.norm());
  // Four rows of ten columns: the change lies in their span.
  Eigen::MatrixXd z(4, 10);
  z << l.inputs[0], l.inputs[1];
  const Eigen::MatrixXd change = refitted<double>(l.problem(), {0}) - l.prior;
  const Eigen::MatrixXd outside =
      Eigen::MatrixXd::Identity(10, 10) - z.completeOrthogonalDecomposition().pseudoInverse() * z;
  CHECK(change.norm() > 0.1);
  CHECK((change * outside).norm() <= 1e-9 * change.norm());
}

TEST_CASE("refit: LOT without a ridge, on the experts' own inputs and without a prior") {
  refit_case<double> l(2, 6, 9, {7, 8, 5});
  std::vector<Eigen::MatrixXd> experts;
  for (const auto& t : l.vectors) experts.push_back(l.base + t);
  l.features = l.inputs;
  const Eigen::MatrixXd lot =
      catmerge::lot_linear(l.base, experts, l.features, {1, 0}).merged - l.base;
  const Eigen::MatrixXd found =
      refitted<double>(l.problem(false, false), {0, 0, refit_weighting::rows});
  CHECK((found - lot).norm() <= 1e-9 * lot.norm());
}

TEST_CASE("refit: an expert alone, on its own inputs, is that expert") {
  refit_case<double> l(3, 5, 6, {11});
  l.outputs[0] = (l.inputs[0] * (l.base + l.vectors[0]).transpose()).rowwise() +
                 Eigen::RowVectorXd(l.bias.col(0).transpose());
  for (const double own : {0.0, 0.3, 1.0}) {
    const Eigen::MatrixXd found = refitted<double>(l.problem(), {0, own});
    CHECK((found - l.vectors[0]).norm() <= 1e-9 * l.vectors[0].norm());
  }
}

TEST_CASE("refit: weights by shifts do not depend on the length of a task vector's rows") {
  // A task that is 1000 times as far from the base counts as much as the other.
  const refit_case<double> l(4, 5, 6, {9, 9});
  refit_case<double> scaled = l;
  scaled.vectors[1] *= 1000;
  scaled.outputs[1] = scaled.inputs[1] * (scaled.base + scaled.vectors[1]).transpose();
  const refit_options o{0, 0};
  CHECK((refitted<double>(scaled.problem(false, false), o) -
         oracle(scaled, o, false, false).cast<double>())
            .norm() <= 1e-7 * scaled.vectors[1].norm());
  // A task whose vector is zero has no say.
  refit_case<double> still = l;
  still.vectors[1].setZero();
  still.inputs[1] *= 3;
  refit_case<double> alone(4, 5, 6, {9});
  alone.base = l.base, alone.prior = l.prior, alone.bias = l.bias;
  alone.vectors = {l.vectors[0]}, alone.inputs = {l.inputs[0]};
  alone.outputs = {l.outputs[0]}, alone.features = {l.features[0]};
  CHECK((refitted<double>(still.problem(), {1, 0.5}) - refitted<double>(alone.problem(), {1, 0.5}))
            .norm() <= 1e-9);
}

TEST_CASE("refit: rows and settings that do not fit are refused by name") {
  const refit_case<double> l(5, 4, 6, {3, 2});
  const auto message = [&](const catmerge::refit_problem<host>& p, const refit_options& o) {
    try {
      refitted<double>(p, o);
    } catch (const catmerge::error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  CHECK(message(l.problem(), {-1}) == "refit: anchor must be a finite number that is not negative");
  CHECK(message(l.problem(), {std::numeric_limits<double>::quiet_NaN()})
            .starts_with("refit: anchor"));
  CHECK(message(l.problem(), {1, 1.5}) == "refit: own must be from 0 to 1");
  auto p = l.problem();
  p.name = "fc1";
  p.rows.pop_back();
  CHECK(message(p, {}) == "fc1: rows of 1 tasks for 2 task vectors");
  p = l.problem();
  p.rows[1].inputs = const_view_of(l.outputs[1]);
  CHECK(message(p, {}).starts_with("refit: inputs of task 1: expected"));
  p = l.problem();
  p.rows[1].outputs = const_view_of(l.outputs[0]);
  CHECK(message(p, {}).starts_with("refit: outputs of task 1: expected"));
  CHECK(message(p, {1, 0}) == "no error");  // not used
  refit_case<double> bad = l;
  bad.features[0](1, 2) = std::numeric_limits<double>::infinity();
  CHECK(message(bad.problem(), {}) == "refit: features of task 0: a value is not finite");
  p = l.problem();
  p.energies = {1};
  CHECK(message(p, {}) == "refit: energies of 1 tasks for 2 task vectors");
  p.energies = {1, std::numeric_limits<double>::infinity()};
  CHECK(message(p, {}) == "refit: a shift overflows float64");
}

TEST_CASE("refit: known energies of the shifts stand for the features") {
  const refit_case<double> l(11, 5, 7, {4, 2, 6});
  auto p = l.problem();
  for (std::size_t k = 0; k < 3; ++k) {
    p.energies.push_back((l.features[k] * l.vectors[k].transpose()).squaredNorm());
    p.rows[k].features = {};
  }
  const Eigen::MatrixXd expected = refitted<double>(l.problem(), {});
  CHECK((refitted<double>(p, {}) - expected).norm() <= 1e-12 * expected.norm());
  p.energies = {1, 1, 1};  // weights of 1
  const Eigen::MatrixXd by_rows =
      refitted<double>(l.problem(), {1, 0.5, catmerge::refit_weighting::rows});
  CHECK((refitted<double>(p, {}) - by_rows).norm() <= 1e-12 * by_rows.norm());
  CHECK((by_rows - expected).norm() > 1e-3 * expected.norm());
}

TEST_CASE("refit: a prior or a bias that does not fit is refused by name") {
  const refit_case<double> l(9, 4, 6, {3, 2});
  host c;
  Eigen::MatrixXd tau = l.base;
  const auto message = [&](const refit_case<double>& wrong) {
    try {
      catmerge::refit_linear(c, wrong.problem(), {}, view_of(tau));
    } catch (const catmerge::error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  auto wrong = l;
  wrong.prior = l.prior.transpose().eval();
  CHECK(message(wrong).starts_with("refit: the prior: expected"));
  wrong = l;
  wrong.prior(1, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK(message(wrong) == "refit: the prior: a value is not finite");
  wrong = l;
  wrong.bias(2) = std::numeric_limits<double>::infinity();
  CHECK(message(wrong) == "refit: the bias: a value is not finite");
}

TEST_CASE("refit: FeatCal's weights, its formula in long double") {
  // The weights of egangu/featcal, with the task vectors of a merge of its own as the anchor.
  const double a = 0.25, lambda = 0.05, rho = 2.2;
  refit_case<double> l(6, 5, 7, {20, 15, 30});
  const exact base = l.base.cast<long double>(), anchor = base + rho * l.prior.cast<long double>();
  const index_t d = l.base.cols();
  exact left = lambda * anchor, right = lambda * exact::Identity(d, d);
  long double trace = 0;
  for (std::size_t k = 0; k < l.vectors.size(); ++k) {
    const exact student = l.inputs[k].cast<long double>(),
                expert = l.features[k].topRows(student.rows()).cast<long double>(),
                weight = base + l.vectors[k].cast<long double>(),
                target = a * expert + (1 - a) * student;
    const auto n = static_cast<long double>(student.rows());
    const exact moment = student.transpose() * student / n;
    left += weight * (student.transpose() * target / n).transpose() / moment.norm();
    right += moment / moment.norm();
    trace += moment.trace() / moment.norm();
    const long double root = std::sqrt((student.transpose() * student).eval().norm());
    l.outputs[k] = (expert * weight.transpose() / root).cast<double>();
    l.inputs[k] = (student / root).cast<double>();
  }
  const exact expected = Eigen::LLT<exact>(right).solve(left.transpose()).transpose();
  l.prior *= rho;
  const refit_options o{lambda * static_cast<double>(d) / static_cast<double>(trace), a,
                        refit_weighting::rows};
  const Eigen::MatrixXd found = l.base + refitted<double>(l.problem(true, false), o);
  CHECK((found - expected.cast<double>()).norm() <= 1e-10 * found.norm());
}

namespace {

/// The experts of a case, as its task vectors form them again.
template <class S>
std::vector<typename refit_case<S>::matrix> experts_of(refit_case<S>& l) {
  std::vector<typename refit_case<S>::matrix> experts;
  for (auto& t : l.vectors) {
    experts.push_back(l.base + t);
    t = experts.back() - l.base;
  }
  return experts;
}

}  // namespace

TEST_CASE_TEMPLATE("refit: the call on tensors is refit_linear on their handles", S, double,
                   float) {
  refit_case<S> l(7, 9, 12, {5, 4, 8});
  const auto experts = experts_of(l);
  const Eigen::Matrix<S, Eigen::Dynamic, 1> bias = l.bias;
  const std::vector<typename refit_case<S>::matrix> none;
  const auto check = [&](const auto& result, bool prior, bool with_bias, const refit_options& o) {
    typename refit_case<S>::matrix tau = l.base, expected = l.base;
    host c;
    catmerge::refit_linear(c, l.problem(prior, with_bias), o, view_of(tau));
    CHECK(same_bits(result.merged, (l.base + tau).eval()));
    CHECK(result.report.kind == catmerge::layer_kind::linear);
    CHECK(result.report.fallback == catmerge::fallback_rule::none);
  };
  using catmerge::refit;
  using catmerge::refit_data;
  const refit_options o{0.3, 0.4}, rows{0, 0, refit_weighting::rows};
  check(refit(l.base, experts, refit_data{l.inputs, l.outputs, l.features}), false, false, {});
  check(refit(l.base, experts, refit_data{l.inputs, l.outputs, l.features, &l.prior}, o), true,
        false, o);
  check(refit(l.base, experts, refit_data{l.inputs, l.outputs, l.features, &l.prior, &bias}, o),
        true, true, o);
  check(refit(l.base, experts, refit_data{l.inputs, l.outputs, l.features, nullptr, &bias}, o),
        false, true, o);
  check(refit(l.base, experts, refit_data{l.inputs, none, none}, rows), false, false, rows);
  const typename refit_case<S>::matrix* missing = nullptr;
  host c(scrambled(3));
  check(refit(l.base, experts, refit_data{l.inputs, l.outputs, l.features, missing}, o, c), false,
        false, o);
}

TEST_CASE("refit: the call on tensors in half precision, and on the device") {
  refit_case<catmerge::half> l(8, 10, 14, {6, 7});
  std::vector<refit_case<catmerge::half>::matrix> experts;
  for (const auto& t : l.vectors) {
    experts.push_back(l.base);
    for (index_t i = 0; i < t.size(); ++i)
      experts.back()(i) =
          static_cast<catmerge::half>(static_cast<float>(l.base(i)) + static_cast<float>(t(i)));
  }
  const vector_of<catmerge::half> bias = l.bias;
  const Eigen::MatrixXf merged =
      catmerge::refit(l.base, experts,
                      catmerge::refit_data{l.inputs, l.outputs, l.features, &l.prior, &bias})
          .merged;
  const auto upload = [](const auto& all) {
    std::vector<fake_tensor<2>> list;
    for (const auto& m : all) list.push_back(fake_tensor<2>::upload(m));
    return list;
  };
  const auto base = fake_tensor<2>::upload(l.base), prior = fake_tensor<2>::upload(l.prior);
  const auto there = fake_tensor<1>::upload(bias);
  const auto e = upload(experts), z = upload(l.inputs), y = upload(l.outputs),
             x = upload(l.features);
  fake_traffic() = {};
  const auto found = catmerge::refit(base, e, catmerge::refit_data{z, y, x, &prior, &there}).merged;
  // Blocks on the diagonal of the equations, in and out.
  CHECK(fake_traffic().largest <= sizeof(double) * 64 * 64);
  CHECK(same_bits(found.download<float>(), merged));
}

TEST_CASE("refit: tasks and extents that do not match are refused by name") {
  refit_case<double> l(10, 4, 6, {3, 2});
  auto experts = experts_of(l);
  const auto message = [&](const auto& data, const refit_options& o = {}) {
    try {
      catmerge::refit(l.base, experts, data, o);
    } catch (const catmerge::error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  using catmerge::refit_data;
  const std::vector<Eigen::MatrixXd> one{l.inputs[0]}, none;
  CHECK(message(refit_data{one, l.outputs, l.features}) ==
        "refit: inputs of 1 tasks for 2 experts");
  CHECK(message(refit_data{l.inputs, none, l.features}) ==
        "refit: outputs of 0 tasks for 2 experts");
  CHECK(message(refit_data{l.inputs, l.outputs, none}) ==
        "refit: features of 0 tasks for 2 experts");
  CHECK(message(refit_data{l.inputs, none, l.features}, {1, 0}) == "no error");
  CHECK(message(refit_data{l.outputs, l.outputs, l.features})
            .starts_with("refit: inputs of task 0: expected"));
  CHECK(message(refit_data{l.inputs, l.outputs, l.features}, {1, 2}) ==
        "refit: own must be from 0 to 1");
  experts[1](0, 0) = std::numeric_limits<double>::infinity();
  CHECK(message(refit_data{l.inputs, l.outputs, l.features}) ==
        "the parameter: expert 'task 1' holds a value that is not finite");
  experts.clear();
  CHECK(message(refit_data{none, none, none}) == "the parameter: there are no experts to merge");
}
