// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

/// @file
/// What catmerge asks of the compiler. Every header begins with this one, so that a program that is
/// compiled otherwise gets one sentence. (Only version.hpp needs nothing and may be read first.)

// MSVC says in _MSVC_LANG what others say in __cplusplus. GCC and Clang go on after an #error, into
// a thousand more: a header that nobody has ends that.
#if (defined(_MSVC_LANG) ? _MSVC_LANG : __cplusplus) <= 201703L || __cpp_concepts < 201907L
#error "catmerge needs C++20: compile with -std=c++20 (MSVC: /std:c++20)"
#include <C++20>
#endif

// GCC and Clang define __FINITE_MATH_ONLY__ as 0 or 1, and _M_FP_FAST is MSVC's /fp:fast.
#if defined(__FAST_MATH__) || defined(_M_FP_FAST) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "catmerge looks for NaN: compile without -ffast-math, -ffinite-math-only, /fp:fast"
#endif
