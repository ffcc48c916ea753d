// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// An experiment with one step of CAT, on xtensor's tensors: how many directions are worth removing?
// For each task k the removal basis B_k minimises Eq. 8 of the paper,
//     sum_{i != k} ||X_k (T_i - B_k B_k^T T_i)^T||^2 + lambda ||X_i (B_k B_k^T T_i)^T||^2,
// inter-task conflict plus lambda times deviation. The sweep is over lambda and the rank of B_k.
#include <catmerge/adapt/xtensor.hpp>
#include <catmerge/cat/projection.hpp>
#include <catmerge/features/conflict.hpp>
#include <cmath>
#include <cstdio>
#include <random>

using matrix = xt::xtensor<double, 2>;
constexpr std::size_t tasks = 3, d_out = 10, d_in = 24, samples = 4;

matrix noise(std::mt19937& bits, std::size_t rows, std::size_t columns) {
  matrix m({rows, columns});
  for (double& x : m) x = static_cast<double>(bits()) * 0x1p-31 - 1;
  return m;
}

struct point {
  double objective = 0;        // Eq. 8, summed over the protected tasks
  double predicted = 0;        // the same from the eigenvalues alone
  catmerge::index_t rank = 0;  // directions removed
};

point measure(const std::vector<matrix>& vectors, const std::vector<matrix>& inputs,
              const catmerge::projection_options& options) {
  constexpr auto linear = catmerge::layer_kind::linear;
  point p;
  for (std::size_t k = 0; k < tasks; ++k) {
    const auto found =
        catmerge::removal_basis(static_cast<catmerge::index_t>(k), vectors, inputs, options);
    p.rank += std::ssize(found.eigenvalues);
    for (const double value : found.eigenvalues) p.predicted -= value;  // each lowers Eq. 8
    for (std::size_t i = 0; i < tasks; ++i) {
      if (i == k) continue;
      matrix trimmed = vectors[i];
      catmerge::project_out(found.basis, trimmed);
      const matrix lost = vectors[i] - trimmed;
      p.objective += catmerge::feature_shift(linear, inputs[k], trimmed) +
                     options.lambda * catmerge::feature_shift(linear, inputs[i], lost);
      p.predicted += catmerge::feature_shift(linear, inputs[k], vectors[i]);
    }
  }
  return p;
}

int main() {
  std::mt19937 bits(3);
  std::vector<matrix> vectors, inputs;
  for (std::size_t k = 0; k < tasks; ++k) {
    vectors.push_back(0.1 * noise(bits, d_out, d_in));  // T_k, d_out x d_in
    inputs.push_back(noise(bits, samples, d_in));       // X_k, n_k x d_in
  }
  std::printf("Eq. 8 summed over %zu tasks (directions removed from their neighbours)\n", tasks);
  std::printf("lambda  rank 0       rank 1       rank 2       rank 4       rank 8\n");
  bool holds = true;
  for (const double lambda : {0.0, 0.5, 1.0, 5.0}) {
    std::printf("%6.1f", lambda);
    point before{1e300};
    for (const catmerge::index_t rank : {0, 1, 2, 4, 8}) {
      const catmerge::projection_options options{catmerge::largest{rank}, lambda};
      const point now = measure(vectors, inputs, options);
      std::printf("  %6.3f (%2td)", now.objective, now.rank);
      // Each further direction lowers Eq. 8 by its eigenvalue; without one nothing changes.
      holds = holds && (now.rank > before.rank ? now.objective < before.objective
                                               : now.objective <= before.objective + 1e-9);
      holds = holds && std::abs(now.objective - now.predicted) < 1e-9;
      before = now;
    }
    std::printf("\n");
  }
  return holds ? 0 : 1;
}
