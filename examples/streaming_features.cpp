// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// Statistics gathered batch by batch. Two workers see half of the batches each and keep at most
// d_in x d_in numbers for a linear layer and d_in for a scale: all that CAT needs.
#include <catmerge/catmerge.hpp>
#include <cstdio>
#include <random>
#include <thread>

using matrix = Eigen::MatrixXf;
using vector = Eigen::VectorXf;
constexpr int d_out = 12, d_in = 16, tasks = 3, batches = 40, batch_rows = 25;

matrix uniform(std::mt19937& bits, int rows, int columns) {
  const auto number = [&] { return static_cast<float>(bits()) * 0x1p-31F - 1; };
  return matrix::NullaryExpr(rows, columns, number);
}

// One batch of features, as a network would compute them from a batch of images.
matrix batch_of(int task, int batch) {
  std::mt19937 bits(static_cast<unsigned>(1000 * task + batch));
  const vector busy = vector::LinSpaced(d_in, 0.2F, static_cast<float>(1 + task));
  return uniform(bits, batch_rows, d_in) * busy.asDiagonal();
}

struct worker {
  catmerge::feature_statistics<> linear;
  catmerge::moment_statistics<> scale;

  void run(int task, int first, int count) {
    for (int b = first; b < first + count; ++b) {
      const matrix rows = batch_of(task, b);
      linear.update(rows);
      scale.update(rows);
    }
  }
};

int main() {
  std::mt19937 bits(7);
  const matrix base = 0.1F * uniform(bits, d_out, d_in);
  const vector gamma = vector::Ones(d_in);
  std::vector<matrix> experts, all_rows;
  std::vector<vector> scales;
  std::vector<catmerge::feature_statistics<>> linear_statistics;
  std::vector<catmerge::moment_statistics<>> scale_statistics;
  for (int task = 0; task < tasks; ++task) {
    experts.push_back(base + 0.1F * uniform(bits, d_out, d_in));
    scales.push_back(gamma + 0.1F * uniform(bits, d_in, 1));
    worker one, two;
    std::thread other([&] { two.run(task, batches / 2, batches / 2); });
    one.run(task, 0, batches / 2);
    other.join();
    one.linear.combine(two.linear);  // `one` now stands for all batches
    one.scale.combine(two.scale);
    linear_statistics.push_back(std::move(one.linear));
    scale_statistics.push_back(std::move(one.scale));
    all_rows.emplace_back(batches * batch_rows, d_in);
    for (int b = 0; b < batches; ++b)
      all_rows.back().middleRows(b * batch_rows, batch_rows) = batch_of(task, b);
  }

  // Statistics can replace rows in every call. Results agree up to the order of sums.
  catmerge::cat_options options;
  options.linear.lambda = 1;
  const auto streamed = catmerge::cat_linear(base, experts, linear_statistics, options);
  const matrix at_once = catmerge::cat_linear(base, experts, all_rows, options).merged;
  const bool same = streamed.merged.isApprox(at_once);
  const vector scale = catmerge::cat_scale(gamma, scales, scale_statistics).merged;
  const bool same_scale = scale.isApprox(catmerge::cat_scale(gamma, scales, all_rows).merged);
  const auto [form, kept, seen] = linear_statistics[0].view();
  std::printf("per task: %.0f rows seen, %td x %td numbers kept\n", seen, kept.rows, kept.columns);
  for (const auto& p : streamed.report.trim->protections)
    std::printf("directions removed to protect task %td: %zu\n", p.task, p.eigenvalues.size());
  const auto word = [](bool yes) { return yes ? "equal" : "DIFFERENT"; };
  std::printf("by statistics and by rows: linear %s, scale %s\n", word(same), word(same_scale));
  return same && same_scale && streamed.report.trim->energy_removed[0] > 0 ? 0 : 1;
}
