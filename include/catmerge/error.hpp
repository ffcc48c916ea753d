// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

// Every header of catmerge includes this one first, so that unsupported compiler settings give one
// sentence. (Only version.hpp needs nothing and may come first.)
//
// MSVC sets _MSVC_LANG in place of __cplusplus. GCC and Clang continue after an #error with a
// thousand more; including a header that does not exist stops them.
#if (defined(_MSVC_LANG) ? _MSVC_LANG : __cplusplus) <= 201703L || __cpp_concepts < 201907L
#error "catmerge needs C++20: compile with -std=c++20 (MSVC: /std:c++20)"
#include <C++20>
#endif

// GCC and Clang define __FINITE_MATH_ONLY__ as 0 or 1, and _M_FP_FAST is MSVC's /fp:fast.
#if defined(__FAST_MATH__) || defined(_M_FP_FAST) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "catmerge looks for NaN: compile without -ffast-math, -ffinite-math-only, /fp:fast"
#endif

#include <stdexcept>
#include <string>

/// Task vectors, statistics of features, conflicts, trims and merging methods, on a program's own
/// tensors. Everywhere: weights are d_out x d_in, rows of features n x d_in, vectors d x 1; a call
/// takes its context last and makes one if none is passed; bad input throws catmerge::error.
namespace catmerge {

/// The error of bad input: shapes that do not fit, non-finite numbers, malformed files. The message
/// names the tensor (and the file, if there is one), the expected value and the value found. Errors
/// of memory and of the standard library pass through unchanged.
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The error of an input that holds an infinity or NaN. A program may catch it to treat such a
/// tensor.
class not_finite_error : public error {
 public:
  using error::error;
};

}  // namespace catmerge
