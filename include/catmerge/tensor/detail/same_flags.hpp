// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/error.hpp>

/// @file
/// All files of a program that use Eigen have to be compiled for the same processor (-march, -mavx2
/// and the like): Eigen takes memory in a way that depends on it, and what one file has taken
/// another gives back, perhaps in its own way. That crashes, with catmerge or without. Where files
/// that GCC or MSVC compiled disagree, the linker stops with the name or the text below. (Clang's
/// are not looked at, nor what -flto or --gc-sections have changed, nor shared libraries, which are
/// linked apart.)
///
/// The way out is the same flags for all files, and a shared library for each processor where a
/// program has code for several. -DEIGEN_MAX_ALIGN_BYTES=64 in all files ends the crash too, but
/// functions that files have in common are then still compiled for one of the processors.

#if defined(_MSC_VER)
#define CATMERGE_TEXT_OF(x) #x
#define CATMERGE_TEXT(x) CATMERGE_TEXT_OF(x)
#pragma detect_mismatch("catmerge: EIGEN_MAX_ALIGN_BYTES", CATMERGE_TEXT(EIGEN_MAX_ALIGN_BYTES))
#undef CATMERGE_TEXT
#undef CATMERGE_TEXT_OF
#elif defined(__ELF__) && defined(__GNUC__) && !defined(__clang__)
// Linkers keep an inline function, with its other names, of one file and drop it from the rest. So
// each file asks for it by a name that holds the alignment, which the file that was kept must have.
#define CATMERGE_JOINED(a, b) a##b
#define CATMERGE_JOIN(a, b) CATMERGE_JOINED(a, b)
#define CATMERGE_NAME                                                               \
  CATMERGE_JOIN(catmerge_all_files_need_the_same_m_flags_or_EIGEN_MAX_ALIGN_BYTES_, \
                EIGEN_MAX_ALIGN_BYTES)
extern "C" {
[[gnu::used, gnu::visibility("hidden")]] inline void catmerge_memory_of_eigen() noexcept {}
[[gnu::alias("catmerge_memory_of_eigen"), gnu::visibility("hidden")]] void CATMERGE_NAME() noexcept;
}
namespace catmerge::detail {
[[gnu::used]] static void (*const memory_of_eigen)() noexcept = CATMERGE_NAME;
}  // namespace catmerge::detail
#undef CATMERGE_NAME
#undef CATMERGE_JOIN
#undef CATMERGE_JOINED
#endif
