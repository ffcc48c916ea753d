// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Dense>
#include <catmerge/catmerge.hpp>
#include <cmath>
#include <cstdint>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

/// Artificial layers of the size of a real network's, the same on every machine.
namespace catmerge_benchmark {

using catmerge::index_t;
/// As checkpoints store weights: row-major float.
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// One linear layer of several tasks.
struct layer {
  matrix base;                   ///< d_out x d_in
  std::vector<matrix> experts;   ///< d_out x d_in per task
  std::vector<matrix> vectors;   ///< experts - base
  std::vector<matrix> features;  ///< rows x d_in per task
};

/// Uniform entries in [-1, 1) of the library's own generator (splitmix64).
inline matrix uniform(index_t rows, index_t columns, std::uint64_t seed) {
  return catmerge::detail::seeded_block(rows, columns, seed).cast<float>();
}

/// A layer with the features of trained ones that decide the difficulty of its eigenproblem:
/// - features: a mean that all tasks share, with half of the energy, plus directions (of each
///   task's own, randomly mixed) with a standard deviation that decays as j^-1;
/// - vectors: rank 16 with factors of equal size, with half of the energy, plus noise; 2 % of the
///   base's norm.
inline layer make_layer(index_t d_out, index_t d_in, index_t tasks, index_t rows,
                        std::uint64_t seed = 1) {
  constexpr index_t rank = 16, directions = 128;
  layer l;
  std::uint64_t next = seed * 1'000'003;
  const auto random = [&](index_t m, index_t n) {
    return uniform(m, n, next += 0x51ED270B7F4A7C15);
  };
  const auto to_norm = [](matrix m, float norm) -> matrix { return m * (norm / m.norm()); };

  l.base = random(d_out, d_in) / std::sqrt(static_cast<float>(d_in));
  const matrix mean = random(1, d_in);
  for (index_t k = 0; k < tasks; ++k) {
    const float half = 0.01F * l.base.norm() * std::sqrt(2.0F);
    const matrix up = random(d_out, rank), down = random(rank, d_in);
    matrix vector = to_norm(up * down, half);
    vector += to_norm(random(d_out, d_in), half);
    l.vectors.push_back(vector);
    l.experts.push_back(l.base + vector);

    matrix weights = random(rows, directions);
    for (index_t j = 0; j < directions; ++j) weights.col(j) /= static_cast<float>(j + 1);
    const matrix mix = random(directions, d_in);
    const float size = std::sqrt(static_cast<float>(rows * d_in) / 2);
    matrix x = to_norm(weights * mix, size);
    x += to_norm(mean.replicate(rows, 1), size);
    l.features.push_back(x);
  }
  return l;
}

/// The same, made once per process.
inline const layer& cached_layer(index_t d_out, index_t d_in, index_t tasks, index_t rows) {
  static std::map<std::tuple<index_t, index_t, index_t, index_t>, layer> cache;
  const auto key = std::tuple(d_out, d_in, tasks, rows);
  const auto found = cache.find(key);
  if (found != cache.end()) return found->second;
  cache.clear();  // one at a time: eight tasks of 3072 x 768 take 150 MB
  return cache.emplace(key, make_layer(d_out, d_in, tasks, rows)).first->second;
}

}  // namespace catmerge_benchmark
