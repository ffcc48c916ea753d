// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <harness/networks/activations.hpp>
#include <harness/networks/weights.hpp>
#include <optional>
#include <string_view>

/// Layers common to the families of transformers. Each takes the rows of a chunk, tokens x width,
/// and does not know samples.
namespace catmerge::harness {

/// y = x W^T + b.  W: d_out x d_in as in checkpoints; b: d_out or absent.
struct linear {
  weight kernel;
  std::optional<weight> bias;

  matrix operator()(const matrix_view& x) const {
    const matrix_view w = kernel.rows();
    matrix y(x.rows(), w.rows());
    y.noalias() = x * w.transpose();
    if (bias) y.rowwise() += bias->vector();
    return y;
  }
};

/// How a norm normalises each row, and by what it multiplies the result.
enum class norm_kind : unsigned char {
  layer,                ///< (x - mean) / sqrt(variance + eps), times gamma
  root_mean_square,     ///< x / sqrt(mean of squares + eps), times gamma
  root_mean_square_one  ///< x / sqrt(mean of squares + eps), times 1 + gamma (Gemma)
};

/// y = gamma o normalised(x) + beta, each row alone; beta may be absent. The variance is the mean
/// of squares (not Bessel's).
struct norm {
  norm_kind kind = norm_kind::layer;
  weight scale;                 ///< gamma, d
  std::optional<weight> shift;  ///< beta, d
  float epsilon = 0;

  /// The normalised input, which is the input of the scale.
  matrix normalise(const matrix_view& x) const {
    matrix y(x.rows(), x.cols());
    const auto width = static_cast<float>(x.cols());
    for (index_t i = 0; i < x.rows(); ++i) {
      if (kind == norm_kind::layer) {
        y.row(i) = x.row(i).array() - x.row(i).sum() / width;
      } else {
        y.row(i) = x.row(i);
      }
      y.row(i) *= 1.0F / std::sqrt(y.row(i).squaredNorm() / width + epsilon);
    }
    return y;
  }

  /// gamma o y + beta, in place.
  void scale_and_shift(matrix& y) const {
    if (kind == norm_kind::root_mean_square_one) {
      y.array().rowwise() *= scale.vector().array() + 1.0F;
    } else {
      y.array().rowwise() *= scale.vector().array();
    }
    if (shift) y.rowwise() += shift->vector();
  }
};

/// The nonlinearity of an MLP.
enum class activation : unsigned char {
  gelu,        ///< x Phi(x), by the error function
  gelu_tanh,   ///< its approximation by tanh
  quick_gelu,  ///< x / (1 + exp(-1.702 x))
  silu         ///< x / (1 + exp(-x))
};

/// The activation of a name in configurations ("hidden_act"); none for others.
inline std::optional<activation> activation_named(std::string_view name) {
  if (name == "gelu") return activation::gelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return activation::gelu_tanh;
  if (name == "quick_gelu") return activation::quick_gelu;
  if (name == "silu" || name == "swish") return activation::silu;
  return std::nullopt;
}

inline void activate(activation kind, matrix& x) {
  switch (kind) {
    case activation::gelu:
      x = x.unaryExpr([](float v) {
        constexpr float root_half = 0.70710678118654752F;
        return 0.5F * v * (1.0F + std::erf(v * root_half));
      });
      return;
    case activation::gelu_tanh:
      x = x.unaryExpr([](float v) {
        constexpr float root = 0.79788456080286536F;  // of 2 / pi
        return 0.5F * v * (1.0F + std::tanh(root * (v + 0.044715F * v * v * v)));
      });
      return;
    case activation::quick_gelu: x = x.array() / (1.0F + (-1.702F * x.array()).exp()); return;
    case activation::silu: x = x.array() / (1.0F + (-x.array()).exp()); return;
  }
}

inline void apply_tanh(matrix& x) {
  x = x.unaryExpr([](float v) { return std::tanh(v); });
}

}  // namespace catmerge::harness
