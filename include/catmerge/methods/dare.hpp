// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/merge/method.hpp>
#include <catmerge/merge/vectors.hpp>
#include <catmerge/numeric/strips.hpp>
#include <cstdint>
#include <string_view>

namespace catmerge {

namespace detail {

/// SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014),
/// as a function of a key and a counter: number i of the sequence that starts from the key.
constexpr std::uint64_t random_bits(std::uint64_t key, std::uint64_t i) {
  std::uint64_t z = key + (i + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

/// FNV-1a, 64 bits (RFC 9923).
constexpr std::uint64_t hash_of(std::string_view text) {
  std::uint64_t h = 0xcbf29ce484222325;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return h;
}

}  // namespace detail

/// Settings of DARE.
struct dare_options {
  /// p, the probability to drop an entry. The paper's abstract drops 90 % or even 99 % of the
  /// changes of supervised fine-tuning; the authors' merges search 0.1, 0.3 ... 0.9. Vectors with
  /// larger entries allow a smaller p.
  double drop = 0.9;
  std::uint64_t seed = 0;  ///< another seed drops other entries
};

/// Throws catmerge::error for a probability outside [0, 1).
inline void validate(const dare_options& options) {
  if (!(options.drop >= 0 && options.drop < 1))
    throw error("DARE: the probability to drop an entry must be at least 0 and below 1");
}

/// DARE (Yu, Yu, Yu, Huang, Li, "Language Models are Super Mario: Absorbing Abilities from
/// Homologous Models as a Free Lunch", ICML 2024, arXiv 2311.03099), a transform of task vectors
/// (method.hpp) before any method: `chain{dare_transform{}, task_arithmetic_method{}}`.
///
///     T_k <- (M_k o T_k) / (1 - p),   each entry of M_k 1 with probability 1 - p, else 0
///
/// Applies to every parameter, layer by layer; needs nothing but vectors. An entry of M_k depends
/// on the seed, the task's place among the experts, the tensor's name and the entry's place in it
/// (row by row) alone. It is the same with every backend, at every number of threads, in every run,
/// and for a table whole or in pieces. Masks are made on the host in strips of at most 2^18 entries
/// (or one row), then copied to the context. mergekit's `rescale` is another rule: it restores sum
/// |T_k|.
struct dare_transform {
  dare_options options{};  ///< checked by validate in each apply

  /// Drops entries of every T_k and scales the rest, in place.
  template <class Context>
  void apply(Context& c, const layer_problem<Context>& p, vector_list<Context> vectors,
             layer_report&) const {
    validate(options);
    for (std::size_t k = 0; k < vectors.size(); ++k) {
      using detail::random_bits;
      const std::uint64_t key =
          random_bits(random_bits(options.seed, k), detail::hash_of(p.names.tensor()));
      detail::for_strips(c, vectors[k], [&](const detail::strip<Context>& cut) {
        auto mask = cut.make(c.type(vectors[k]));
        c.from_host(kept(key, (p.names.first_row + cut.row) * cut.columns, cut.rows, cut.columns),
                    mask);
        c.zip(pair_function::product, mask, cut(vectors[k]), cut(vectors[k]));
      });
      c.scale(1 / (1 - options.drop), vectors[k]);
    }
  }

 private:
  /// The mask of the entries from number `first` on: 1 keeps an entry, 0 drops it.
  small_matrix kept(std::uint64_t key, index_t first, index_t rows, index_t columns) const {
    small_matrix mask(rows, columns);
    for (index_t j = 0; j < columns; ++j)
      for (index_t i = 0; i < rows; ++i) {
        const auto entry = static_cast<std::uint64_t>(first + i * columns + j);
        // The upper 53 bits as a number in [0, 1).
        const double uniform = static_cast<double>(detail::random_bits(key, entry) >> 11) * 0x1p-53;
        mask(i, j) = uniform >= options.drop ? 1 : 0;
      }
    return mask;
  }
};

}  // namespace catmerge
