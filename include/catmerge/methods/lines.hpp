// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/then.hpp>
#include <cmath>
#include <functional>
#include <optional>
#include <string>

namespace catmerge {

/// Settings of LiNeS. For a sum of K task vectors the authors' `first` is 1 / K, and they search
/// `last` on validation data. The defaults are this library's.
struct lines_options {
  double first = 0.25;  ///< the factor of the first layer, and outside of the layers
  double last = 1;      ///< the factor of the last layer
};

/// Throws catmerge::error for a factor that is not finite.
inline void validate(const lines_options& options) {
  if (!std::isfinite(options.first) || !std::isfinite(options.last))
    throw error("LiNeS: first and last must be finite numbers");
}

/// LiNeS (Wang, Dimitriadis, Favero, Ortiz-Jimenez, Fleuret, Frossard, "LiNeS: Post-training Layer
/// Scaling Prevents Forgetting and Enhances Model Merging", ICLR 2025, arXiv 2410.17146), a
/// merged_transform (then.hpp): a factor that grows with depth,
///
///     tau <- (first + (last - first) d) tau,   d = l / (L - 1) for layer l of L
///
/// For parameters outside of the layers d is 0, as in the authors' code. Applies to every
/// parameter.
///
/// @code
/// lines_transform by_depth{{0.25, 1}, model::layer_depths(names)};
/// auto method = then{task_arithmetic_method{0.5}, by_depth};
/// @endcode
struct lines_transform {
  lines_options options{};  ///< checked by validate in each apply
  /// d by the name of a tensor, from 0 to 1; none outside of the layers.
  /// model::layer_depths (model/layer_depths.hpp) reads it from the names.
  std::function<std::optional<double>(const std::string&)> depth{};

  /// False: the factor depends on the name alone.
  static constexpr bool reads_vectors() { return false; }

  /// Scales tau. Throws catmerge::error without a depth.
  template <class Context>
  void apply(Context& c, const layer_problem<Context>& p, vector_list<Context>,
             const typename Context::view& tau, layer_report&) const {
    validate(options);
    if (!depth) throw error("LiNeS: the depths of layers are not known");
    const double d = depth(p.names.tensor()).value_or(0);
    c.scale(options.first + (options.last - options.first) * d, tau);
  }
};

}  // namespace catmerge
