// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
// Metrics against scikit-learn's and SciPy's values, against their definitions, and what must hold
// of them for any data.
#include <doctest/doctest.h>

#include <cmath>
#include <harness/networks/data/average.hpp>
#include <harness/networks/data/metrics.hpp>
#include <harness/networks/data/output_distance.hpp>
#include <random>

#include "support/networks/fixtures.hpp"

using namespace network_test;
using harness::accuracy;
using harness::f1;
using harness::matthews;
using harness::pearson;
using harness::spearman;

namespace {

using classes_t = std::vector<std::int64_t>;
using values_t = std::vector<double>;

classes_t random_classes(std::mt19937& random, std::size_t n, unsigned count) {
  classes_t result(n);
  for (auto& k : result) k = random() % count;
  return result;
}

values_t random_values(std::mt19937& random, std::size_t n, int different) {
  values_t result(n);
  for (auto& v : result) v = int(random() % unsigned(different)) - different / 2 + 0.25;
  return result;
}

/// The same permutation of both.
template <class T>
void shuffle_both(std::mt19937& random, std::vector<T>& a, std::vector<T>& b) {
  for (std::size_t i = a.size(); i-- > 1;) {
    const std::size_t j = random() % (i + 1);
    std::swap(a[i], a[j]);
    std::swap(b[i], b[j]);
  }
}

}  // namespace

// The numbers are what these print, p being the predictions and t the labels (scikit-learn 1.9.1,
// SciPy 1.17.1):
//   100 * accuracy_score(t, p), 100 * matthews_corrcoef(t, p), 100 * f1_score(t, p),
//   100 * pearsonr(p, t)[0], 100 * spearmanr(p, t)[0]
TEST_CASE("values of scikit-learn and SciPy") {
  const classes_t p3 = {0, 2, 1, 1, 2, 0, 0, 1, 2, 1}, t3 = {0, 2, 1, 0, 2, 1, 0, 1, 0, 2};
  CHECK(accuracy(p3, t3) == doctest::Approx(60.0).epsilon(1e-14));
  CHECK(matthews(p3, t3) == doctest::Approx(40.909090909090914).epsilon(1e-14));
  const classes_t p2 = {1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1};
  const classes_t t2 = {1, 0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 1};
  CHECK(accuracy(p2, t2) == doctest::Approx(75.0).epsilon(1e-14));
  CHECK(matthews(p2, t2) == doctest::Approx(50.709255283710995).epsilon(1e-14));
  CHECK(f1(p2, t2) == doctest::Approx(76.92307692307693).epsilon(1e-14));
  const values_t p = {0.1, -2.5, 3.25, 3.25, 1e3, 0.0, 7.5, -0.125};
  const values_t t = {1.0, 0.5, 2.5, 4.0, 5.0, 1.0, 1.0, 0.0};
  CHECK(pearson(p, t) == doctest::Approx(70.8742143151494).epsilon(1e-13));
  CHECK(spearman(p, t) == doctest::Approx(82.22251619036417).epsilon(1e-13));
}

TEST_CASE("two classes, by the four counts") {
  for (int tp = 0; tp < 4; ++tp) {
    for (int tn = 0; tn < 4; ++tn) {
      for (int fp = 0; fp < 4; ++fp) {
        for (int fn = tp + tn + fp == 0 ? 1 : 0; fn < 4; ++fn) {
          classes_t predicted, labels;
          const auto add = [&](int count, int p, int t) {
            predicted.insert(predicted.end(), std::size_t(count), p);
            labels.insert(labels.end(), std::size_t(count), t);
          };
          add(tp, 1, 1), add(tn, 0, 0), add(fp, 1, 0), add(fn, 0, 1);
          const double n = tp + tn + fp + fn;
          CHECK(accuracy(predicted, labels) == doctest::Approx(100 * (tp + tn) / n));
          const double product = double(tp + fp) * (tp + fn) * (tn + fp) * (tn + fn);
          CHECK(matthews(predicted, labels) ==
                doctest::Approx(product == 0 ? 0 : 100 * (tp * tn - fp * fn) / std::sqrt(product)));
          const double precision = tp == 0 ? 0 : double(tp) / (tp + fp);
          const double recall = tp == 0 ? 0 : double(tp) / (tp + fn);
          CHECK(f1(predicted, labels) ==
                doctest::Approx(tp == 0 ? 0 : 200 * precision * recall / (precision + recall)));
        }
      }
    }
  }
}

TEST_CASE("classes: perfect, by chance, in any order, under any names") {
  std::mt19937 random(3);
  for (const unsigned count : {2U, 3U, 7U}) {
    classes_t p = random_classes(random, 200, count), t = random_classes(random, 200, count);
    CHECK(matthews(t, t) == doctest::Approx(100));
    CHECK(accuracy(t, t) == 100);
    CHECK(matthews(classes_t(200, 1), t) == 0);
    CHECK(matthews(t, classes_t(200, 1)) == 0);
    CHECK(matthews(classes_t(200, 1), classes_t(200, 1)) == 0);
    const double before = matthews(p, t);
    CHECK(before == doctest::Approx(matthews(t, p)));
    // The correlation of the two indicator matrices, columns centred: Gorodkin's definition.
    double both = 0, of_p = 0, of_t = 0;
    for (unsigned k = 0; k < count; ++k) {
      double mean_p = 0, mean_t = 0;
      for (std::size_t i = 0; i < 200; ++i) {
        mean_p += (p[i] == k ? 1.0 : 0.0) / 200;
        mean_t += (t[i] == k ? 1.0 : 0.0) / 200;
      }
      for (std::size_t i = 0; i < 200; ++i) {
        const double a = (p[i] == k ? 1.0 : 0.0) - mean_p, b = (t[i] == k ? 1.0 : 0.0) - mean_t;
        both += a * b, of_p += a * a, of_t += b * b;
      }
    }
    CHECK(before == doctest::Approx(100 * both / std::sqrt(of_p * of_t)));
    const double share = accuracy(p, t), harmonic = f1(p, t);
    shuffle_both(random, p, t);
    CHECK(matthews(p, t) == before);
    CHECK(accuracy(p, t) == share);
    CHECK(f1(p, t) == harmonic);
    for (auto& k : p) k = 10 * k + 5;
    for (auto& k : t) k = 10 * k + 5;
    CHECK(matthews(p, t) == before);
  }
  CHECK(f1(classes_t{0, 0}, classes_t{0, 0}) == 0);
}

TEST_CASE("ranks: brute force, with ties") {
  std::mt19937 random(4);
  for (const int different : {2, 5, 1000}) {
    const values_t x = random_values(random, 60, different);
    const values_t ranks = harness::average_ranks(x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      double below = 0, equal = 0;
      for (const double other : x) {
        below += other < x[i] ? 1 : 0;
        equal += other == x[i] ? 1 : 0;
      }
      CHECK(ranks[i] == below + (equal + 1) / 2);
    }
  }
}

TEST_CASE("correlations: order, lines, rising functions, other sizes") {
  std::mt19937 random(5);
  for (const int different : {4, 1000}) {
    values_t x = random_values(random, 80, different), y = random_values(random, 80, different);
    for (std::size_t i = 0; i < x.size(); ++i) y[i] += 0.5 * x[i];
    const double r = pearson(x, y), rho = spearman(x, y);
    CHECK(spearman(x, y) ==
          doctest::Approx(pearson(harness::average_ranks(x), harness::average_ranks(y))));
    CHECK(pearson(y, x) == doctest::Approx(r));
    CHECK(std::abs(r) <= 100 + 1e-9);
    values_t line = x, cubes = x, huge = x, tiny = x;
    for (std::size_t i = 0; i < x.size(); ++i) {
      line[i] = -3 * x[i] + 7;
      cubes[i] = x[i] * x[i] * x[i];
      huge[i] = x[i] * 1e300;
      tiny[i] = x[i] * 1e-300;
    }
    CHECK(pearson(line, x) == doctest::Approx(-100));
    CHECK(pearson(line, y) == doctest::Approx(-r));
    CHECK(spearman(cubes, y) == doctest::Approx(rho));
    CHECK(pearson(huge, y) == doctest::Approx(r));
    CHECK(pearson(tiny, y) == doctest::Approx(r));
    shuffle_both(random, x, y);
    CHECK(pearson(x, y) == doctest::Approx(r));
    CHECK(spearman(x, y) == doctest::Approx(rho));
  }
  CHECK(pearson(values_t{1, 2}, values_t{5, 3}) == doctest::Approx(-100));
  for (const auto& metric : {pearson, spearman}) {
    check_message(message_of([&] {
                    metric(values_t{1, 1, 1}, values_t{1, 2, 3});
                  }),
                  {"undefined", "all predictions are equal"});
    check_message(message_of([&] {
                    metric(values_t{1, 2, 3}, values_t{2, 2, 2});
                  }),
                  {"undefined", "all labels are equal"});
    check_message(message_of([&] { metric(values_t{1}, values_t{2}); }), {"undefined"});
  }
}

TEST_CASE("the distance of outputs from an expert's is the divergence of softened answers") {
  using harness::matrix;
  const auto distance = [](const matrix& z, const matrix& e) {
    const auto of_samples = harness::output_distances(harness::view(z), harness::view(e));
    CHECK(std::ssize(of_samples) == z.rows());
    return harness::average_of(of_samples);
  };
  // By its definition, in plain loops.
  matrix z(3, 4), e(3, 4);
  z << 1, -2, 0.5F, 3, 0, 0, 0, 0, 40, -40, 2, 1;
  e << 0, 1, -1, 2, 3, 1, 0, -5, -40, 40, 0, 0;
  double expected = 0;
  for (int i = 0; i < 3; ++i) {
    double of_z = 0, of_e = 0;
    for (int j = 0; j < 4; ++j) of_z += std::exp(z(i, j) / 2.0), of_e += std::exp(e(i, j) / 2.0);
    for (int j = 0; j < 4; ++j) {
      const double p = std::exp(z(i, j) / 2.0) / of_z, q = std::exp(e(i, j) / 2.0) / of_e;
      expected += 4 * p * std::log(p / q) / 3;
    }
  }
  CHECK(distance(z, e) == doctest::Approx(expected).epsilon(1e-12));
  CHECK(distance(z, z) == 0);
  CHECK(distance(z, e) != doctest::Approx(distance(e, z)).epsilon(1e-3));  // z first
  // A constant added to all classes changes nothing; far logits do not overflow.
  CHECK(distance(z.array() + 8, e) == doctest::Approx(expected).epsilon(1e-6));
  CHECK(std::isfinite(distance(z * 1e6F, e * 1e6F)));
  // Values: 1 is the error of the expert's mean.
  matrix values(4, 1), mean(4, 1);
  values << 1, 2, 3, 6;
  mean.setConstant(3);
  CHECK(distance(mean, values) == doctest::Approx(1));
  CHECK(distance(values, values) == 0);
  CHECK(distance(10 * mean, 10 * values) == doctest::Approx(1));
  CHECK(distance(values, mean) == doctest::Approx(3.5));  // a constant expert: the error itself
}
