// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/tensor/entry_functions.hpp>
#include <cmath>
#include <cstddef>

namespace catmerge::detail {

/// x = f(x) for n entries; one loop per function, which compilers can vectorise.
template <class C>
void apply(entry_function f, C a, C* x, std::ptrdiff_t n) {
  const auto each = [&](auto function) {
    for (std::ptrdiff_t i = 0; i < n; ++i) x[i] = function(x[i]);
  };
  switch (f) {
    case entry_function::absolute: return each([](C v) { return std::abs(v); });
    case entry_function::sign: return each([](C v) { return static_cast<C>((v > 0) - (v < 0)); });
    case entry_function::exponential: return each([](C v) { return std::exp(v); });
    case entry_function::tangent: return each([](C v) { return std::tanh(v); });
    case entry_function::at_least: return each([a](C v) { return v < a ? a : v; });
    case entry_function::at_most: return each([a](C v) { return v > a ? a : v; });
    case entry_function::above: return each([a](C v) { return v > a ? C(1) : C(0); });
  }
}

}  // namespace catmerge::detail
