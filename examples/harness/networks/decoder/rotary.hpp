// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <harness/networks/activations.hpp>
#include <numbers>
#include <vector>

/// Rotary positions (Su et al., RoFormer), and the scalings that stretch them to longer texts, as
/// transformers computes them: in float32, because an angle of a late position shows its rounding.
namespace catmerge::harness {

/// How the frequencies of a network differ from base^(-2 i / width).
enum class rotary_scaling : unsigned char {
  none,
  linear,   ///< all divided by a factor (position interpolation)
  dynamic,  ///< a larger base for texts longer than the network knows (NTK-aware)
  llama3,   ///< low frequencies divided, high ones kept, a ramp between them (Llama 3.1)
  yarn,     ///< a ramp over the columns, and longer queries and keys (Peng et al., YaRN)
  longrope  ///< a factor per column, one list for short texts and one for long (Ding et al.)
};

/// The rotation of queries and keys by a token's position.
struct rotary {
  index_t width = 0;  ///< of a head's columns the first so many turn; even
  float base = 10000.0F;
  rotary_scaling scaling = rotary_scaling::none;
  double factor = 1;
  /// Tokens of the longest text that the network knew: max_position_embeddings for dynamic,
  /// original_max_position_embeddings for llama3, yarn and longrope.
  index_t length = 0;
  double low = 1, high = 4;                  ///< llama3: low_freq_factor, high_freq_factor
  double beta_fast = 32, beta_slow = 1;      ///< yarn
  bool truncate = true;                      ///< yarn: the ends of the ramp are whole columns
  std::vector<float> short_list, long_list;  ///< longrope: width / 2 factors each
  float stretch = 1;  ///< yarn, longrope: the factor of cosines and sines (attention_factor)

  /// The angle per position of each of the width / 2 pairs of columns, for a text of `tokens`.
  std::vector<float> frequencies(index_t tokens) const {
    const auto pairs = static_cast<std::size_t>(width / 2);
    std::vector<float> periods(pairs), found(pairs);  // base^(2 i / width), and 1 over it
    const float own_base = base_for(tokens);
    for (std::size_t i = 0; i < pairs; ++i) {
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(width);
      periods[i] = std::pow(own_base, exponent);
      found[i] = 1.0F / periods[i];
    }
    switch (scaling) {
      case rotary_scaling::none:
      case rotary_scaling::dynamic: break;
      case rotary_scaling::linear:
        for (float& f : found) f /= static_cast<float>(factor);
        break;
      case rotary_scaling::llama3:
        for (float& f : found) f = by_wavelength(f);
        break;
      case rotary_scaling::yarn:
        for (std::size_t i = 0; i < pairs; ++i) {
          const float kept = 1.0F - ramp(static_cast<float>(i));
          found[i] =
              1.0F / (static_cast<float>(factor) * periods[i]) * (1.0F - kept) + found[i] * kept;
        }
        break;
      case rotary_scaling::longrope: {
        const auto& list = tokens > length ? long_list : short_list;
        for (std::size_t i = 0; i < pairs; ++i) found[i] = 1.0F / (list[i] * periods[i]);
        break;
      }
    }
    return found;
  }

 private:
  float base_for(index_t tokens) const {
    if (scaling != rotary_scaling::dynamic) return base;
    const auto known = static_cast<double>(length);
    const auto used = static_cast<double>(std::max(tokens, length));
    const auto d = static_cast<double>(width);
    return static_cast<float>(base * std::pow(factor * used / known - (factor - 1), d / (d - 2)));
  }

  float by_wavelength(float frequency) const {
    const double turns = static_cast<double>(length) * frequency / (2 * std::numbers::pi);
    if (turns > high) return frequency;
    const auto divided = static_cast<float>(frequency / factor);
    if (turns < low) return divided;
    const auto smooth = static_cast<float>((turns - low) / (high - low));
    return (1.0F - smooth) * divided + smooth * frequency;
  }

  /// 0 for columns that keep their frequency, 1 for those whose frequency is divided.
  float ramp(float column) const {
    const auto d = static_cast<double>(width);
    // The column of which a text of `length` tokens makes so many turns.
    const auto column_of = [&](double turns) {
      return d * std::log(static_cast<double>(length) / (turns * 2 * std::numbers::pi)) /
             (2 * std::log(static_cast<double>(base)));
    };
    double first = column_of(beta_fast), last = column_of(beta_slow);
    if (truncate) {
      first = std::floor(first);
      last = std::ceil(last);
    }
    first = std::max(first, 0.0);
    last = std::min(last, d - 1);
    if (first == last) last += 0.001;
    const auto at = (column - static_cast<float>(first)) / static_cast<float>(last - first);
    return std::clamp(at, 0.0F, 1.0F);
  }
};

/// The cosines and sines of a text's positions: tokens x width / 2.
struct rotation {
  matrix cosines, sines;

  rotation(const rotary& by, index_t tokens)
      : cosines(tokens, by.width / 2), sines(tokens, by.width / 2) {
    const auto frequencies = by.frequencies(tokens);
    for (index_t position = 0; position < tokens; ++position) {
      for (index_t i = 0; i < by.width / 2; ++i) {
        const float angle = static_cast<float>(position) * frequencies[static_cast<std::size_t>(i)];
        cosines(position, i) = std::cos(angle) * by.stretch;
        sines(position, i) = std::sin(angle) * by.stretch;
      }
    }
  }

  /// Turns the heads, side by side in the columns of x, whose rows `first`, first + 1, ... are the
  /// text's tokens. Columns i and i + width / 2 of a head are a pair.
  void apply(matrix& x, index_t first, index_t head_width) const {
    const index_t half = cosines.cols();
    for (index_t position = 0; position < cosines.rows(); ++position) {
      const auto c = cosines.row(position).array(), s = sines.row(position).array();
      for (index_t column = 0; column < x.cols(); column += head_width) {
        auto a = x.row(first + position).segment(column, half).array();
        auto b = x.row(first + position).segment(column + half, half).array();
        const Eigen::Array<float, 1, Eigen::Dynamic> turned = a * c - b * s;
        b = b * c + a * s;
        a = turned;
      }
    }
  }
};

}  // namespace catmerge::harness
