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

/// y = gamma o (x - mean) / sqrt(variance + eps) + beta, each row alone; the variance is the mean
/// of squares (not Bessel's).
struct layer_norm {
  weight scale;  ///< gamma, d
  weight shift;  ///< beta, d
  float epsilon;

  /// The normalised input, which is the input of the scale.
  matrix normalise(const matrix_view& x) const {
    matrix y(x.rows(), x.cols());
    const auto width = static_cast<float>(x.cols());
    for (index_t i = 0; i < x.rows(); ++i) {
      y.row(i) = x.row(i).array() - x.row(i).sum() / width;
      y.row(i) *= 1.0F / std::sqrt(y.row(i).squaredNorm() / width + epsilon);
    }
    return y;
  }

  /// gamma o y + beta, in place.
  void scale_and_shift(matrix& y) const {
    y.array().rowwise() *= scale.vector().array();
    y.rowwise() += shift.vector();
  }
};

/// The nonlinearity of an MLP.
enum class activation : unsigned char {
  gelu,       ///< x Phi(x), by the error function
  quick_gelu  ///< x / (1 + exp(-1.702 x))
};

/// The activation of a name in configurations ("hidden_act"); none for others, such as the tanh
/// approximations ("gelu_new", "gelu_pytorch_tanh").
inline std::optional<activation> activation_named(std::string_view name) {
  if (name == "gelu") return activation::gelu;
  if (name == "quick_gelu") return activation::quick_gelu;
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
    case activation::quick_gelu: x = x.array() / (1.0F + (-1.702F * x.array()).exp()); return;
  }
}

inline void apply_tanh(matrix& x) {
  x = x.unaryExpr([](float v) { return std::tanh(v); });
}

}  // namespace catmerge::harness
