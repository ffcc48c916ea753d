// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/numeric/eigen_search.hpp>
#include <catmerge/tensor/require.hpp>
#include <cmath>

namespace catmerge {

namespace detail {

struct spectral_norm_fn {
  /// ||W||_2, from the largest eigenpair of W W^T or W^T W, whichever is smaller.
  template <class T, class Context>
  double operator()(const T& w, Context& c) const {
    static_assert(require_matrix<T>());
    static_assert(require_context_for<Context, T>());
    const typename Context::const_view v = const_view_of(w);
    if (!c.all_finite(v)) throw error("spectral_norm: the matrix holds a value that is not finite");
    const bool wide = c.rows(v) < c.columns(v);
    const index_t size = wide ? c.rows(v) : c.columns(v), other = wide ? c.columns(v) : c.rows(v);
    const op first = wide ? op::none : op::transpose, second = wide ? op::transpose : op::none;
    const auto pairs = largest_eigenpairs(
        c, size, 1, [&](typename Context::const_view x, typename Context::view y) {
          auto image = c.make(scalar_type::f64, c.rows(x), other);
          c.multiply(1, x, op::none, v, first, 0, image);
          c.multiply(1, image, op::none, v, second, 0, y);
        });
    double largest = pairs.values.empty() ? 0.0 : pairs.values.front();
    if (!pairs.converged) {  // a lower bound only; Lipschitz bounds need the norm
      auto square = c.make(scalar_type::f64, size, size);
      c.multiply(1, v, first, v, second, 0, square);
      largest = c.symmetric_eigen(square, 0).back();
    }
    return std::sqrt((std::max)(0.0, largest));
  }

  template <class T>
  double operator()(const T& w) const {
    static_assert(require_matrix<T>());
    auto c = context_of(w);
    return (*this)(w, c);
  }
};

}  // namespace detail

/// ||W||_2, the largest singular value: the Lipschitz constant of x -> W x.
/// @code
/// double gamma = spectral_norm(W);  // and (W, context)
/// @endcode
/// W: d_out x d_in. Found by largest_eigenpairs of W W^T or W^T W. Throws catmerge::error where W
/// holds a value that is not finite.
inline constexpr detail::spectral_norm_fn spectral_norm{};

}  // namespace catmerge
